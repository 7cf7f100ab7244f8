"""A night that publishes to S3 instead of a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from moto.server import ThreadedMotoServer

from tests.flows.panels import monthly_panel, write_workload

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def test_a_night_publishes_to_s3_by_settings_alone(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.nightly import nightly
    from flows.parameters import PresetName

    for name, value in {
        "HOME": str(tmp_path / "home"),
        "PROCESSES": "0",
        "STORE": "s3://forecasts-bucket/team",
        "S3_ENDPOINT_URL": endpoint,
        "S3_ACCESS_KEY_ID": "key",
        "S3_SECRET_ACCESS_KEY": "very-secret-word",
        "S3_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"NIGHTCAST_{name}", value)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="very-secret-word",
    )
    client.create_bucket(Bucket="forecasts-bucket")
    spec = write_workload(tmp_path, monthly_panel(series=6))

    first: Any = nightly(workload_file=str(spec), preset=PresetName.ci)
    second: Any = nightly(workload_file=str(spec), preset=PresetName.ci)

    body = client.get_object(Bucket="forecasts-bucket", Key="team/forecasts/tiny/current.json")["Body"].read()
    rows = pl.read_parquet(
        io.BytesIO(
            client.get_object(Bucket="forecasts-bucket", Key="team/forecasts/tiny/2021-12-01/forecast.parquet")[
                "Body"
            ].read()
        )
    )
    assert json.loads(body)["night_id"] == first["night_id"]
    assert rows.get_column("unique_id").n_unique() == 6
    assert second["status"] == "already published"
    kept = [p for p in (tmp_path / "home").rglob("*") if p.is_file()]
    assert not [p for p in kept if b"very-secret-word" in p.read_bytes()]

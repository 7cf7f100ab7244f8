"""Fetching public data sets, against a server on the loopback."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.sources.catalog import open_source
from nightcast.sources.fetch import fetch
from nightcast.sources.sheets import SHEETS
from nightcast.sources.spec import load_workload_file

WORKLOADS = Path(__file__).parents[2] / "workloads"
NOW = datetime(2024, 1, 1)
SODIR = (
    "prfInformationCarrier,prfYear,prfMonth,prfPrdOilNetMillSm3,prfPrdGasNetBillSm3,prfPrdNGLNetMillSm3,"
    "prfPrdCondensateNetMillSm3,prfPrdOeNetMillSm3,prfPrdProducedWaterInFieldMillSm3,prfNpdidInformationCarrier\r\n"
)


class _Origin:
    """A server that answers every address with one body."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.cut = 0
        self.asked: list[str] = []
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(origin.status)
                self.send_header("Content-Length", str(len(origin.body)))
                self.end_headers()
                self.wfile.write(origin.body[: len(origin.body) - origin.cut])

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def open(self, url: str) -> AbstractContextManager[Any]:
        self.asked.append(url)
        port = self.server.server_address[1]
        direct = build_opener(ProxyHandler({}))
        response: AbstractContextManager[Any] = direct.open(f"http://127.0.0.1:{port}/data", timeout=5)
        return response


@pytest.fixture
def origin() -> Iterator[_Origin]:
    served = _Origin()
    thread = threading.Thread(target=served.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


def _deck() -> bytes:
    lines = ["WELSPECS\n 'P-1' 'MANI-B' 3 4 1* 'OIL' /\n/"]
    for number in range(12):
        lines.append("WCONHIST\n 'P-1' OPEN RESV 90.0 10.0 1 /\n/")
        month = ("DEC", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV")[number]
        lines.append(f"DATES\n 1 '{month}' {1997 + (number > 0)} /\n/")
    return "\n".join(lines).encode()


def test_the_deck_of_norne_is_fetched_and_its_workload_reads_it(tmp_path: Path, origin: _Origin) -> None:
    origin.body = _deck()

    result = fetch("norne", tmp_path / "data" / "norne", opener=origin.open)

    assert result.fetched
    assert result.path.read_bytes() == origin.body
    assert result.sha256 == hashlib.sha256(origin.body).hexdigest()
    assert origin.asked == [SHEETS["norne"].url]
    spec = load_workload_file(WORKLOADS / "norne.yaml")
    raw = open_source(spec, tmp_path).read(as_of=None, data=None, now=NOW)
    assert raw.frame.height == 12


def test_the_origin_is_recorded_beside_the_file(tmp_path: Path, origin: _Origin) -> None:
    origin.body = _deck()

    result = fetch("norne", tmp_path, opener=origin.open)

    record = json.loads((tmp_path / "origin.json").read_text())
    assert (record["url"], record["sha256"], record["size"]) == (result.url, result.sha256, result.size)
    assert "Open Database License" in record["licence"]
    assert datetime.fromisoformat(record["fetched_at"]).tzinfo is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["BC0407_HIST01122006.SCH", "origin.json"]


def test_an_intact_download_is_kept_and_a_changed_one_fetched_again(tmp_path: Path, origin: _Origin) -> None:
    origin.body = _deck()
    first = fetch("norne", tmp_path, opener=origin.open)

    second = fetch("norne", tmp_path, opener=origin.open)
    first.path.write_text("scribbled over")
    third = fetch("norne", tmp_path, opener=origin.open)

    assert (second.fetched, third.fetched) == (False, True)
    assert second.sha256 == first.sha256
    assert third.path.read_bytes() == origin.body


def test_the_fields_of_sodir_become_the_table_their_workload_names(tmp_path: Path, origin: _Origin) -> None:
    rows = [f"FRAM,{2020 + i // 12},{i % 12 + 1},0.1,0.2,0,0,0.3,0.02,7\r\n" for i in range(24)]
    origin.body = ("\ufeff" + SODIR + "".join(rows)).encode()

    result = fetch("sodir_fields", tmp_path / "data" / "sodir_fields", opener=origin.open)

    assert result.path.name == "monthly.parquet"
    raw = open_source(load_workload_file(WORKLOADS / "sodir_fields.yaml"), tmp_path).read(
        as_of=None, data=None, now=NOW
    )
    assert raw.frame.get_column("y")[0] == pytest.approx(120_000 / 31)
    assert raw.as_of == datetime(2021, 12, 1)


@pytest.mark.parametrize(
    "header", ["API,Year,Month,Oil,Gas,Water", "api,date,oil_bbl,gas_mcf,water_bbl"], ids=["years", "dates"]
)
def test_the_wells_of_eddy_become_the_table_their_workload_names(tmp_path: Path, origin: _Origin, header: str) -> None:
    dated = "date" in header
    rows = [f"300150,{2018},{i + 1}" if not dated else f"300150,2018-{i + 1:02d}-01" for i in range(12)]
    table = header + "\n" + "".join(f"{row},310,5,\n" if i == 3 else f"{row},310,5,62\n" for i, row in enumerate(rows))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("eddy/readme.csv", "x\n")
        archive.writestr("eddy/production.csv", table)
    origin.body = buffer.getvalue()

    fetch("nm_eddy_wells", tmp_path / "data" / "nm_eddy_wells", opener=origin.open)

    raw = open_source(load_workload_file(WORKLOADS / "nm_eddy_wells.yaml"), tmp_path).read(
        as_of=None, data=None, now=NOW
    )
    assert raw.frame.get_column("unique_id").unique().to_list() == ["300150"]
    assert raw.frame.get_column("y")[0] == pytest.approx(372 * 0.158987295 / 31)
    assert raw.frame.filter(pl.col("y").is_null()).height == 1


@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        ("norne", b"", "answered with nothing"),
        ("norne", b"<!DOCTYPE html><title>Sign in", "a web page instead of the data"),
        ("nm_eddy_wells", b"no archive", "is no zip archive"),
        ("sodir_fields", b"field,year\nFRAM,2020\n", "lacks oil_mill_sm3.*month.*it has field, year"),
    ],
)
def test_an_origin_that_answers_something_else_leaves_no_file(
    tmp_path: Path, origin: _Origin, name: str, body: bytes, match: str
) -> None:
    origin.body = body

    with pytest.raises(SourceError, match=match):
        fetch(name, tmp_path, opener=origin.open)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_gives_the_steps_by_hand_the_home_page_and_the_licence(tmp_path: Path, origin: _Origin) -> None:
    origin.status = 404

    with pytest.raises(SourceError) as caught:
        fetch("sodir_fields", tmp_path, opener=origin.open)

    message = str(caught.value)
    for word in ("404", "by hand", "https://factpages.sodir.no", "NLOD", str(tmp_path)):
        assert word in message
    assert "\n" not in message


def test_a_broken_transfer_leaves_an_earlier_file_alone(tmp_path: Path, origin: _Origin) -> None:
    (tmp_path / "BC0407_HIST01122006.SCH").write_text("earlier")
    origin.body, origin.cut = _deck() * 100, 50_000

    with pytest.raises(SourceError, match=r"stopped after \d+ of \d+ bytes.*by hand"):
        fetch("norne", tmp_path, opener=origin.open)

    assert (tmp_path / "BC0407_HIST01122006.SCH").read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_network_the_error_is_one_line(tmp_path: Path) -> None:
    def offline(url: str) -> AbstractContextManager[Any]:
        raise OSError("no route to host")

    with pytest.raises(SourceError, match=r"no route to host.*by hand"):
        fetch("norne", tmp_path, opener=offline)


@pytest.mark.parametrize(("name", "word"), [("volve", "accept the terms"), ("wells", "nothing to fetch")])
def test_what_cannot_be_fetched_by_program_says_how_to_get_it(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(SourceError, match=word):
        fetch(name, tmp_path)


def test_an_unknown_name_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'nornee'.*did you mean 'norne'"):
        fetch("nornee", tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, origin: _Origin) -> None:
    origin.body = _deck()
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(SourceError, match="cannot be written"):
        fetch("norne", tmp_path / "file", opener=origin.open)

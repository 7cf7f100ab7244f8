import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError, PublishError, SourceError
from nightcast.publishing import (
    Lease,
    Publication,
    as_of_key,
    find_published,
    forecast_bytes,
    list_publications,
    publish_night,
    read_current,
    read_forecast,
    read_lease,
)
from nightcast.storage import LocalStore, Store, open_store

MAY, JUNE = datetime(2024, 5, 1), datetime(2024, 6, 1)
NOON = datetime(2024, 6, 2, 12)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    server_module = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "endpoint_url": f"http://{host}:{port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "nobody",
        "aws_secret_access_key": "nothing",
    }
    open_store("s3://nights", **options).client.create_bucket(Bucket="nights")  # type: ignore[attr-defined]
    yield options
    server.stop()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return open_store(f"s3://nights/{tmp_path.name}", **request.getfixturevalue("s3"))


def forecast(level: float = 1.0, start: datetime = JUNE) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "unique_id": ["B", "A", "A", "B"],
            "ds": [start, start + timedelta(days=30), start, start + timedelta(days=30)],
            "horizon": pl.Series([1, 2, 1, 2], dtype=pl.Int32),
            "q50": [level, 2.0, 3.0, 4.0],
        }
    )


def publish(store: Store, night_id: str = "n1", as_of: datetime = MAY, level: float = 1.0, **rest: Any) -> Publication:
    manifest = rest.pop("manifest", {"commit": "abc"})
    return publish_night(
        store,
        workload="wells",
        as_of=as_of,
        night_id=night_id,
        forecast=forecast(level),
        manifest=manifest,
        extra=rest.pop("extra", {"report.html": b"<html>"}),
        **rest,
    )


def test_a_published_night_is_the_current_one_and_reads_back(store: Store) -> None:
    publication = publish(store)

    manifest, frame = read_current(store, "wells")
    assert (publication.already, publication.revision, publication.folder) == (
        False,
        1,
        "forecasts/wells/2024-05-01",
    )
    assert manifest == publication.manifest
    assert frame.equals(forecast().sort("unique_id", "ds"))
    assert store.read("forecasts/wells/2024-05-01/report.html") == b"<html>"


def test_the_manifest_counts_and_hashes_every_file(store: Store) -> None:
    import hashlib

    publication = publish(store, extra={"report.html": b"<html>", "members.parquet": forecast_bytes(forecast())})

    files = publication.manifest["files"]
    assert sorted(files) == ["forecast.parquet", "members.parquet", "report.html"]
    for name, facts in files.items():
        data = store.read(f"{publication.folder}/{name}")
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
        assert facts["bytes"] == len(data)
    assert (files["forecast.parquet"]["rows"], files["forecast.parquet"]["series"]) == (4, 2)
    assert (files["members.parquet"]["rows"], files["members.parquet"]["series"]) == (4, 2)
    assert publication.manifest["commit"] == "abc"
    assert publication.manifest["night_id"] == "n1"
    assert publication.manifest["as_of"] == "2024-05-01T00:00:00"


def test_the_same_night_is_published_once(store: Store) -> None:
    first = publish(store)
    before = {key: store.read(key) for key in store.list()}

    second = publish(store, level=9.0, manifest={"commit": "later"})

    assert second.already is True
    assert second.manifest == first.manifest
    assert {key: store.read(key) for key in store.list()} == before


def test_another_night_under_the_same_date_becomes_a_revision_and_the_current_one(store: Store) -> None:
    publish(store, "n1", level=1.0)
    second = publish(store, "n2", level=2.0)
    third = publish(store, "n3", level=3.0)

    assert (second.folder, third.folder) == ("forecasts/wells/2024-05-01.r2", "forecasts/wells/2024-05-01.r3")
    assert read_current(store, "wells")[0]["night_id"] == "n3"
    assert [p.night_id for p in list_publications(store, "wells")] == ["n1", "n2", "n3"]
    assert read_forecast(store, second)["q50"].to_list().count(2.0) == 2


def test_running_an_older_revision_again_does_not_move_the_pointer_back(store: Store) -> None:
    publish(store, "n1")
    publish(store, "n2", level=2.0)

    again = publish(store, "n1")

    assert again.already is True
    assert read_current(store, "wells")[0]["night_id"] == "n2"


def test_a_backfill_is_published_and_does_not_move_the_pointer_back(store: Store) -> None:
    publish(store, "june", JUNE)
    past = publish(store, "may", MAY)

    assert past.already is False
    assert read_current(store, "wells")[0]["night_id"] == "june"
    assert [p.night_id for p in list_publications(store, "wells")] == ["may", "june"]


def test_publications_are_found_by_date_and_by_night(store: Store) -> None:
    publish(store, "n1")
    publish(store, "n2", level=2.0)
    publish(store, "june", JUNE)

    def found(**by: Any) -> str | None:
        publication = find_published(store, "wells", **by)
        return publication.night_id if publication else None

    assert found() == "june"
    assert found(as_of=MAY) == "n2"
    assert found(as_of=MAY, night_id="n1") == "n1"
    assert found(night_id="n1") == "n1"
    assert found(as_of=JUNE, night_id="n1") is None
    assert found(as_of=datetime(2024, 7, 1)) is None
    assert find_published(store, "markets") is None


def test_a_date_does_not_find_the_times_of_its_own_day(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish(store, "noon", MAY.replace(hour=12))

    assert find_published(store, "wells", as_of=MAY) is None
    assert find_published(store, "wells", as_of=MAY.replace(hour=12)) is not None


def test_a_folder_without_a_manifest_is_not_a_publication(store: Store) -> None:
    store.write_once("forecasts/wells/2024-05-01/forecast.parquet", forecast_bytes(forecast()))

    assert list_publications(store, "wells") == []
    with pytest.raises(SourceError, match="nothing is published for 'wells'"):
        read_current(store, "wells")


def test_a_night_that_crashed_and_comes_back_with_other_bytes_is_published_beside_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second attempt may fall back to a simpler model; the morning must get its forecast all the same.
    store = LocalStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("nightcast.publishing._seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish(store, "n1", level=1.0)

    publication = publish(store, "n1", level=2.0)

    assert publication.folder == "forecasts/wells/2024-05-01.r2"
    assert [p.folder for p in list_publications(store, "wells")] == ["forecasts/wells/2024-05-01.r2"]
    assert 2.0 in read_current(store, "wells")[1]["q50"]


def test_damaged_bytes_are_not_handed_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish(store)
    (tmp_path / "forecasts/wells/2024-05-01/forecast.parquet").write_bytes(forecast_bytes(forecast(7.0)))

    with pytest.raises(SourceError, match="as its manifest or pointer says"):
        read_current(store, "wells")


def test_a_damaged_manifest_is_not_handed_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish(store)
    path = tmp_path / "forecasts/wells/2024-05-01/manifest.json"
    path.write_text(path.read_text().replace("abc", "abd"))

    with pytest.raises(SourceError, match="as its manifest or pointer says"):
        read_current(store, "wells")


def test_the_same_rows_in_another_order_and_chunking_give_the_same_bytes() -> None:
    frame = forecast()
    pieces = pl.concat([frame[2:], frame[:2]], rechunk=False)

    assert forecast_bytes(frame) == forecast_bytes(pieces) == forecast_bytes(frame.reverse())


def test_rows_are_written_sorted_by_series_and_time() -> None:
    import io

    written = pl.read_parquet(io.BytesIO(forecast_bytes(forecast())))

    assert written.select("unique_id", "ds").equals(forecast().select("unique_id", "ds").sort("unique_id", "ds"))
    assert written.schema == forecast().schema


@pytest.mark.parametrize("frame", [forecast().clear(), forecast().drop("unique_id")])
def test_an_empty_or_nameless_forecast_is_refused_before_anything_is_written(
    tmp_path: Path, frame: pl.DataFrame
) -> None:
    store = LocalStore(tmp_path)

    with pytest.raises(PublishError, match="publish the fallback forecast"):
        publish_night(store, workload="wells", as_of=MAY, night_id="n", forecast=frame, manifest={})
    assert store.list() == []


def test_as_of_dates_are_named_to_the_minute_in_utc() -> None:
    assert as_of_key(datetime(2024, 5, 1)) == "2024-05-01"
    assert as_of_key(datetime(2024, 5, 1, 6, 30)) == "2024-05-01T0630"
    assert as_of_key(datetime(2024, 5, 1, 1, tzinfo=timezone(timedelta(hours=2)))) == "2024-04-30T2300"
    with pytest.raises(ConfigError, match="has seconds"):
        as_of_key(datetime(2024, 5, 1, 6, 30, 5))


def test_names_that_cannot_be_object_names_are_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    with pytest.raises(ConfigError, match="night id 'a/b'"):
        publish(store, "a/b")
    with pytest.raises(ConfigError, match="workload name"):
        read_current(store, "../wells")
    with pytest.raises(ConfigError, match="reserved names"):
        publish(store, extra={"manifest.json": b""})
    with pytest.raises(ConfigError, match="cannot be the name of an object"):
        publish(store, extra={"../x": b""})
    assert store.list() == []


def test_a_manifest_that_contradicts_the_night_or_is_not_json_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    with pytest.raises(ConfigError, match="night_id = 'other'"):
        publish(store, manifest={"night_id": "other"})
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        publish(store, manifest={"score": float("nan")})
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        publish(store, manifest={"at": NOON})
    assert store.list() == []


# --- leases ---------------------------------------------------------------------------------------------------------


def test_a_live_lease_is_refused_to_others_with_owner_and_expiry(store: Store) -> None:
    Lease.acquire(store, "wells", "host-1:77", 600, NOON)

    with pytest.raises(PublishError, match=r"held by host-1:77 \(token 1\) until 2024-06-02 12:10:00 UTC.*start again"):
        Lease.acquire(store, "wells", "host-2:88", 600, NOON + timedelta(seconds=599))


def test_an_expired_lease_is_taken_over_with_the_next_token(store: Store) -> None:
    old = Lease.acquire(store, "wells", "host-1", 600, NOON)
    new = Lease.acquire(store, "wells", "host-2", 600, NOON + timedelta(seconds=600))

    assert (old.token, new.token) == (1, 2)
    new.check()
    with pytest.raises(PublishError, match=r"host-1 lost the lease 'wells' \(token 1\); it is with host-2 \(token 2\)"):
        old.check()
    with pytest.raises(PublishError, match="lost the lease"):
        old.renew(NOON)


def test_a_heartbeat_keeps_a_lease_alive(store: Store) -> None:
    lease = Lease.acquire(store, "wells", "host-1", 600, NOON)
    lease.renew(NOON + timedelta(seconds=500))

    with pytest.raises(PublishError, match="is held by host-1"):
        Lease.acquire(store, "wells", "host-2", 600, NOON + timedelta(seconds=1000))
    assert Lease.acquire(store, "wells", "host-2", 600, NOON + timedelta(seconds=1100)).token == 2


def test_a_released_lease_is_free_at_once_and_its_token_goes_on_rising(store: Store) -> None:
    lease = Lease.acquire(store, "wells", "host-1", 600, NOON)
    lease.release(NOON)
    lease.release(NOON)

    with pytest.raises(PublishError, match="lost the lease"):
        lease.renew(NOON)
    assert Lease.acquire(store, "wells", "host-2", 600, NOON).token == 2


def test_releasing_a_lease_that_was_taken_over_leaves_it_to_its_new_owner(store: Store) -> None:
    old = Lease.acquire(store, "wells", "host-1", 600, NOON)
    new = Lease.acquire(store, "wells", "host-2", 600, NOON + timedelta(hours=1))

    old.release(NOON)

    new.check()


def test_an_owner_that_restarts_gets_its_lease_back_with_the_next_token(store: Store) -> None:
    before = Lease.acquire(store, "wells", "host-1", 600, NOON)
    after = Lease.acquire(store, "wells", "host-1", 600, NOON)

    assert after.token == 2
    with pytest.raises(PublishError):
        before.check()


def test_a_live_lease_of_an_owner_known_to_be_dead_is_taken_over_and_the_dead_one_stays_out(store: Store) -> None:
    killed = Lease.acquire(store, "wells", "host-1:77", 600, NOON)

    with pytest.raises(PublishError, match="is held by host-1:77"):
        Lease.acquire(store, "wells", "host-1:88", 600, NOON, is_dead=lambda owner: owner == "host-1:99")
    new = Lease.acquire(store, "wells", "host-1:88", 600, NOON, is_dead=lambda owner: owner == "host-1:77")

    assert new.token == 2
    with pytest.raises(PublishError, match="lost the lease"):
        killed.renew(NOON)


def test_a_lease_can_be_looked_at_without_its_secret(store: Store) -> None:
    assert read_lease(store, "wells") is None

    Lease.acquire(store, "wells", "host-1", 600, NOON.replace(tzinfo=UTC))

    facts = read_lease(store, "wells")
    assert facts is not None
    assert (facts["owner"], facts["token"], facts["expires_at"]) == ("host-1", 1, "2024-06-02T12:10:00")
    assert "secret" not in facts


@pytest.mark.parametrize(("name", "seconds"), [("a/b", 60), ("", 60), ("a", 0), ("a", float("nan"))])
def test_a_lease_that_makes_no_sense_is_refused(tmp_path: Path, name: str, seconds: float) -> None:
    with pytest.raises(ConfigError, match="cannot be"):
        Lease.acquire(LocalStore(tmp_path), name, "me", seconds, NOON)


def test_a_lease_file_that_is_not_json_names_its_address(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write_once("leases/wells.json", b"\x00\x00")

    with pytest.raises(SourceError, match=r"leases/wells\.json is not a JSON object"):
        Lease.acquire(store, "wells", "me", 60, NOON)


def test_publishing_with_the_lease_in_hand_works_and_notes_the_token(store: Store) -> None:
    lease = Lease.acquire(store, "wells", "host-1", 600, NOON)

    publish(store, lease=lease)

    ledger = json.loads(store.read("forecasts/wells/ledger/2024-05-01.json"))
    assert ledger["tokens"] == {"wells": 1}

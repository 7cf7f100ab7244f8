"""Crashes, races and stale runs: whatever happens, a night is published once, whole, with the same bytes."""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nightcast.contracts.errors import PublishError
from nightcast.publishing import Lease, Publication, list_publications, publish_night, read_current
from nightcast.storage import LocalStore, Store, open_store

MAY = datetime(2024, 5, 1)
NOON = datetime(2024, 6, 2, 12)
EXTRA = {"report.html": b"<html>", "passport/model.json": b"{}"}


class Crash(Exception):
    pass


class Proxy:
    """A store that lets a test act at every write."""

    def __init__(self, inner: Store, at_write: Callable[[str, str], None]) -> None:
        self.inner, self.at_write = inner, at_write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write_once(self, key: str, data: bytes) -> bool:
        self.at_write("before", key)
        new = self.inner.write_once(key, data)
        self.at_write("after", key)
        return new

    def compare_and_swap(self, key: str, data: bytes, expected_tag: str | None) -> str:
        self.at_write("before", key)
        tag = self.inner.compare_and_swap(key, data, expected_tag)
        self.at_write("after", key)
        return tag


def forecast(level: float = 1.0) -> pl.DataFrame:
    return pl.DataFrame({"unique_id": ["A", "B"], "ds": [MAY, MAY], "q50": [level, 2.0]})


def publish(store: Any, night_id: str = "n1", as_of: datetime = MAY, level: float = 1.0, **rest: Any) -> Publication:
    return publish_night(
        store,
        workload="wells",
        as_of=as_of,
        night_id=night_id,
        forecast=forecast(level),
        manifest={"commit": "abc"},
        extra=EXTRA,
        **rest,
    )


def contents(store: Store) -> dict[str, bytes]:
    """What readers see: everything but the ledger and the leases."""
    return {key: store.read(key) for key in store.list("forecasts/") if "/ledger/" not in key}


def manifests(store: Store) -> list[str]:
    return [key for key in store.list() if key.endswith("manifest.json")]


def writes_of_a_clean_run(folder: Path) -> int:
    log: list[str] = []
    publish(Proxy(LocalStore(folder), lambda when, key: log.append(key) if when == "before" else None))
    return len(log)


def test_a_clean_run_writes_the_manifest_after_the_files_and_the_pointer_last(tmp_path: Path) -> None:
    log: list[str] = []
    publish(Proxy(LocalStore(tmp_path), lambda when, key: log.append(key) if when == "before" else None))

    published = [key.removeprefix("forecasts/wells/") for key in log if "/ledger/" not in key]
    assert published == [
        "2024-05-01/forecast.parquet",
        "2024-05-01/passport/model.json",
        "2024-05-01/report.html",
        "2024-05-01/manifest.json",
        "current.json",
    ]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_at_any_write_and_a_rerun_give_what_a_clean_run_gives(tmp_path: Path, moment: str) -> None:
    total = writes_of_a_clean_run(tmp_path / "clean")
    clean = contents(LocalStore(tmp_path / "clean"))
    assert total == 7

    for n in range(total):
        store = LocalStore(tmp_path / f"crash-{n}")
        publish(store, "april", datetime(2024, 4, 1))
        counter = itertools.count()

        def crash(when: str, key: str, n: int = n, counter: Iterator[int] = counter) -> None:
            if when == moment and next(counter) == n:
                raise Crash(key)

        with pytest.raises(Crash):
            publish(Proxy(store, crash))
        standing = read_current(store, "wells")[0]["night_id"]
        assert standing == ("n1" if (n, moment) == (total - 1, "after") else "april")

        publish(store)

        after = {key: data for key, data in contents(store).items() if "2024-04-01" not in key}
        assert after == clean
        assert manifests(store) == [
            "forecasts/wells/2024-04-01/manifest.json",
            "forecasts/wells/2024-05-01/manifest.json",
        ]
        assert read_current(store, "wells")[0]["night_id"] == "n1"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_followed_by_another_night_of_the_same_date_publishes_both_apart(tmp_path: Path, moment: str) -> None:
    for n in range(7):
        store = LocalStore(tmp_path / f"crash-{n}")
        counter = itertools.count()

        def crash(when: str, key: str, n: int = n, counter: Iterator[int] = counter) -> None:
            if when == moment and next(counter) == n:
                raise Crash(key)

        with pytest.raises(Crash):
            publish(Proxy(store, crash), "n1", level=1.0)
        publish(store, "n2", level=2.0)
        assert read_current(store, "wells")[0]["night_id"] == "n2"

        publish(store, "n1", level=1.0)

        assert sorted(p.night_id for p in list_publications(store, "wells")) == ["n1", "n2"]
        newest = list_publications(store, "wells")[-1]
        assert read_current(store, "wells")[0]["night_id"] == newest.night_id


def _together(*runs: Callable[[], Any]) -> list[Any]:
    outcomes: list[Any] = [None] * len(runs)
    gate = threading.Barrier(len(runs))

    def go(i: int) -> None:
        gate.wait()
        try:
            outcomes[i] = runs[i]()
        except PublishError as error:
            outcomes[i] = error

    threads = [threading.Thread(target=go, args=(i,)) for i in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("round_", range(4))
def test_of_two_runs_of_one_night_at_once_exactly_one_publishes(tmp_path: Path, round_: int) -> None:
    store = LocalStore(tmp_path)

    outcomes = _together(lambda: publish(store), lambda: publish(store))

    assert sorted(publication.already for publication in outcomes) == [False, True]
    assert outcomes[0].manifest == outcomes[1].manifest
    assert manifests(store) == ["forecasts/wells/2024-05-01/manifest.json"]


@pytest.mark.parametrize("round_", range(4))
def test_of_two_runs_of_one_night_with_other_bytes_exactly_one_publishes(tmp_path: Path, round_: int) -> None:
    store = LocalStore(tmp_path)

    outcomes = _together(lambda: publish(store, level=1.0), lambda: publish(store, level=2.0))

    published = [item for item in outcomes if isinstance(item, Publication)]
    assert len(manifests(store)) == 1
    assert sum(not publication.already for publication in published) == 1
    assert read_current(store, "wells")[0] == published[0].manifest


def test_two_nights_of_one_date_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    outcomes = _together(*(lambda i=i: publish(store, f"n{i}", level=float(i)) for i in range(3)))

    assert sorted(p.folder for p in outcomes) == [f"forecasts/wells/2024-05-01{end}" for end in ("", ".r2", ".r3")]
    assert read_current(store, "wells")[0]["revision"] == 3


def test_a_stale_token_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old = Lease.acquire(store, "wells", "host-1", 60, NOON)
    Lease.acquire(store, "wells", "host-2", 60, NOON + timedelta(hours=1))

    with pytest.raises(PublishError, match="lost the lease"):
        publish(store, lease=old)

    assert store.list("forecasts/") == []


@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize("level", [1.0, 2.0])
def test_a_run_that_wakes_up_after_a_takeover_publishes_nothing_of_its_own(
    tmp_path: Path, n: int, level: float
) -> None:
    # The old run stops before its n-th write; meanwhile the new one takes the lease and publishes the night.
    store = LocalStore(tmp_path)
    old = Lease.acquire(store, "wells", "host-1", 60, NOON)
    counter = itertools.count()
    published: list[Publication] = []

    def take_over(when: str, key: str) -> None:
        if when == "before" and next(counter) == n:
            new = Lease.acquire(store, "wells", "host-2", 60, NOON + timedelta(hours=1))
            published.append(publish(store, level=level, lease=new))

    try:
        publication = publish(Proxy(store, take_over), level=1.0, lease=old)
        assert publication.manifest == published[0].manifest
    except PublishError:
        assert n < 6
    assert len(manifests(store)) == 1
    assert read_current(store, "wells")[0] == published[0].manifest


def test_the_ledger_itself_refuses_an_old_token_between_check_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No check of the lease can close the gap between the check and the write; the ledger does.
    store = LocalStore(tmp_path)
    old = Lease.acquire(store, "wells", "host-1", 60, NOON)
    new = Lease.acquire(store, "wells", "host-2", 60, NOON + timedelta(hours=1))
    publish(store, "n2", level=2.0, lease=new)
    monkeypatch.setattr(Lease, "check", lambda self: None)

    with pytest.raises(PublishError, match="token 1 of the lease 'wells' is stale"):
        publish(store, "n1", level=1.0, lease=old)

    assert [p.night_id for p in list_publications(store, "wells")] == ["n2"]


def test_of_many_that_want_a_lease_at_once_one_gets_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    outcomes = _together(*(lambda i=i: Lease.acquire(store, "wells", f"host-{i}", 60, NOON) for i in range(4)))

    leases = [item for item in outcomes if isinstance(item, Lease)]
    assert [lease.token for lease in leases] == [1]
    leases[0].check()


def test_a_bucket_that_is_busy_now_and_then_delays_a_night_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_module = pytest.importorskip("moto.server")
    from botocore.awsrequest import AWSResponse

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store: Any = open_store(
            "s3://nights/busy",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
        )
        store.client.create_bucket(Bucket="nights")
        answers: list[int] = []

        class Body:
            def stream(self, **_: Any) -> Iterator[bytes]:
                yield b"<Error><Code>SlowDown</Code></Error>"

        def busy(request: Any, **_: Any) -> AWSResponse | None:
            answers.append(503 if len(answers) % 3 == 0 else 200)
            return AWSResponse(request.url, 503, {}, Body()) if answers[-1] == 503 else None

        store.client.meta.events.register("before-send.s3", busy)
        publish(store)

        assert answers.count(503) >= 5
        calm = LocalStore(tmp_path)
        publish(calm)
        assert contents(store) == contents(calm)
    finally:
        server.stop()

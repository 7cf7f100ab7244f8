import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightcast.contracts.errors import ConfigError, PublishError, SourceError
from nightcast.storage import LocalStore, S3Store, Store, open_store


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    server_module = pytest.importorskip("moto.server")
    import logging

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
    store = open_store("s3://nights", **options)
    assert isinstance(store, S3Store)
    store.client.create_bucket(Bucket="nights")
    yield options
    server.stop()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return open_store(f"s3://nights/{tmp_path.name}", **request.getfixturevalue("s3"))


def _break(store: Store, times: int, status: int = 503) -> list[str]:
    """Let the server answer the next requests with an error; returns the log of requests."""
    from botocore.awsrequest import AWSResponse

    class Body:
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

    log: list[str] = []

    def answer(request: Any, **_: Any) -> AWSResponse | None:
        log.append(request.method)
        return AWSResponse(request.url, status, {}, Body()) if len(log) <= times else None

    assert isinstance(store, S3Store)
    store.client.meta.events.register("before-send.s3", answer)
    return log


def test_what_was_written_once_is_read_back(store: Store) -> None:
    assert store.write_once("a/b.bin", b"\x00first") is True

    assert store.read("a/b.bin") == b"\x00first"
    assert store.exists("a/b.bin")


def test_writing_the_same_bytes_again_changes_nothing_and_says_so(store: Store) -> None:
    store.write_once("a", b"1")

    assert store.write_once("a", b"1") is False


def test_writing_other_bytes_again_is_refused_and_the_first_stay(store: Store) -> None:
    store.write_once("a", b"1")

    with pytest.raises(PublishError, match="already there with other bytes"):
        store.write_once("a", b"2")
    assert store.read("a") == b"1"


def test_reading_what_is_not_there_names_the_address(store: Store) -> None:
    with pytest.raises(SourceError, match=r"no object .*nothing/here"):
        store.read("nothing/here")
    with pytest.raises(SourceError, match="no object"):
        store.read_with_tag("nothing/here")
    assert not store.exists("nothing/here")


def test_a_swap_succeeds_with_the_tag_that_was_read(store: Store) -> None:
    first = store.compare_and_swap("p", b"1", None)
    data, tag = store.read_with_tag("p")
    second = store.compare_and_swap("p", b"2", tag)

    assert (data, tag) == (b"1", first)
    assert store.read_with_tag("p") == (b"2", second)


def test_a_swap_with_an_old_tag_is_refused_and_changes_nothing(store: Store) -> None:
    old = store.compare_and_swap("p", b"1", None)
    store.compare_and_swap("p", b"2", old)

    with pytest.raises(PublishError, match="changed by another writer"):
        store.compare_and_swap("p", b"3", old)
    assert store.read("p") == b"2"


def test_a_swap_that_expects_nothing_is_refused_where_there_is_something(store: Store) -> None:
    store.compare_and_swap("p", b"1", None)

    with pytest.raises(PublishError, match="changed by another writer"):
        store.compare_and_swap("p", b"2", None)


def test_a_swap_that_expects_something_is_refused_where_there_is_nothing(store: Store) -> None:
    tag = store.compare_and_swap("p", b"1", None)

    with pytest.raises(PublishError, match="no object"):
        store.compare_and_swap("q", b"2", tag)
    assert not store.exists("q")


def test_a_swap_repeated_because_its_reply_was_lost_counts_as_done(store: Store) -> None:
    old = store.compare_and_swap("p", b"1", None)
    new = store.compare_and_swap("p", b"2", old)

    assert store.compare_and_swap("p", b"2", old) == new


def test_keys_are_listed_sorted_below_a_prefix(store: Store) -> None:
    for key in ("x/b", "x/a/c", "xy", "z"):
        store.write_once(key, b"")

    assert store.list() == ["x/a/c", "x/b", "xy", "z"]
    assert store.list("x") == ["x/a/c", "x/b", "xy"]
    assert store.list("x/") == ["x/a/c", "x/b"]
    assert store.list("none/") == []


def test_more_keys_than_one_page_are_listed(s3: dict[str, Any]) -> None:
    store = open_store("s3://nights/pages", **s3)
    assert isinstance(store, S3Store)
    for i in range(5):
        store.write_once(f"k{i}", b"")
    paginator = store.client.get_paginator("list_objects_v2")

    store.client.get_paginator = lambda _: type(  # type: ignore[method-assign, assignment, misc, return-value]
        "Small", (), {"paginate": lambda self, **kw: paginator.paginate(**kw, PaginationConfig={"PageSize": 2})}
    )()

    assert store.list("k") == [f"k{i}" for i in range(5)]


def test_only_leases_can_be_deleted(store: Store) -> None:
    store.write_once("leases/n.json", b"{}")
    store.write_once("forecasts/n.json", b"{}")

    store.delete("leases/n.json")
    store.delete("leases/n.json")
    with pytest.raises(PublishError, match="refused to delete"):
        store.delete("forecasts/n.json")

    assert store.list() == ["forecasts/n.json"]


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/", ".locks/x", "a\\b", "a\nb", "x" * 901])
def test_a_key_that_could_leave_the_store_or_hide_in_it_is_refused(store: Store, key: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of an object"):
        store.write_once(key, b"")
    with pytest.raises(ConfigError):
        store.read(key)


def test_a_listing_cannot_leave_the_store(store: Store) -> None:
    with pytest.raises(ConfigError):
        store.list("../")


def test_of_many_threads_that_write_once_one_wins(store: Store) -> None:
    outcomes: list[str] = []

    def write(number: int) -> None:
        try:
            outcomes.append(f"new={store.write_once('race', str(number).encode())}")
        except PublishError:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["new=True"] + ["refused"] * 5


def test_no_swap_of_many_threads_is_lost(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.compare_and_swap("n", b"0 nobody", None)

    def add(writer: int) -> None:
        done = 0
        while done < 10:
            data, tag = store.read_with_tag("n")
            number = int(data.split()[0])
            # The writer's name: equal bytes count as written (the retry of a lost reply), whoever wrote them.
            try:
                store.compare_and_swap("n", f"{number + 1} writer-{writer}".encode(), tag)
                done += 1
            except PublishError:
                continue

    threads = [threading.Thread(target=add, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.read("n").split()[0] == b"30"


def test_no_temporary_file_stays_behind_and_none_is_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write_once("a/b", b"1")
    store.write_once("a/b", b"1")
    (tmp_path / "a" / ".deadbeef.tmp").write_bytes(b"left by a crash")

    assert store.list() == ["a/b"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".deadbeef.tmp", "b"]


def test_a_crash_before_the_link_leaves_nothing_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", die)
        with pytest.raises(KeyboardInterrupt):
            store.write_once("a", b"1")

    assert not store.exists("a")
    assert store.write_once("a", b"1") is True


def test_a_full_disk_is_a_publish_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(PublishError, match="No space left"):
        LocalStore(tmp_path).write_once("a", b"1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_system_without_hard_links_still_writes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = LocalStore(tmp_path)

    assert store.write_once("a", b"1") is True
    assert store.write_once("a", b"1") is False
    with pytest.raises(PublishError):
        store.write_once("a", b"2")


@pytest.mark.parametrize("times", [1, 3])
def test_a_busy_bucket_is_asked_again(s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    store = open_store(f"s3://nights/busy-{times}", **s3)
    log = _break(store, times)

    assert store.write_once("a", b"1") is True

    assert len(log) == times + 1
    assert store.read("a") == b"1"


def test_a_bucket_that_stays_busy_ends_in_an_error_and_not_in_a_wait(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    store = open_store("s3://nights/down", **s3)
    log = _break(store, 100)

    with pytest.raises(PublishError, match="SlowDown"):
        store.write_once("a", b"1")
    with pytest.raises(SourceError, match="SlowDown"):
        store.read("a")

    assert len(log) == 10


def test_a_body_that_breaks_off_is_fetched_again(s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ResponseStreamingError
    from botocore.response import StreamingBody

    store = open_store("s3://nights/broken", **s3)
    store.write_once("a", b"whole")
    whole, calls = StreamingBody.read, []

    def read(self: StreamingBody, amt: int | None = None) -> bytes:
        calls.append(1)
        if len(calls) < 3:
            raise ResponseStreamingError(error="connection reset")
        return whole(self, amt)

    monkeypatch.setattr(StreamingBody, "read", read)
    monkeypatch.setattr("nightcast.storage.time.sleep", lambda _: None)

    assert store.read("a") == b"whole"


def test_an_endpoint_that_is_not_there_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    store = open_store(
        "s3://nights",
        endpoint_url="http://127.0.0.1:9",
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    )

    with pytest.raises(SourceError, match="check the network, the endpoint"):
        store.read("a")


def test_a_missing_bucket_is_not_taken_for_a_missing_object(s3: dict[str, Any]) -> None:
    store = open_store("s3://not-there", **s3)

    with pytest.raises(SourceError, match="NoSuchBucket"):
        store.read("a")
    with pytest.raises(PublishError, match="NoSuchBucket"):
        store.write_once("a", b"")


def test_addresses_open_the_store_they_name(tmp_path: Path, s3: dict[str, Any]) -> None:
    assert open_store(str(tmp_path)).uri("a") == (tmp_path / "a").as_uri()
    assert open_store(f"file://{tmp_path}/with%20space").uri("a") == (tmp_path / "with space" / "a").as_uri()
    assert open_store("s3://nights/x/", **s3).uri("a") == "s3://nights/x/a"
    assert open_store("s3://nights", **s3).uri("a") == "s3://nights/a"
    assert open_store(str(tmp_path), endpoint_url=None).exists("a") is False


@pytest.mark.parametrize("url", ["", "gs://bucket/x", "s3://", "s3:///x", "s3://b/x?versionId=1"])
def test_an_address_of_no_known_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="store address"):
        open_store(url)


def test_importing_the_store_imports_no_client_library() -> None:
    code = (
        "import sys, nightcast.storage, nightcast.publishing; "
        "print([m for m in ('boto3', 'filelock') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"

"""Ways out and caches: a local folder or an S3 bucket behind one small protocol.

Three ways to write, and no plain overwrite: *write once* for results, *compare-and-swap* for the few objects that
change (pointers, ledgers, leases), and *delete* for leases alone. All are atomic: a reader sees an object whole or
not at all, also after a crash.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, runtime_checkable
from urllib.parse import unquote, urlsplit

from nightcast.contracts.errors import ConfigError, NightcastError, PublishError, SourceError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LEASES: Final = "leases/"
"""The only prefix under which objects may be deleted."""
_LOCK_SECONDS: Final = 60.0
_ATTEMPTS: Final = 5
_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_CONFLICT: Final = frozenset({"PreconditionFailed", "412"})
_BUSY: Final = frozenset({"ConditionalRequestConflict", "409", "OperationAborted"})
# Folders that hold the file system's own state never count as objects.
_HIDDEN: Final = "."
_T = TypeVar("_T")


@runtime_checkable
class Store(Protocol):
    """Bytes under keys such as `forecasts/wells/2024-05-01/manifest.json`."""

    def read(self, key: str) -> bytes:
        """Return the bytes of an object; `SourceError` if there is none."""
        ...

    def read_with_tag(self, key: str) -> tuple[bytes, str]:
        """Return the bytes and the tag that `compare_and_swap` wants; `SourceError` if there is none."""
        ...

    def write_once(self, key: str, data: bytes) -> bool:
        """Write a new object; False if it is there with the same bytes, `PublishError` if with other bytes."""
        ...

    def compare_and_swap(self, key: str, data: bytes, expected_tag: str | None) -> str:
        """Replace an object that still carries `expected_tag` (None: that does not exist); return the new tag.

        An object that already holds exactly `data` counts as written: the retry of a write whose reply was lost must
        not fail. Writers that need to know *who* wrote put something of their own into the bytes.

        Raises
        ------
        PublishError
            If the object carries another tag.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Keys that start with `prefix`, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Delete a lease; deleting what is not there is no error. `PublishError` for any other key."""
        ...

    def uri(self, key: str) -> str:
        """Address of an object for people and manifests."""
        ...


def check_key(key: str) -> str:
    """Return a key if it can be one.

    Raises
    ------
    ConfigError
        If it is empty, absolute, climbs out of the store, or has a segment that starts with a dot.
    """
    segments = key.split("/")
    if (
        not key
        or "\\" in key
        or any(not segment or segment.startswith(_HIDDEN) for segment in segments)
        or any(ord(letter) < 32 for letter in key)
        or len(key.encode()) > 900
    ):
        raise ConfigError(
            f"{key!r} cannot be the name of an object in a store",
            expected="segments joined by '/', none empty and none starting with a dot, at most 900 bytes",
            remedy="take the name of the workload, series or file out of such characters",
        )
    return key


def _check_prefix(prefix: str) -> str:
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def _absent(uri: str) -> SourceError:
    return SourceError(
        f"there is no object {uri}",
        expected="an object that was written before",
        remedy="check the store's address (NIGHTCAST_STORE) and that the night that writes it has run",
    )


def _other_bytes(uri: str) -> PublishError:
    return PublishError(
        f"{uri} is already there with other bytes",
        expected="the same bytes, since results are written once",
        remedy="keep the first result, or write the new one under a name of its own",
    )


def _moved(uri: str, expected: str | None, found: str | None) -> PublishError:
    def say(tag: str | None) -> str:
        return "no object" if tag is None else f"tag {tag.strip(chr(34))[:12]}"

    return PublishError(
        f"{uri} was changed by another writer ({say(found)})",
        expected=f"{say(expected)}, as it was read before",
        remedy="read it again and decide anew",
    )


def _only_leases(key: str) -> None:
    if not check_key(key).startswith(LEASES):
        raise PublishError(
            f"refused to delete {key!r}",
            expected=f"a key under {LEASES!r}; all other objects are kept",
            remedy="remove old results with the tools of the disk or the bucket (a lifecycle rule)",
        )


class LocalStore:
    """A folder as store; safe for many processes on one machine.

    Parameters
    ----------
    root
        Folder; made at the first write.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def read(self, key: str) -> bytes:
        """Return the bytes of an object.

        Raises
        ------
        SourceError
            If there is none, or it cannot be read.
        """
        path = self._path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _absent(self.uri(key)) from None
        except OSError as error:
            raise SourceError(
                f"{self.uri(key)} cannot be read ({error})",
                expected="a readable file",
                remedy="check the permissions and the disk",
            ) from error

    def read_with_tag(self, key: str) -> tuple[bytes, str]:
        """Return the bytes and their sha256, which is the tag."""
        data = self.read(key)
        return data, _sha256(data)

    def write_once(self, key: str, data: bytes) -> bool:
        """Write a new object; False if it is there with the same bytes.

        Raises
        ------
        PublishError
            If it is there with other bytes, or the disk refuses.
        """
        path = self._path(key)
        with self._writing(key):
            with self._written(path, data) as temporary:
                try:
                    os.link(temporary, path)  # fails if the name is taken: atomic and without a lock
                except FileExistsError:
                    pass
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                        raise
                    if self._claimed_without_links(key, temporary, path):
                        return True
                else:
                    _sync_folder(path.parent)
                    return True
            if path.read_bytes() == data:
                return False
        raise _other_bytes(self.uri(key))

    def _claimed_without_links(self, key: str, temporary: Path, path: Path) -> bool:
        # Some network and FAT file systems know no hard links: a lock then stands in for the atomic link.
        with self._lock(key):
            if path.exists():
                return False
            os.replace(temporary, path)
            _sync_folder(path.parent)
            return True

    def compare_and_swap(self, key: str, data: bytes, expected_tag: str | None) -> str:
        """Replace an object that still carries `expected_tag`; return the new tag.

        Raises
        ------
        PublishError
            If the object carries another tag, or the disk refuses.
        """
        path = self._path(key)
        with self._writing(key), self._lock(key):
            found = _sha256(path.read_bytes()) if path.exists() else None
            tag = _sha256(data)
            if found == tag:
                return tag
            if found == expected_tag:
                with self._written(path, data) as temporary:
                    os.replace(temporary, path)
                    _sync_folder(path.parent)
                return tag
        raise _moved(self.uri(key), expected_tag, found)

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> list[str]:
        """Keys that start with `prefix`, sorted."""
        folder = self.root / _check_prefix(prefix).rpartition("/")[0]
        keys: list[str] = []
        for here, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
            at = Path(here).relative_to(self.root)
            keys += [(at / name).as_posix() for name in files if not name.startswith(_HIDDEN)]
        return sorted(key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """Delete a lease."""
        _only_leases(key)
        with self._writing(key), self._lock(key):
            self._path(key).unlink(missing_ok=True)

    def uri(self, key: str) -> str:
        """The file's address, `file:///...`."""
        return self._path(key).as_uri()

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PublishError(
                f"{self.uri(key)} cannot be written ({error})",
                expected="a writable folder with free space",
                remedy="check the store's folder, its permissions and the free space",
            ) from error

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """A synced temporary file in the folder of `path`, gone afterwards."""
        _make_folder(path.parent)
        temporary = path.parent / f"{_HIDDEN}{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        from filelock import FileLock, Timeout

        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{_sha256(key.encode())[:32]}.lock", timeout=_LOCK_SECONDS)
        try:
            with lock:
                yield
        except Timeout as error:
            raise PublishError(
                f"{self.uri(key)} has been locked by another process for {_LOCK_SECONDS:.0f} s",
                expected="a lock that is held for milliseconds",
                remedy=f"look for a process that hangs on {error.lock_file}",
            ) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _make_folder(folder: Path) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Without this a power cut can lose the name of a file whose bytes are safe.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


class S3Store:
    """A prefix of an S3 bucket as store, with conditional writes (`If-None-Match`, `If-Match`).

    Works with Amazon S3 and with servers that honour both conditions on PUT.

    Parameters
    ----------
    bucket, prefix
        Where; the prefix may be empty.
    client
        A boto3 S3 client; `open_store` makes one that retries transient errors.
    """

    def __init__(self, bucket: str, prefix: str, client: S3Client) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.client = client

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    def read(self, key: str) -> bytes:
        """Return the bytes of an object.

        Raises
        ------
        SourceError
            If there is none, or the bucket does not answer.
        """
        return self.read_with_tag(key)[0]

    def read_with_tag(self, key: str) -> tuple[bytes, str]:
        """Return the bytes and the ETag."""
        found = self._get(key)
        if found is None:
            raise _absent(self.uri(key))
        return found

    def _get(self, key: str) -> tuple[bytes, str] | None:
        from botocore.exceptions import BotoCoreError, HTTPClientError, IncompleteReadError

        # botocore repeats a request until its headers are there; a body that breaks off is ours to fetch again.
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _, answer = self._ask(
                    lambda: self.client.get_object(Bucket=self.bucket, Key=self._name(key)), key, SourceError
                )
            except BotoCoreError as error:
                raise self._unreachable(key, error, SourceError) from error
            if answer is None:
                return None
            try:
                return answer["Body"].read(), answer["ETag"]
            except (HTTPClientError, IncompleteReadError) as error:
                if attempt == _ATTEMPTS:
                    raise self._unreachable(key, error, SourceError) from error
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("the loop returns or raises")

    def write_once(self, key: str, data: bytes) -> bool:
        """Write a new object; False if it is there with the same bytes.

        Raises
        ------
        PublishError
            If it is there with other bytes, or the bucket refuses.
        """
        if self._put(key, data, {"IfNoneMatch": "*"}) is not None:
            return True
        if self.read(key) == data:
            return False
        raise _other_bytes(self.uri(key))

    def compare_and_swap(self, key: str, data: bytes, expected_tag: str | None) -> str:
        """Replace an object that still carries the ETag `expected_tag`; return the new ETag.

        Raises
        ------
        PublishError
            If the object carries another tag, or the bucket refuses.
        """
        condition = {"IfNoneMatch": "*"} if expected_tag is None else {"IfMatch": expected_tag}
        tag = self._put(key, data, condition)
        if tag is not None:
            return tag
        found = self._get(key)
        if found is not None and found[0] == data:
            return found[1]
        raise _moved(self.uri(key), expected_tag, None if found is None else found[1])

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        """The new ETag, or None if the condition did not hold."""
        from botocore.exceptions import BotoCoreError

        def put() -> str:
            options: dict[str, Any] = condition
            return self.client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data, **options)["ETag"]

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                code, tag = self._ask(put, key, PublishError)
            except BotoCoreError as error:
                raise self._unreachable(key, error, PublishError) from error
            if code not in _BUSY:
                return None if code else tag
            time.sleep(0.05 * 2**attempt)  # S3 asks to repeat a conditional write that met another one in flight
        raise PublishError(
            f"{self.uri(key)} is being written by others without a pause",
            expected="a free moment",
            remedy="run the night again",
        )

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        from botocore.exceptions import BotoCoreError

        try:
            code, _ = self._ask(
                lambda: self.client.head_object(Bucket=self.bucket, Key=self._name(key)), key, SourceError
            )
        except BotoCoreError as error:
            raise self._unreachable(key, error, SourceError) from error
        return not code

    def list(self, prefix: str = "") -> list[str]:
        """Keys that start with `prefix`, sorted."""
        from botocore.exceptions import BotoCoreError

        _check_prefix(prefix)
        root = f"{self.prefix}/" if self.prefix else ""

        def pages() -> list[str]:
            found: list[str] = []
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix):
                found += [item["Key"].removeprefix(root) for item in page.get("Contents", [])]
            return found

        try:
            _, keys = self._ask(pages, prefix or "*", SourceError)
        except BotoCoreError as error:
            raise self._unreachable(prefix or "*", error, SourceError) from error
        return sorted(keys or [])

    def delete(self, key: str) -> None:
        """Delete a lease."""
        from botocore.exceptions import BotoCoreError

        _only_leases(key)
        try:
            self._ask(lambda: self.client.delete_object(Bucket=self.bucket, Key=self._name(key)), key, PublishError)
        except BotoCoreError as error:
            raise self._unreachable(key, error, PublishError) from error

    def uri(self, key: str) -> str:
        """The object's address, `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self._name(key)}"

    def _ask(self, call: Callable[[], _T], key: str, kind: type[NightcastError]) -> tuple[str, _T | None]:
        """Answer and "", or None and the code of a refusal that the caller knows how to take."""
        from botocore.exceptions import ClientError

        try:
            return "", call()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _ABSENT | _CONFLICT | _BUSY:
                return code, None
            raise kind(
                f"s3://{self.bucket}/{self.prefix} refused {error.operation_name} of {key!r} ({error})",
                expected="a bucket that exists and credentials that may read and write under the prefix",
                remedy="check the store's address, the endpoint and the credentials in the environment",
            ) from error

    def _unreachable(self, key: str, error: Exception, kind: type[NightcastError]) -> NightcastError:
        return kind(
            f"s3://{self.bucket} does not answer for {key!r} ({error})",
            expected=f"an answer within {_ATTEMPTS} attempts",
            remedy="check the network, the endpoint and the credentials in the environment, then run it again",
        )


def open_store(url: str, **s3_options: Any) -> Store:
    """Open a store by its address.

    Parameters
    ----------
    url
        A path, `file:///path` or `s3://bucket/prefix`.
    s3_options
        Options of the boto3 client, used for `s3://` only: `endpoint_url`, `region_name`, ... None values count as not
        given. Credentials come from boto3's own chain (environment, profile, role).

    Raises
    ------
    ConfigError
        If the address has another scheme or no bucket.
    """
    scheme = urlsplit(url).scheme.lower() if "://" in url else ""
    if scheme == "s3":
        parts = urlsplit(url)
        if not parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"store address {url!r} names no bucket",
                expected="s3://bucket/prefix",
                remedy="set NIGHTCAST_STORE to a path or to s3://bucket/prefix",
            )
        import boto3
        from botocore.config import Config

        options = {name: value for name, value in s3_options.items() if value is not None}
        config = Config(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS}, connect_timeout=10, read_timeout=60
        ).merge(options.pop("config", Config()))
        client = boto3.session.Session().client("s3", config=config, **options)
        return S3Store(parts.netloc, parts.path, client)
    if scheme == "file":
        return LocalStore(unquote(urlsplit(url).path))
    if scheme or not url:
        raise ConfigError(
            f"store address {url!r} cannot be used",
            expected="a path, file:///path or s3://bucket/prefix",
            remedy="set NIGHTCAST_STORE to one of these",
        )
    return LocalStore(url)

"""Publishing a night exactly once: a lease with a fencing token, a write-once folder, one pointer.

Objects of one workload in the store::

    forecasts/<workload>/<as_of>/forecast.parquet    write once
    forecasts/<workload>/<as_of>/<extra files>       write once
    forecasts/<workload>/<as_of>/manifest.json       write once; a folder without it is not a publication
    forecasts/<workload>/<as_of>.r2/...              another night under the same as-of date: a revision
    forecasts/<workload>/ledger/<as_of>.json         who owns which folder; sealing an entry is the commit
    forecasts/<workload>/current.json                the pointer, flipped last
    leases/<name>.json                               who may publish, until when, with which token

A crash between any two writes leaves the old pointer in force, and the same night run again completes what is there.
Fencing follows Kleppmann, "How to do distributed locking" (2016): the ledger itself refuses a token that is
older than one it has seen, so a process that wakes up after its lease was taken over cannot publish any more.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, TIME
from nightcast.contracts.errors import ConfigError, PublishError, SourceError
from nightcast.storage import LEASES, Store, check_key

FORECAST: Final = "forecast.parquet"
MANIFEST: Final = "manifest.json"
_SCHEMA: Final = 1
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NIGHT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ATTEMPTS: Final = 60


@dataclass(frozen=True)
class Publication:
    """One published night.

    Attributes
    ----------
    folder
        Key of its folder in the store.
    revision
        1 for the first night published under an as-of date, 2 for the next one, ...
    manifest
        What stands in `manifest.json`.
    already
        True if it had been published before this call.
    """

    workload: str
    as_of: datetime
    night_id: str
    folder: str
    revision: int
    manifest: dict[str, Any]
    already: bool = False


# --- leases ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lease:
    """The right to work on one thing (a night, a workload) until it expires; held by one owner at a time.

    Attributes
    ----------
    owner
        Who holds it, in words that help a person find the process (host, process id, flow run).
    seconds
        Time from one heartbeat until it may be taken over.
    token
        Fencing token: rises by one with every acquisition of this name.
    secret
        Tells two acquisitions apart.
    """

    store: Store = field(repr=False)
    name: str
    owner: str
    seconds: float
    token: int
    secret: str = field(repr=False)

    @classmethod
    def acquire(
        cls,
        store: Store,
        name: str,
        owner: str,
        seconds: float,
        now: datetime,
        *,
        is_dead: Callable[[str], bool] = lambda owner: False,
    ) -> Lease:
        """Take a lease that is free, expired, the owner's own, or a dead owner's.

        Parameters
        ----------
        now
            The clock; naive times are UTC.
        is_dead
            Tells owners that are known to be gone, so that a killed run is not waited out.

        Raises
        ------
        PublishError
            If another owner holds it, or takes it at the same moment.
        ConfigError
            If the name or the time cannot be.
        """
        if not _NIGHT.fullmatch(name) or not seconds > 0:
            raise ConfigError(
                f"a lease {name!r} of {seconds} s cannot be",
                expected="a name of letters, digits, '.', '_' and '-', and a time above 0 s",
                remedy="correct the name or the time",
            )
        held, tag = _read_json(store, _lease_key(name))
        if held is not None and not held["released"] and held["owner"] != owner:
            expires = datetime.fromisoformat(held["expires_at"])
            if _naive(now) < expires and not is_dead(held["owner"]):
                raise PublishError(
                    f"the lease {name!r} is held by {held['owner']} (token {held['token']}) "
                    f"until {expires:%Y-%m-%d %H:%M:%S} UTC",
                    expected="a lease that is free",
                    remedy="wait for that run to end; if it is dead, start again after that time",
                )
        lease = cls(store, name, owner, seconds, 1 if held is None else held["token"] + 1, uuid.uuid4().hex)
        lease._write(now, tag)
        return lease

    def renew(self, now: datetime) -> None:
        """Heartbeat: move the expiry to `seconds` from now.

        Raises
        ------
        PublishError
            If somebody else has taken the lease, or it was released.
        """
        self._write(now, self._tag_if_held())

    def release(self, now: datetime) -> None:
        """Give it back; a lease that was taken over is left to its new owner.

        The object stays, so that the token goes on rising.
        """
        held, tag = _read_json(self.store, _lease_key(self.name))
        if held is not None and held["secret"] == self.secret and not held["released"]:
            self._write(now, tag, released=True)

    def check(self) -> None:
        """Make sure that nobody has taken over since.

        Raises
        ------
        PublishError
            If somebody has, or the lease was released.
        """
        self._tag_if_held()

    def _tag_if_held(self) -> str:
        held, tag = _read_json(self.store, _lease_key(self.name))
        if held is None or tag is None or held["secret"] != self.secret or held["released"]:
            now_with = "nobody" if held is None else f"{held['owner']} (token {held['token']})"
            raise PublishError(
                f"{self.owner} lost the lease {self.name!r} (token {self.token}); it is with {now_with} now",
                expected="the newest token",
                remedy="stop this run; the run with the newer token does the work",
            )
        return tag

    def _write(self, now: datetime, tag: str | None, *, released: bool = False) -> None:
        facts = {
            "name": self.name,
            "owner": self.owner,
            "token": self.token,
            "secret": self.secret,
            "renewed_at": _naive(now).isoformat(),
            "expires_at": (_naive(now) + timedelta(seconds=0 if released else self.seconds)).isoformat(),
            "released": released,
        }
        self.store.compare_and_swap(_lease_key(self.name), _json_bytes(facts), tag)


def read_lease(store: Store, name: str) -> dict[str, Any] | None:
    """Who holds a lease (`owner, token, renewed_at, expires_at, released`), or None if nobody ever did."""
    held, _ = _read_json(store, _lease_key(name))
    return None if held is None else {key: value for key, value in held.items() if key != "secret"}


def _lease_key(name: str) -> str:
    return f"{LEASES}{name}.json"


# --- publishing -----------------------------------------------------------------------------------------------------


def publish_night(
    store: Store,
    *,
    workload: str,
    as_of: datetime,
    night_id: str,
    forecast: pl.DataFrame,
    manifest: Mapping[str, Any],
    extra: Mapping[str, bytes] | None = None,
    lease: Lease | None = None,
) -> Publication:
    """Publish a night's forecast exactly once and make it the current one.

    Safe to call again after a crash, from two processes at once, and for nights that are published already.

    Parameters
    ----------
    forecast
        `unique_id, ds, ...`; written sorted.
    manifest
        Facts of the night (registry version, run, hashes, commit) as JSON values; file hashes and counts are added.
    extra
        Name -> bytes of further files (the report, the passport).
    lease
        Lease held by the caller. Without one, of two runs that publish *different* bytes for one night at the
        same time the one that began to publish last wins.

    Returns
    -------
    Publication
        With `already=True` if this night was published before; then nothing is written, except a pointer or
        manifest that an earlier crash left behind.

    Raises
    ------
    PublishError
        If the lease was lost, a newer run holds the night, or the store refuses.
    ConfigError
        If a name cannot be used or the manifest is not JSON.
    """
    key = as_of_key(as_of)
    root = f"forecasts/{_checked_name(workload)}"
    if not _NIGHT.fullmatch(night_id):
        raise ConfigError(
            f"night id {night_id!r} cannot be used",
            expected="letters, digits, '.', '_' and '-'",
            remedy="use the hash of workload, as-of date, snapshot and recipe",
        )
    if lease is not None:
        lease.check()
    files = _files(forecast, extra or {})
    facts = _facts(manifest, workload=workload, as_of=as_of, night_id=night_id, files=files, forecast=forecast)
    content = _digest(b"".join(f"{name}:{_digest(data)}\n".encode() for name, data in sorted(files.items())))

    entry, sealed = _claim(store, f"{root}/ledger/{key}.json", key, night_id, content, lease)
    if not sealed:
        folder = f"{root}/{entry['folder']}"
        for name in files:
            store.write_once(f"{folder}/{name}", files[name])
        if lease is not None:
            lease.check()
        facts["revision"] = entry["revision"]
        entry, sealed = _seal(store, f"{root}/ledger/{key}.json", night_id, content, facts, lease)
    folder = f"{root}/{entry['folder']}"
    if not (sealed and store.exists(f"{folder}/{MANIFEST}")):
        store.write_once(f"{folder}/{MANIFEST}", _json_bytes(entry["manifest"]))
    publication = Publication(
        workload, _naive(as_of), night_id, folder, entry["revision"], entry["manifest"], already=sealed
    )
    _point(store, root, publication)
    return publication


def _files(forecast: pl.DataFrame, extra: Mapping[str, bytes]) -> dict[str, bytes]:
    taken = sorted({FORECAST, MANIFEST} & set(extra))
    if taken:
        raise ConfigError(
            f"the extra files {taken} have reserved names",
            expected=f"names other than {FORECAST} and {MANIFEST}",
            remedy="rename them",
        )
    for name in extra:
        check_key(name)
    return {FORECAST: forecast_bytes(forecast), **dict(sorted(extra.items()))}


def _facts(
    manifest: Mapping[str, Any],
    *,
    workload: str,
    as_of: datetime,
    night_id: str,
    files: Mapping[str, bytes],
    forecast: pl.DataFrame,
) -> dict[str, Any]:
    own: dict[str, Any] = {
        "schema": _SCHEMA,
        "workload": workload,
        "as_of": _naive(as_of).isoformat(),
        "night_id": night_id,
        "revision": 0,
        "rows": forecast.height,
        "series": forecast.get_column(ID).n_unique(),
        "files": {name: _describe(name, data) for name, data in files.items()},
    }
    clash = [name for name in own if name in manifest and manifest[name] != own[name]]
    if clash:
        raise ConfigError(
            f"the manifest says {clash[0]} = {manifest[clash[0]]!r}",
            expected=f"{clash[0]} = {own[clash[0]]!r}, or no such field from the caller",
            remedy="leave the field out; publishing fills it in",
        )
    try:
        facts: dict[str, Any] = json.loads(_json_bytes({**manifest, **own}))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the manifest cannot be written as JSON ({error})",
            expected="text, finite numbers, booleans, null, lists and dictionaries",
            remedy="turn times into text and leave out numbers that are not finite",
        ) from error
    return facts


def _describe(name: str, data: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"sha256": _digest(data), "bytes": len(data)}
    if name.endswith(".parquet"):
        frame = pl.read_parquet(io.BytesIO(data))
        facts["rows"] = frame.height
        if ID in frame.columns:
            facts["series"] = frame.get_column(ID).n_unique()
    return facts


def forecast_bytes(forecast: pl.DataFrame) -> bytes:
    """The Parquet bytes of a forecast: the same rows in any order give the same bytes.

    Raises
    ------
    PublishError
        If there are no rows, or no `unique_id` and `ds`.
    """
    missing = [name for name in (ID, TIME) if name not in forecast.columns]
    if missing or not forecast.height:
        raise PublishError(
            f"the forecast has {forecast.height} rows and the columns {forecast.columns}",
            expected=f"rows with {ID} and {TIME}",
            remedy="publish the fallback forecast instead of an empty one",
        )
    keys = [name for name in (ID, TIME, HORIZON, CUTOFF) if name in forecast.columns]
    rest = [name for name in forecast.columns if name not in keys and not forecast.schema[name].is_nested()]
    return table_bytes(forecast.sort(*keys, *rest, maintain_order=True))


def table_bytes(table: pl.DataFrame) -> bytes:
    """The Parquet bytes of a table, its rows in the order given."""
    buffer = io.BytesIO()
    table.rechunk().write_parquet(
        buffer, compression="zstd", compression_level=3, statistics=True, row_group_size=131_072, data_page_size=1 << 20
    )
    return buffer.getvalue()


def as_of_key(as_of: datetime) -> str:
    """The as-of date in object names: `2024-05-01`, or `2024-05-01T0630` with a time of day.

    Raises
    ------
    ConfigError
        If it has seconds, which the name would lose.
    """
    time = _naive(as_of)
    if time.second or time.microsecond:
        raise ConfigError(
            f"as-of time {time.isoformat()} has seconds",
            expected="a time in whole minutes",
            remedy="use the label of the last bar",
        )
    return f"{time:%Y-%m-%dT%H%M}" if time.hour or time.minute else f"{time:%Y-%m-%d}"


# --- the ledger of one as-of date -----------------------------------------------------------------------------------
# An entry is open (its files may be half there), abandoned (the same night came back with other bytes), or sealed
# (it holds the manifest). Every change is one compare-and-swap, so two writers are always put in an order.


def _claim(
    store: Store, key: str, as_of: str, night_id: str, content: str, lease: Lease | None
) -> tuple[dict[str, Any], bool]:
    """The ledger entry this night writes under, and whether it is sealed already."""
    for _ in range(_ATTEMPTS):
        ledger, tag = _read_json(store, key)
        ledger = ledger or {"entries": [], "tokens": {}}
        mine = [entry for entry in ledger["entries"] if entry["night_id"] == night_id]
        for entry in mine:
            if entry["manifest"] is not None:
                return entry, True
        _refuse_old_token(ledger, key, lease)
        _note_token(ledger, lease)
        entry = next((entry for entry in mine if entry["content"] == content), None)
        for other in mine:
            other["open"] = other is entry
        if entry is None:
            revision = len(ledger["entries"]) + 1
            folder = as_of if revision == 1 else f"{as_of}.r{revision}"
            entry = {"night_id": night_id, "folder": folder, "revision": revision, "content": content}
            entry |= {"open": True, "manifest": None}
            ledger["entries"].append(entry)
        if _swapped(store, key, ledger, tag):
            return entry, False
    raise _no_peace(store, key)


def _seal(
    store: Store, key: str, night_id: str, content: str, manifest: dict[str, Any], lease: Lease | None
) -> tuple[dict[str, Any], bool]:
    """Commit: put the manifest into the entry. The flag says that another run had sealed the night first."""
    mark = uuid.uuid4().hex
    for _ in range(_ATTEMPTS):
        ledger, tag = _read_json(store, key)
        if ledger is None:
            raise PublishError(
                f"the ledger {store.uri(key)} vanished",
                expected="the ledger that this run wrote to before",
                remedy="find out who removes objects from the store, then run the night again",
            )
        mine = [entry for entry in ledger["entries"] if entry["night_id"] == night_id]
        for entry in mine:
            if entry["manifest"] is not None:
                return entry, True
        _refuse_old_token(ledger, key, lease)
        entry = next(entry for entry in mine if entry["content"] == content)
        if not entry["open"]:
            raise PublishError(
                f"night {night_id} is being published by a newer run with other bytes",
                expected="one run per night",
                remedy="stop this run; the newer one publishes",
            )
        # The mark makes two commits of equal bytes differ, so that exactly one of them is the first.
        entry |= {"manifest": manifest, "open": False, "sealed_by": mark}
        if _swapped(store, key, ledger, tag):
            return entry, False
    raise _no_peace(store, key)


def _refuse_old_token(ledger: dict[str, Any], key: str, lease: Lease | None) -> None:
    newest = 0 if lease is None else ledger["tokens"].get(lease.name, 0)
    if lease is not None and lease.token < newest:
        raise PublishError(
            f"token {lease.token} of the lease {lease.name!r} is stale; {key} has seen token {newest}",
            expected="the newest token",
            remedy="stop this run; the run with the newer token publishes",
        )


def _note_token(ledger: dict[str, Any], lease: Lease | None) -> None:
    if lease is not None:
        ledger["tokens"][lease.name] = lease.token


def _swapped(store: Store, key: str, value: dict[str, Any], tag: str | None) -> bool:
    data = _json_bytes(value)
    try:
        store.compare_and_swap(key, data, tag)
    except PublishError:
        # Either another writer came first, which is worth another look, or the store refuses, which is not.
        if _read_json(store, key)[1] == tag:
            raise
        return False
    return True


def _no_peace(store: Store, key: str) -> PublishError:
    return PublishError(
        f"{store.uri(key)} changed {_ATTEMPTS} times while this run tried to write it",
        expected="a few writers at most",
        remedy="look for runs that publish in a loop, then run the night again",
    )


# --- the pointer ----------------------------------------------------------------------------------------------------


def _point(store: Store, root: str, publication: Publication) -> None:
    """Make a publication the current one, unless a later as-of date or revision is."""
    key = f"{root}/current.json"
    target = {
        "schema": _SCHEMA,
        "workload": publication.workload,
        "as_of": publication.as_of.isoformat(),
        "night_id": publication.night_id,
        "revision": publication.revision,
        "folder": publication.folder,
        "manifest_sha256": _digest(_json_bytes(publication.manifest)),
    }
    for _ in range(_ATTEMPTS):
        current, tag = _read_json(store, key)
        if current is not None:
            standing = (datetime.fromisoformat(current["as_of"]), current["revision"])
            if standing >= (publication.as_of, publication.revision):
                return
        if _swapped(store, key, target, tag):
            return
    raise _no_peace(store, key)


# --- reading --------------------------------------------------------------------------------------------------------


def read_current(store: Store, workload: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """Manifest and forecast of the current publication, checked against their hashes.

    Raises
    ------
    SourceError
        If nothing is published yet, or bytes do not match their hash.
    """
    key = f"forecasts/{_checked_name(workload)}/current.json"
    current, _ = _read_json(store, key)
    if current is None:
        raise SourceError(
            f"nothing is published for {workload!r}: there is no {store.uri(key)}",
            expected="a night that was published",
            remedy="run `nightcast nightly` first, or check the workload's name and the store's address",
        )
    data = _checked_bytes(store, f"{current['folder']}/{MANIFEST}", current["manifest_sha256"])
    manifest: dict[str, Any] = json.loads(data)
    return manifest, read_forecast(store, _publication(current["folder"], manifest))


def read_forecast(store: Store, publication: Publication) -> pl.DataFrame:
    """The forecast of a publication, checked against its hash.

    Raises
    ------
    SourceError
        If it is gone or does not match.
    """
    sha256 = publication.manifest["files"][FORECAST]["sha256"]
    return pl.read_parquet(io.BytesIO(_checked_bytes(store, f"{publication.folder}/{FORECAST}", sha256)))


def find_published(
    store: Store, workload: str, as_of: datetime | None = None, night_id: str | None = None
) -> Publication | None:
    """The newest publication that fits, or None."""
    for folder in reversed(_folders(store, workload, as_of)):
        publication = _load(store, folder)
        if night_id is None or publication.night_id == night_id:
            return publication
    return None


def list_publications(store: Store, workload: str) -> list[Publication]:
    """All publications, oldest as-of date and revision first."""
    return [_load(store, folder) for folder in _folders(store, workload, None)]


def _folders(store: Store, workload: str, as_of: datetime | None) -> list[str]:
    root = f"forecasts/{_checked_name(workload)}/"
    dated = re.compile(
        re.escape(root) + r"(\d{4}-\d{2}-\d{2}(?:T\d{4})?)(?:\.r(\d+))?/" + re.escape(MANIFEST), flags=re.ASCII
    )
    found: list[tuple[str, int, str]] = []
    for key in store.list(root if as_of is None else root + as_of_key(as_of)):
        match = dated.fullmatch(key)
        if match and (as_of is None or match.group(1) == as_of_key(as_of)):
            found.append((match.group(1), int(match.group(2) or 1), key.removesuffix(f"/{MANIFEST}")))
    return [folder for _, _, folder in sorted(found)]


def _load(store: Store, folder: str) -> Publication:
    return _publication(folder, json.loads(store.read(f"{folder}/{MANIFEST}")))


def _publication(folder: str, manifest: dict[str, Any]) -> Publication:
    return Publication(
        workload=manifest["workload"],
        as_of=datetime.fromisoformat(manifest["as_of"]),
        night_id=manifest["night_id"],
        folder=folder,
        revision=manifest["revision"],
        manifest=manifest,
        already=True,
    )


def _checked_bytes(store: Store, key: str, sha256: str) -> bytes:
    data = store.read(key)
    if _digest(data) != sha256:
        raise SourceError(
            f"{store.uri(key)} has sha256 {_digest(data)[:12]}",
            expected=f"{sha256[:12]}, as its manifest or pointer says",
            remedy="restore the object from a backup, or publish the night again from its snapshot",
        )
    return data


def _read_json(store: Store, key: str) -> tuple[dict[str, Any] | None, str | None]:
    if not store.exists(key):
        return None, None
    data, tag = store.read_with_tag(key)
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SourceError(
            f"{store.uri(key)} is not a JSON object",
            expected="what Nightcast wrote there",
            remedy="restore it from a backup; a lease may be deleted",
        )
    return value, tag


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _naive(time: datetime) -> datetime:
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _checked_name(workload: str) -> str:
    if not _NAME.fullmatch(workload):
        raise ConfigError(
            f"workload name {workload!r} cannot be used in a store",
            expected="letters, digits, '_' and '-'",
            remedy="rename the workload",
        )
    return workload

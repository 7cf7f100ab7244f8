"""Checkpoints on disk: the k best epochs, and the last one to resume from.

One file an epoch, safetensors with the rest as JSON in its header: no pickle. A file is written whole beside its name
and renamed, then entered in the index, and only then is the file dropped that it replaces; whatever moment a fit dies
at, every file the index names is there and complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightcast.contracts.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

INDEX_FILE = "index.json"
LAST_FILE = "last.safetensors"
_FACTS = "facts"


@dataclass(frozen=True)
class Kept:
    """One of the best epochs: its number from 1, the value it is ranked by, and its file."""

    epoch: int
    value: float
    file: str


class Checkpoints:
    """A folder of checkpoints.

    Parameters
    ----------
    keep
        k, how many of the best epochs stay.
    mode
        `min`: lower values are better; `max`: higher ones. Among equal values the earlier epoch is better.

    Raises
    ------
    ConfigError
        If `keep` is below 1, or the folder was written in the other mode.
    TrainingError
        If the folder's index cannot be read or names a file that is gone.
    """

    def __init__(self, folder: Path, *, keep: int = 3, mode: Literal["min", "max"] = "min") -> None:
        if keep < 1:
            raise ConfigError(f"{keep} checkpoints to keep", expected="1 or more", remedy="correct `keep`")
        self.folder, self.keep, self.mode = folder, keep, mode
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.part"):
            left.unlink()
        self.kept: tuple[Kept, ...] = self._read_index()

    @property
    def best(self) -> Kept | None:
        """The best epoch, if any."""
        return self.kept[0] if self.kept else None

    @property
    def resumable(self) -> bool:
        """Whether there is a last checkpoint."""
        return (self.folder / LAST_FILE).exists()

    def offer(self, epoch: int, value: float, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bool:
        """Keep an epoch if it is among the k best; an epoch that is trained again replaces its earlier self.

        Returns
        -------
        Whether it was kept.
        """
        new = Kept(epoch, float(value), f"epoch-{epoch:04d}.safetensors")
        others = [kept for kept in self.kept if kept.epoch != epoch]
        ranked = sorted([*others, new], key=self._rank)
        kept, dropped = ranked[: self.keep], ranked[self.keep :]
        if new in kept:
            write_checkpoint(self.folder / new.file, tensors, facts)
        elif (self.folder / new.file).exists():
            dropped.append(new)
        self.kept = tuple(kept)
        self._write_index()
        for gone in dropped:
            (self.folder / gone.file).unlink(missing_ok=True)
        return new in kept

    def load(self, kept: Kept) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts of a kept epoch."""
        return read_checkpoint(self.folder / kept.file)

    def save_last(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint to resume from."""
        write_checkpoint(self.folder / LAST_FILE, tensors, facts)

    def load_last(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts of the last finished epoch."""
        return read_checkpoint(self.folder / LAST_FILE)

    def _rank(self, kept: Kept) -> tuple[float, int]:
        return (kept.value if self.mode == "min" else -kept.value, kept.epoch)

    def _write_index(self) -> None:
        facts = {"mode": self.mode, "kept": [asdict(kept) for kept in self.kept]}
        _replace(self.folder / INDEX_FILE, json.dumps(facts, indent=1).encode())

    def _read_index(self) -> tuple[Kept, ...]:
        path = self.folder / INDEX_FILE
        if not path.exists():
            return ()
        try:
            facts = json.loads(path.read_text())
            kept = tuple(Kept(**each) for each in facts["kept"])
            mode = facts["mode"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"the index of the checkpoints in {self.folder.name!r} cannot be read ({error})",
                expected=f"the {INDEX_FILE} that a fit wrote",
                remedy="begin anew in an empty folder",
            ) from error
        if mode != self.mode:
            raise ConfigError(
                f"the checkpoints in {self.folder.name!r} are ranked by mode {mode!r}",
                expected=repr(self.mode),
                remedy="begin anew in an empty folder",
            )
        gone = [each.file for each in kept if not (self.folder / each.file).exists()]
        if gone:
            raise TrainingError(
                f"the checkpoint {gone[0]!r} is gone from {self.folder.name!r}",
                expected="every file that the index names",
                remedy="begin anew in an empty folder",
            )
        return kept


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one file, whole or not at all."""
    from safetensors.torch import save

    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    _replace(path, save(own, metadata={_FACTS: json.dumps(facts, allow_nan=False)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts that `write_checkpoint` wrote.

    Raises
    ------
    TrainingError
        If the file is missing or broken.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            facts = json.loads(file.metadata()[_FACTS])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {path.name!r} cannot be read ({type(error).__name__}: {error})",
            expected="a file that a fit wrote",
            remedy="begin anew in an empty folder",
        ) from error
    return tensors, dict(facts)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

"""Arrays of a fitted model as a safetensors file: no pickle, equal arrays are equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.errors import RegistryError


def write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as safetensors; the library orders them by type and name, so equal arrays are equal bytes."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote.

    Raises
    ------
    RegistryError
        If the file is missing or broken.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise RegistryError(
            f"{file.name!r} cannot be read ({error})",
            expected="the safetensors file that `save` wrote",
            remedy="fetch the bundle again and compare its sha256 with the manifest's",
        ) from error

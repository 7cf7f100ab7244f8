"""Where torch computes, and that it computes the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.utils.deterministic

from nightcast.contracts.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


def resolve_device(name: Device) -> torch.device:
    """The device a name means on this machine.

    Raises
    ------
    ConfigError
        If CUDA is asked for and absent.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError(
            "device 'cuda' on a machine without CUDA",
            expected="'auto' or 'cpu'",
            remedy="set `device` to 'auto', or install a CUDA build of torch",
        )
    return torch.device("cuda" if name != "cpu" and there else "cpu")


def autocast(device: torch.device | str, amp: bool) -> torch.autocast:
    """bfloat16 autocast where it is asked for and the device is a CUDA one that supports it; else none."""
    kind = torch.device(device).type
    able = amp and kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=able)


@contextmanager
def deterministic(seed: int, *, threads: int = 1, device: torch.device | str = "cpu") -> Iterator[None]:
    """Torch's random state seeded, its threads held, on the CPU its deterministic algorithms; all given back."""
    device = torch.device(device)
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    uninitialised: Any = torch.utils.deterministic
    fills = uninitialised.fill_uninitialized_memory
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(threads)
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            # it would write NaN into every fresh tensor, which costs time and finds nothing here
            uninitialised.fill_uninitialized_memory = False
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            uninitialised.fill_uninitialized_memory = fills
            torch.set_num_threads(before)

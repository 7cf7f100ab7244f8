"""Windows as views beside windows that were copied out first: time and peak memory of one shuffled epoch.

    python -m benchmarks.bench_windows [--bars 281060] [--length 60] [--features 25] [--batch 256]

Each way runs in a process of its own. `peak` is what the process grew by over the base array, in bases; the copied
windows are L bases by themselves. Every batch is read once, so that copies are real. One run, one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from typing import Any

import numpy as np

from models.nn.windows import Windows


def peak_bytes() -> int:
    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def epoch(way: str, bars: int, length: int, features: int, batch: int, answer: Any) -> None:
    """Go once through all windows in random order; sends (seconds to prepare, seconds of the epoch, grown bytes)."""
    import torch

    torch.set_num_threads(1)
    base = np.random.default_rng(0).standard_normal((bars, features), dtype=np.float32)
    order = np.random.default_rng(1).permutation(bars - length + 1)
    before = peak_bytes()

    started = time.perf_counter()
    windows = Windows(base, np.arange(length - 1, bars), length, segment=np.zeros(bars, dtype=np.int64))
    copied = None
    if way == "copied":
        view = np.lib.stride_tricks.sliding_window_view(base, length, axis=0)
        copied = torch.from_numpy(np.ascontiguousarray(view.transpose(0, 2, 1)))
    prepared = time.perf_counter()
    total = 0.0
    for begin in range(0, len(order), batch):
        index = order[begin : begin + batch]
        x = windows.batch(index) if copied is None else copied[torch.from_numpy(index)].clamp_(-10, 10)
        total += float(x[0, 0, 0])
    ended = time.perf_counter()
    answer.send((prepared - started, ended - prepared, peak_bytes() - before, total))


def measure(way: str, args: argparse.Namespace) -> tuple[float, float, int, float]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=epoch, args=(way, args.bars, args.length, args.features, args.batch, theirs))
    process.start()
    while not mine.poll(1):
        if not process.is_alive():
            raise SystemExit(f"{way}: the process ended with {process.exitcode}; too little memory for the copies?")
    found: tuple[float, float, int, float] = mine.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bars", type=int, default=281_060)
    parser.add_argument("--length", type=int, default=60)
    parser.add_argument("--features", type=int, default=25)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()

    base = 4 * args.bars * args.features
    count = args.bars - args.length + 1
    print(f"{count} windows of {args.length} x {args.features}, base {base / 1e6:.0f} MB, batches of {args.batch}")
    found = {way: measure(way, args) for way in ("views", "copied")}
    assert found["views"][3] == found["copied"][3], "both ways must read the same numbers"
    for way, (prepare, run, grown, _) in found.items():
        print(
            f"  {way:7} prepare {prepare:6.3f} s  epoch {run:6.3f} s  {count / run / 1e6:5.2f} M windows/s  "
            f"peak {grown / 1e6:7.1f} MB = {grown / base:5.2f} bases"
        )
    views, copied = found["views"], found["copied"]
    print(
        f"  ratio copied / views: epoch {copied[1] / views[1]:.2f}, with preparation "
        f"{sum(copied[:2]) / sum(views[:2]):.2f}, peak memory {copied[2] / max(views[2], 1):.0f}"
    )


if __name__ == "__main__":
    main()

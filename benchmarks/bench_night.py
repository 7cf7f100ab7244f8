"""What a whole night costs beside the bare fits inside it.

    python -m benchmarks.bench_night [--workload wells|FILE] [--data PATH] [--preset nightly_cpu] [--repeats 3]

The bare fits: every (model, fold) of the recipe, the final fits too, fitted and forecast one after another in one plain
process with one thread: no pool, no Prefect, no cache, no ceilings, nothing written. A throw-away fit of each model
goes before, so that imports do not count; the second figure counts them. The whole night: `nightcast run` in a fresh
home, from the start of the process to its end, with 1 and with 2 worker processes.

Each repeat measures the bare fits and both nights one after another; ratios are taken within a repeat and the median
over repeats is printed with the range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("prefect", "mlflow", "great-expectations", "polars", "statsforecast", "lightgbm", "neuralforecast", "torch")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS")


@dataclass
class NightCost:
    """One night: seconds from the start of its process to the end, per stage, and inside its fits."""

    seconds: float
    fits: float
    units: int
    stages: dict[str, float] = field(default_factory=dict)


def environment(**extra: str) -> dict[str, str]:
    """Ours, without settings that would lead a night to other services, homes or stores."""
    dropped = ("NIGHTCAST_", "PREFECT_", "MLFLOW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "DO_NOT_TRACK": "true", **extra}


def prepare(workload: str, data: Path | None, preset: Any, folder: Path) -> None:
    """What a night does before its fits: read, judge, build features; the dataset is left in `folder`."""
    from tasks.night import clock, load_workload

    value = load_workload(workload)
    raw = value.source.read(as_of=None, data=data, now=clock())
    verdict = value.gates.raw(raw)
    verdict.raise_if_stopped()
    value.prepare(raw, verdict, value.recipe(preset)).save(folder)


def bare_fits(workload: str, preset: Any, folder: Path) -> dict[str, Any]:
    """Seconds of every unit with warm libraries, and of each model's first one in this process."""
    from threadpoolctl import threadpool_limits

    from nightcast.evaluation.units import Unit, load_class, load_dataset
    from nightcast.evaluation.walk_forward import plan_units
    from tasks.night import load_workload

    value = load_workload(workload)
    recipe, dataset = value.recipe(preset), load_dataset(folder)
    folds = (*value.folds(dataset, recipe.folds), value.final(dataset, recipe.folds))
    units = plan_units(value, recipe, folds, dataset, folder)

    def timed(unit: Unit) -> float:
        started = time.perf_counter()
        model = load_class(unit.target)(**unit.model.params)
        model.fit(dataset.training(unit.fold), seed=unit.seed)
        for view in dataset.tests(unit.fold):
            model.forecast(view)
        return time.perf_counter() - started

    first = {unit.model.label: unit for unit in reversed(units)}
    with threadpool_limits(1):
        cold = {unit.title: timed(unit) for unit in reversed(first.values())}
        warm = {unit.title: timed(unit) for unit in units}
    models = {unit.title: unit.model.label for unit in units}
    return {"cold": cold, "warm": warm, "models": models, "wells": dataset.frame["unique_id"].n_unique()}


def call(arguments: list[str]) -> str:
    """Run one part of this file in a process of its own; returns its stdout."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    env = environment(**dict.fromkeys(THREADS, "1"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def night(arguments: list[str], processes: int, home: Path) -> NightCost:
    """Run `nightcast run` in a fresh home; stages are told apart by its JSON progress.

    `process start` is what passes before the first event, `start` the Prefect server and imports, `end` what comes
    after the result is printed.
    """
    command = [sys.executable, "-m", "flows.cli", "run", *arguments, "--home", str(home), "--json"]
    env = environment(NIGHTCAST_PROCESSES=str(processes))
    started = last = time.perf_counter()
    stages: dict[str, float] = {}
    name, other = "process start", list[str]()
    fits, units = 0.0, 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stderr is not None  # asked for
        for line in process.stderr:
            if not line.startswith('{"event"'):
                other.append(line)
                continue
            event, now = json.loads(line), time.perf_counter()
            if event["event"] == "stage":
                stages[name] = stages.get(name, 0.0) + now - last
                name, last = event["name"], now
            elif event["event"] == "step":
                took = event["message"].rpartition(": ")[2]
                if not took.endswith(" s"):
                    raise SystemExit(f"a unit was not computed: {event['message']}")
                fits, units = fits + float(took[:-2]), units + 1
        code = process.wait()
        stages[name] = time.perf_counter() - last
        seconds = time.perf_counter() - started
        out.seek(0)
        answer = out.read()
    if code or json.loads(answer)["training_failed"]:
        raise SystemExit(f"{shlex.join(command)} ended with {code}:\n{''.join(other[-20:])}{answer[-2000:]}")
    return NightCost(seconds, fits, units, stages)


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """Median, and the range where there is one."""
    text = f"{median(values):.2f}"
    return text if len(values) == 1 else f"{text} ({min(values):.2f} to {max(values):.2f})"


def share_of(parts: dict[str, float], whole: float) -> str:
    return ", ".join(f"{name} {part / whole:.0%}" for name, part in parts.items())


def measure(args: argparse.Namespace) -> None:
    """Everything, printed as it comes."""
    path = Path(args.workload)
    spec = str(path.resolve()) if path.suffix in (".yaml", ".yml") else args.workload
    data = ["--data", str(args.data.resolve())] if args.data else []
    print(f"command   {shlex.join(['python', '-m', 'benchmarks.bench_night', *sys.argv[1:]])}")
    print(f"versions  python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in PACKAGES))
    print(f"machine   {platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    bare: list[float] = []
    cold: list[float] = []
    nights: dict[int, list[NightCost]] = {n: [] for n in args.processes}
    per_model: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-night-") as scratch:
        folder = Path(scratch)
        call(["--workload", spec, *data, "--preset", args.preset, "--part", "prepare", "--folder", scratch + "/data"])
        for repeat in range(args.repeats):
            fits = json.loads(
                call(["--workload", spec, "--preset", args.preset, "--part", "bare", "--folder", scratch + "/data"])
            )
            bare.append(sum(fits["warm"].values()))
            cold.append(bare[-1] + sum(took - fits["warm"][title] for title, took in fits["cold"].items()))
            for label in dict.fromkeys(fits["models"].values()):
                own = sum(took for title, took in fits["warm"].items() if fits["models"][title] == label)
                per_model.setdefault(label, []).append(own)
            if repeat == 0:
                print(f"recipe    {args.preset}: {len(fits['warm'])} units, {fits['wells']} series")
            line = f"repeat {repeat + 1}  bare {bare[-1]:.1f} s, with imports {cold[-1]:.1f} s"
            for count, costs in nights.items():
                cost = night([spec, "--preset", args.preset, *data], count, folder / f"home-{repeat}-{count}")
                if cost.units != len(fits["warm"]):
                    raise SystemExit(f"the night ran {cost.units} units, the bare fits are {len(fits['warm'])}")
                costs.append(cost)
                line += f"; night({count}) {cost.seconds:.1f} s"
            print(line, flush=True)

    print(f"\nmedian of {args.repeats}; ratios within each repeat")
    for count, costs in nights.items():
        for name, base in (("bare fits", bare), ("bare fits with imports", cold)):
            ratios = [cost.seconds / its for cost, its in zip(costs, base, strict=True)]
            print(f"night({count}) / {name:24} {spread(ratios)}")
    names = list(dict.fromkeys(name for costs in nights.values() for cost in costs for name in cost.stages))
    print("\nstages, as a share of the bare fits" + "".join(f"{f'night({count})':>12}" for count in nights))
    for name in names:
        row = f"  {name:33}"
        for costs in nights.values():
            row += f"{median([c.stages.get(name, 0.0) / b for c, b in zip(costs, bare, strict=True)]):>12.3f}"
        print(row)
    row = f"  {'seconds inside the units':33}"
    for costs in nights.values():
        row += f"{median([c.fits / b for c, b in zip(costs, bare, strict=True)]):>12.3f}"
    print(row)
    total = median(bare)
    print(f"\nmodels, share of the bare fits: {share_of({k: median(v) for k, v in per_model.items()}, total)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--workload", default="wells", help="a shipped workload or a .yaml file")
    parser.add_argument("--data", type=Path, help="file to read instead of the declared one")
    parser.add_argument("--preset", default="nightly_cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="worker processes of the nights")
    parser.add_argument("--part", choices=("prepare", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "prepare":
        prepare(args.workload, args.data, args.preset, args.folder)
    elif args.part == "bare":
        print(json.dumps(bare_fits(args.workload, args.preset, args.folder)))
    else:
        measure(args)


if __name__ == "__main__":
    main()

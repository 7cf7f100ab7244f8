"""Time to generate a field, and how well naive forecasts do on it: a sanity check of the generator.

    python -m benchmarks.bench_generator [--months 120] [--seeds 1 2 3]

Rolling origins, h = 1..6 months, at least 24 known months, future unknown; clean observations (no dirt). `all` takes
every month as an origin; `spaced` the last six origins six months apart. nMAE is MAE over the mean actual. R2 within
is against each well's own mean over the scored rows.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl

from nightcast.sources.generator.config import SIZES, FieldConfig
from nightcast.sources.generator.field import Field, simulate_field

HORIZON, MIN_HISTORY = 6, 24


def wide(frame: pl.DataFrame, value: str) -> np.ndarray:
    """`(months, wells)`, NaN where a well has no row."""
    return frame.pivot("unique_id", index="ds", values=value).sort("ds").drop("ds").to_numpy().astype(float)


def forecasts(y: np.ndarray, rate: np.ndarray, uptime: np.ndarray, origins: list[int]) -> dict[str, np.ndarray]:
    """Rows `[origin and horizon, well] -> (actual, last, mean of 3, truth, planned uptime)`, stacked over origins."""
    rows: dict[str, list[np.ndarray]] = {
        name: [] for name in ("y", "well", "last", "mean-3", "plan uptime", "noiseless truth")
    }
    producing = np.where(uptime > 0, y / np.where(uptime > 0, uptime, 1), np.nan)
    for origin in origins:
        known = y[: origin + 1]
        enough = (~np.isnan(known)).sum(axis=0) >= MIN_HISTORY
        for step in range(1, HORIZON + 1):
            wells = np.flatnonzero(enough & ~np.isnan(known[-1]) & ~np.isnan(y[origin + step]))
            rows["y"].append(y[origin + step, wells])
            rows["well"].append(wells)
            rows["last"].append(known[-1, wells])
            rows["mean-3"].append(known[-3:, wells].mean(axis=0))
            recent = np.array([_last_producing(producing[: origin + 1, well]) for well in wells])
            rows["plan uptime"].append(recent * uptime[origin + step, wells])
            rows["noiseless truth"].append(rate[origin + step, wells])
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _last_producing(values: np.ndarray) -> float:
    seen = values[~np.isnan(values)]
    return float(np.median(seen[-3:])) if len(seen) else 0.0


def score(table: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """MAE, nMAE, pooled and within-well R2 of each method."""
    y, well = table["y"], table["well"]
    means = {w: y[well == w].mean() for w in np.unique(well)}
    own = np.array([means[w] for w in well])
    out = {}
    for name in ("last", "mean-3", "plan uptime", "noiseless truth"):
        error = y - table[name]
        square = float((error**2).sum())
        out[name] = {
            "mae": float(np.abs(error).mean()),
            "nmae": float(np.abs(error).mean() / y.mean()),
            "r2_pooled": 1 - square / float(((y - y.mean()) ** 2).sum()),
            "r2_within": 1 - square / float(((y - own) ** 2).sum()),
        }
    return out


def naive_scores(fields: list[Field], *, spaced: bool) -> tuple[dict[str, dict[str, float]], int]:
    """Scores pooled over fields, and the number of (well, origin) windows."""
    tables = []
    for number, field in enumerate(fields):
        targets = field.monthly.filter(pl.col("series_role") == "target")
        y, uptime = wide(targets, "y"), wide(targets, "uptime")
        rate = wide(field.truth.monthly, "rate")
        last = len(y) - 1 - HORIZON
        origins = [last - 6 * k for k in range(6)][::-1] if spaced else list(range(MIN_HISTORY - 1, last + 1))
        table = forecasts(y, rate, uptime, origins)
        table["well"] = table["well"] + 10_000 * number
        tables.append(table)
    pooled = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return score(pooled), round(len(pooled["y"]) / HORIZON)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--months", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()

    for size, (producers, injectors) in SIZES.items():
        started = time.perf_counter()
        simulate_field(FieldConfig(producers=producers, injectors=injectors, months=args.months))
        print(f"{size:8} {producers:3}/{injectors:<3} {args.months} months: {time.perf_counter() - started:.2f} s")

    for level in ("easy", "reference", "hard"):
        fields = [
            simulate_field(FieldConfig(seed=seed, months=args.months, level=level, dirt=False)) for seed in args.seeds
        ]
        for spaced in (False, True):
            scores, windows = naive_scores(fields, spaced=spaced)
            print(f"{level}, {'spaced' if spaced else 'all'} origins, {windows} windows")
            for name, row in scores.items():
                print(f"  {name:16}" + "".join(f" {key} {value:7.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()

"""What the capacitance-resistance model proves on fields of known truth: connectivities and forecasts.

    python -m benchmarks.crm_proofs [--seeds 10 11 12 13 14] [--level reference] [--variant standard]

Connectivity: 96 months, pairs nearer than 1200 m (a converted producer and itself left out), means over seeds. AUC is
that of f > 0.05, MAE f the mean absolute error. `distance only` is the map's kernel; `cross-correlation` the largest
correlation of monthly changes at lags of 0 to 6 months (0 if negative), whose MAE takes it as if it were a
connectivity. Coverage is that of the 90 % interval, over all pairs, over pairs with f > 0 and with f > 0.05.

Forecasts: 120 months, origins at months 33, 43 .. 113, h = 1..6, wells with at least 24 known months and a known last
one; target: measured calendar-day rate. The model is fitted anew at every origin. R is MAE over the MAE of the naive
with the same information: exponential smoothing (weight chosen by one-step squared error) if the future is unknown, the
median of the last three producing-day rates times the planned uptime if it is known.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.stats import rankdata, spearmanr

from nightcast.contracts.columns import ROLE_SUPPORT, SERIES_ROLE
from nightcast.physics import CrmParams, Waterflood, fit_crm
from nightcast.physics.connectivity_prior import Pairs
from nightcast.sources.generator import Field, FieldConfig, simulate_field
from nightcast.sources.generator.field import plan_of

NEAR, STRONG = 1200.0, 0.05
ORIGINS = tuple(range(33, 114, 10))
HORIZON, MIN_HISTORY = 6, 24


def wide(frame: pl.DataFrame, value: str, names: Sequence[str], months: pl.Series) -> np.ndarray:
    """`(T, n)` values, NaN where a well has no row."""
    grid = pl.DataFrame({"ds": months}).join(
        frame.filter(pl.col("unique_id").is_in(list(names))).pivot("unique_id", index="ds", values=value), "ds", "left"
    )
    columns = [grid[name].to_numpy() if name in grid.columns else np.full(len(months), np.nan) for name in names]
    return np.column_stack(columns).astype(np.float64)


def waterflood_of(field: Field) -> Waterflood:
    """The observations of a generated field as plain arrays."""
    truth, months = field.truth, field.monthly.get_column("ds").unique().sort()
    start = months.to_numpy().astype("datetime64[M]")
    at = {row["unique_id"]: (row["x_m"], row["y_m"]) for row in truth.positions.iter_rows(named=True)}
    wells = field.monthly.filter(pl.col(SERIES_ROLE) != ROLE_SUPPORT)
    return Waterflood(
        days=((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(np.float64),
        rate=wide(wells, "y", truth.producers, months),
        uptime=wide(wells, "uptime", truth.producers, months),
        pressure=wide(wells, "wbhp", truth.producers, months),
        injection=wide(field.monthly, "wwir", truth.injectors, months),
        producers=np.array([at[name] for name in truth.producers]),
        injectors=np.array([at[name] for name in truth.injectors]),
    )


def auc(score: np.ndarray, is_true: np.ndarray) -> float:
    """Area under the ROC curve."""
    n = int(is_true.sum())
    return float((rankdata(score)[is_true].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def cross_correlation(flood: Waterflood) -> np.ndarray:
    """`(I, J)` largest correlation of monthly changes at lags of 0 to 6 months."""
    water = np.diff(np.nan_to_num(flood.injection), axis=0)
    rate = np.diff(np.where(flood.uptime > 0.3, flood.rate / np.maximum(flood.uptime, 0.3), np.nan), axis=0)
    out = np.zeros((water.shape[1], rate.shape[1]))
    for i, j in np.ndindex(out.shape):
        for lag in range(7):
            x, y = water[: len(water) - lag, i], rate[lag:, j]
            known = ~np.isnan(y)
            if known.sum() > 12 and np.ptp(x[known]) > 0 and np.ptp(y[known]) > 0:
                out[i, j] = max(out[i, j], float(np.corrcoef(x[known], y[known])[0, 1]))
    return out


def connectivity_table(config: FieldConfig, seeds: Sequence[int]) -> None:
    """Print how well each method finds the true connectivities."""
    scores: dict[str, list[list[float]]] = {}
    cover, spent, most = [], [], 0.0
    for seed in seeds:
        field = simulate_field(config.with_(seed=seed, months=96))
        flood, truth = waterflood_of(field), field.truth.connectivity
        distance = field.truth.pairs["distance_m"].to_numpy().reshape(truth.shape)
        near = (distance < NEAR) & (distance > 1.0)
        begin = time.perf_counter()
        crm = fit_crm(flood, seed=seed)
        spent.append(time.perf_counter() - begin)
        most = max(most, float(crm.connectivity.sum(axis=1).max()))
        params = CrmParams()
        kernel = Pairs.of(flood.producers, flood.injectors, params.length, params.reach).log_shares(np.zeros(3))
        found = {
            "distance only": (1 - params.loss) * np.exp(kernel),
            "cross-correlation": cross_correlation(flood),
            "CRM": crm.connectivity,
        }
        for name, value in found.items():
            f, g = value[near], truth[near]
            scores.setdefault(name, []).append(
                [auc(f, g > STRONG), float(np.abs(f - g).mean()), float(spearmanr(f, g)[0])]
            )
        inside = (truth >= crm.low - 1e-12) & (truth <= crm.high + 1e-12)
        cover.append([inside[near & (truth >= least)].mean() for least in (0.0, 1e-9, STRONG)])
        known = crm.identifiable & near
        cover[-1] += [known[near].mean(), np.abs(crm.connectivity - truth)[known].mean() if known.any() else np.nan]
    print(f"\n{'method':20s} {'AUC':>7s} {'MAE f':>7s} {'Spearman':>9s}   over seeds {list(seeds)}")
    for name, rows in scores.items():
        print(f"{name:20s} " + "{:7.3f} {:7.3f} {:9.3f}".format(*np.mean(rows, axis=0)))
    print(f"{'CRM, worst seed':20s} " + "{:7.3f} {:7.3f} {:9.3f}".format(*_worst(scores["CRM"])))
    a, b, c, share, error = np.mean(cover, axis=0)
    print(f"90 % interval covers {a:.3f} of all pairs, {b:.3f} of f > 0, {c:.3f} of f > {STRONG}; by seed (all pairs)")
    print("  " + " ".join(f"{row[0]:.3f}" for row in cover))
    print(f"identifiable {share:.2f} of pairs, MAE f among them {error:.3f}; largest sum of an injector's f {most:.3f}")
    print(f"seconds a fit, with intervals: {np.mean(spent):.1f}")


def _worst(rows: list[list[float]]) -> tuple[float, float, float]:
    table = np.array(rows)
    return float(table[:, 0].min()), float(table[:, 1].max()), float(table[:, 2].min())


def smoothed(values: np.ndarray) -> float:
    """Simple exponential smoothing's level."""
    values = values[~np.isnan(values)]
    best, level = np.inf, values[-1]
    for weight in np.linspace(0.05, 1.0, 20):
        now, error = values[0], 0.0
        for value in values[1:]:
            error += (value - now) ** 2
            now += weight * (value - now)
        if error < best:
            best, level = error, now
    return float(level)


def recent(values: np.ndarray) -> float:
    """Median of the last three known values."""
    values = values[~np.isnan(values)]
    return float(np.median(values[-3:])) if len(values) else 0.0


def forecast_table(config: FieldConfig, seeds: Sequence[int]) -> None:
    """Print the error of each forecast against the naive that knows as much."""
    rows: list[list[float]] = []
    for seed in seeds:
        field = simulate_field(config.with_(seed=seed, months=120))
        flood, plan = waterflood_of(field), plan_of(field)
        months = field.monthly.get_column("ds").unique().sort()
        uptime = wide(plan, "uptime", field.truth.producers, months)
        pressure = wide(plan, "wbhp", field.truth.producers, months)
        for origin in ORIGINS:
            past, ahead = flood.before(origin + 1), slice(origin + 1, origin + 1 + HORIZON)
            crm, days = fit_crm(past, CrmParams(draws=0)), flood.days[ahead]
            unknown = crm.forecast(past, days=days)
            scheduled = crm.forecast(past, days=days, uptime=uptime[ahead])
            known = crm.forecast(
                past, days=days, uptime=uptime[ahead], pressure=pressure[ahead], injection=flood.injection[ahead]
            )
            is_open = past.uptime > 0
            producing = np.where(is_open, past.rate / np.where(is_open, past.uptime, 1.0), np.nan)
            for j in range(past.rate.shape[1]):
                history = past.rate[:, j]
                if (~np.isnan(history)).sum() < MIN_HISTORY or np.isnan(history[-1]):
                    continue
                level, rate, mean = smoothed(history), recent(producing[:, j]), float(np.nanmean(history[-3:]))
                for h in np.flatnonzero(~np.isnan(flood.rate[ahead, j])):
                    y, u = flood.rate[ahead][h, j], uptime[ahead][h, j]
                    other = [unknown[h, j], 0.5 * (unknown[h, j] + level), rate * u, scheduled[h, j], known[h, j]]
                    rows.append([seed, y, history[-1], mean, level, *other])
    table = np.array(rows)
    error = np.abs(table[:, 2:] - table[:, 1:2])
    groups = [np.ones(len(table), dtype=bool), *(table[:, 0] == seed for seed in seeds)]
    names = [
        "last value",
        "mean of 3",
        "smoothing",
        "CRM",
        "mean of both",
        "rate x planned uptime",
        "CRM, uptime",
        "CRM, all",
    ]
    print(f"\n{'forecast':24s} {'knows':8s} {'MAE':>7s} {'R':>6s}   R by seed; {len(table)} rows, seeds {list(seeds)}")
    for k, name in enumerate(names):
        base = 2 if k < 5 else 5
        ratios = [error[rows, k].mean() / error[rows, base].mean() for rows in groups]
        by_seed = " ".join(f"{ratio:.3f}" for ratio in ratios[1:])
        mode = "nothing" if k < 5 else "plan"
        print(f"{name:24s} {mode:8s} {error[:, k].mean():7.2f} {ratios[0]:6.3f}   {by_seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--level", default="reference")
    parser.add_argument("--variant", default="standard")
    parser.add_argument("--only", choices=("connectivity", "forecasts"))
    given = parser.parse_args()
    config = FieldConfig(level=given.level, variant=given.variant)
    print(f"level {given.level}, variant {given.variant}, {config.producers} producers, {config.injectors} injectors")
    if given.only != "forecasts":
        connectivity_table(config, given.seeds)
    if given.only != "connectivity":
        forecast_table(config, given.seeds)


if __name__ == "__main__":
    main()

"""How the wells workload stands against its targets: a night's chain on one panel, judged from rolling origins.

    python -m benchmarks.wells_targets eddy|sodir|norne|volve|generated [--plan known] [--cutoffs 24] [--models a,b,c]

R is MAE over the MAE of the best of last, mean-3, SES and the latest producing-day rate x mean uptime (where the plan
is known: of planned uptime x median of three producing-day rates) on the same rows, with a 90 % interval from blocks
of six origins. Monthly origins, horizon 6, one refit every six. The ensemble's weights and calibration at an origin
know only outcomes that had closed by then; origins that only warm them up are not judged.

After the league, the ensemble by regime and horizon, then: single wells (share above R 1.15 in the steady regime, R of
wells that count alike), skill per horizon, intervals with their width, a Diebold-Mariano test on origins, and totals:
the field's volume over the horizon against the best naive's, and how often outcomes of sums lie within P90 to P10 of
joint sample paths. Paths at an origin learn from judged origins that had closed by then, so the first ones have none:
`--cutoffs 36` and more leave enough. Brackets hold 90 % intervals: blocks of six origins (none with fewer than twelve
origins), or wells drawn with replacement where wells count alike.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.panels import KEYS, NAIVE_ALL, against, generated, show
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MEDIAN, MODEL, QUANTILES, SEGMENT, TARGET, TIME
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.evaluation.scores import ERROR, covered_expr, pinball_expr
from nightcast.evaluation.skill import (
    BASE,
    RATIO,
    diebold_mariano,
    paired,
    path_totals,
    per_origin,
    ratio_interval,
    series_interval,
    series_ratios,
    total_volumes,
)
from nightcast.evaluation.walk_forward import plan_units, walk_forward
from nightcast.evaluation.workers import WorkerPool
from nightcast.sources.spec import WorkloadFile, load_workload_file
from workloads.panel import panel_workload
from workloads.stages import ENSEMBLE, evaluate

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PANELS = {
    "eddy": ("nm_eddy_wells.yaml", "nm_eddy_wells/monthly.parquet"),
    "sodir": ("sodir_fields.yaml", "sodir_fields/monthly.parquet"),
    "norne": ("norne.yaml", "norne/monthly.parquet"),
    "volve": ("volve.yaml", "volve/raw_monthly.csv"),
}
STEADY = "steady"
BAD = 1.15
"""R above which a well counts as served badly."""
LEAST_ROWS = 12
"""Judged rows a well needs for an R of its own."""
SCALE = "scale"


def planned_naive(data: PanelDataset, cutoffs: list[datetime]) -> pl.DataFrame:
    """Planned uptime times the median of the last three producing-day rates."""
    parts = []
    for cutoff in cutoffs:
        view = data.view(cutoff)
        rate = (
            view.history.filter((pl.col("uptime") > 0.05) & pl.col(TARGET).is_not_null())
            .group_by(ID, maintain_order=True)
            .agg((pl.col(TARGET) / pl.col("uptime")).tail(3).median().alias("rate"))
        )
        ahead = view.future.join(rate, on=ID, how="left")
        value = pl.col("rate").fill_null(0) * pl.col("uptime").fill_null(0)
        parts.append(
            ahead.select(ID, TIME, pl.lit(cutoff).alias(CUTOFF), HORIZON, *(value.alias(name) for name in QUANTILES))
        )
    return pl.concat(parts).join(data.truth(), on=[ID, TIME], how="inner").select(*KEYS, TARGET, *QUANTILES)


# -- what stands behind one R ----------------------------------------------------------------------------------------


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """`0.813 (0.780 to 0.822)`, or the value alone where no interval can be had."""
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def ratio_of(rows: pl.DataFrame, above: pl.Expr, below: pl.Expr) -> tuple[float, str]:
    """A ratio of sums over rows, alone and with its interval by origins."""
    sums = per_origin(rows, above, below)
    value = float(sums[:, 0].sum() / sums[:, 1].sum()) if sums[:, 1].sum() > 0 else math.nan
    return value, with_interval(value, ratio_interval(sums))


def best_of(naive: Mapping[str, pl.DataFrame], rows: pl.DataFrame) -> str:
    """The naive with the least MAE on the forecast's rows that all of them have, as `against` picks it."""
    shared = rows
    for part in naive.values():
        shared = shared.join(part.select(KEYS), on=list(KEYS), how="semi")
    losses = {}
    for name, part in naive.items():
        own = part.join(shared.select(*KEYS, pl.col(TARGET).alias("_y")), on=list(KEYS))
        losses[name] = float(own.select((pl.col(MEDIAN) - pl.col("_y")).abs().mean()).item())
    return min(losses, key=lambda name: losses[name])


def wells_alike(pairs: pl.DataFrame) -> list[dict[str, Any]]:
    """Single wells: R pooled beside R of wells that count alike, and the share of wells that are served badly."""
    from scipy.stats import binomtest

    tables = []
    for name, rows in (("all", pairs), (STEADY, pairs.filter(pl.col(SEGMENT) == STEADY))):
        wells = series_ratios(rows, least_rows=LEAST_ROWS)
        ratio = wells.get_column(RATIO).to_numpy()
        if not len(ratio):
            print(f"no well has {LEAST_ROWS} judged rows ({name})")
            continue
        bad, better = int((ratio > BAD).sum()), int((ratio < 1).sum())
        apart = int((ratio != 1).sum())
        # A naive without any error makes a ratio infinite: such a well counts as bad, and no mean can hold it.
        finite = ratio[np.isfinite(ratio)]
        tables.append(
            {
                "rows of": name,
                f"wells with {LEAST_ROWS} rows or more": len(ratio),
                f"wells with R > {BAD}": f"{bad} of {len(ratio)} ({bad / len(ratio):.1%})",
                "R pooled": ratio_of(rows, ERROR.abs(), base_error().abs())[1],
                "R, mean over wells": with_interval(float(finite.mean()), series_interval(finite)),
                "R, median over wells": with_interval(float(np.median(ratio)), series_interval(ratio, median=True)),
                "wells with R < 1": f"{better} of {len(ratio)}",
                "sign test, p": f"{float(binomtest(better, apart).pvalue):.2g}" if apart else "-",
            }
        )
    return tables


def base_error() -> pl.Expr:
    return pl.col(BASE) - pl.col(TARGET)


def has_fan(rows: pl.DataFrame) -> bool:
    """Whether a forecast says more than a point."""
    return bool(rows.select((pl.col("q90") > pl.col("q10")).any()).item())


def horizon_skill(pairs: pl.DataFrame, last: pl.DataFrame) -> list[dict[str, Any]]:
    """Per step ahead: 1 - MAE / naive's, 1 - MSE / naive's, and 1 - MSE / last value's."""
    beside = paired(pairs.drop(BASE), last)
    tables = []
    for step in pairs.get_column(HORIZON).unique().sort().to_list():
        rows, others = pairs.filter(pl.col(HORIZON) == step), beside.filter(pl.col(HORIZON) == step)
        ratio, squared = per_origin(rows, ERROR.abs(), base_error().abs()), (ERROR.pow(2), base_error().pow(2))
        interval = ratio_interval(ratio)
        tables.append(
            {
                "horizon": step,
                "rows": rows.height,
                "skill, MAE": with_interval(
                    1 - float(ratio[:, 0].sum() / ratio[:, 1].sum()),
                    None if interval is None else (1 - interval[1], 1 - interval[0]),
                ),
                "skill, MSE": 1 - ratio_of(rows, *squared)[0],
                "skill, MSE, last value": 1 - ratio_of(others, *squared)[0],
            }
        )
    return tables


def interval_rows(pairs: pl.DataFrame, naive: pl.DataFrame) -> list[dict[str, Any]]:
    """Coverage of q10 .. q90 and its width over the level at the cutoff, for the ensemble and a naive with a fan."""
    theirs = naive.select(*KEYS, *(pl.col(name).alias(f"_{name}") for name in ("q10", "q90")))
    rows = pairs.join(theirs, on=list(KEYS))
    cuts: list[tuple[str, Any, pl.DataFrame]] = [("all", "", rows)]
    for column in (SEGMENT, HORIZON):
        cuts += [(column, value, part) for (value,), part in sorted(rows.partition_by(column, as_dict=True).items())]
    one, fan = pl.col(HORIZON) * 0 + 1, has_fan(naive)
    return [
        {
            "cut": column,
            "value": value,
            "rows": part.height,
            "wells": part.get_column(ID).n_unique(),
            "coverage80": ratio_of(part, covered_expr(0.1, 0.9), one)[1],
            "width / level": ratio_of(part, pl.col("q90") - pl.col("q10"), pl.col(SCALE))[0],
            "naive's coverage80": ratio_of(part, pl.col(TARGET).is_between("_q10", "_q90"), one)[0] if fan else "-",
            "naive's width / level": ratio_of(part, pl.col("_q90") - pl.col("_q10"), pl.col(SCALE))[0] if fan else "-",
        }
        for column, value, part in cuts
    ]


def loss_tests(pairs: pl.DataFrame, naive: pl.DataFrame, *, overlap: int) -> list[dict[str, Any]]:
    """Diebold-Mariano tests on mean losses per origin: absolute error and, if the naive has a fan, pinball loss."""
    levels = [pl.col(name).alias(f"_{name}") for name in QUANTILES]
    rows = pairs.join(naive.select(*KEYS, *levels), on=list(KEYS))
    own = rows.with_columns(pinball_expr().alias("_own"))
    other = (
        rows.drop(QUANTILES)
        .rename({f"_{name}": name for name in QUANTILES})
        .with_columns(pinball_expr().alias("_other"))
    )
    losses = {
        "absolute error": (own, ERROR.abs(), base_error().abs()),
        "pinball": (own.with_columns(other.get_column("_other")), pl.col("_own"), pl.col("_other")),
    }
    if not has_fan(naive):
        del losses["pinball"]
    tables = []
    for name, (frame, mine, its) in losses.items():
        means = frame.group_by(CUTOFF).agg((mine - its).mean().alias("_less"), its.mean().alias("_base")).sort(CUTOFF)
        less, base = means.select("_less", "_base").to_numpy().T
        test = diebold_mariano(less, horizon=overlap)
        tables.append(
            {
                "loss": name,
                "origins": test.origins,
                "origins won": int((less < 0).sum()),
                "mean difference": test.difference,
                "relative": f"{test.difference / float(base.mean()):+.1%}",
                "t": test.statistic,
                "degrees": test.degrees,
                "p, two-sided": test.p,
            }
        )
    return tables


def field_errors(
    ours: pl.DataFrame, naive: Mapping[str, pl.DataFrame], totals: pl.DataFrame, *, freq: Frequency
) -> list[dict[str, Any]]:
    """Error of the field's volume over the horizon beside the best naive's on the same origins and wells.

    The point forecast of a sum is the sum of the wells' medians, which every origin has; where joint paths are at hand,
    also the median of the paths' sums.
    """
    shared = ours
    for part in naive.values():
        shared = shared.join(part.select(KEYS), on=list(KEYS), how="semi")
    keys = shared.select(KEYS)
    volumes = total_volumes(shared, freq=freq)
    theirs = {
        name: total_volumes(part.join(keys, on=list(KEYS), how="semi"), freq=freq) for name, part in naive.items()
    }
    centre = totals.filter(pl.col("total") == "field_volume").select(CUTOFF, pl.col(MEDIAN).alias("forecast"))
    forecasts = {
        "sum of the wells' medians": volumes,
        "median of joint paths": volumes.drop("forecast").join(centre, on=CUTOFF),
    }
    tables = []
    for name, frame in forecasts.items():
        if not frame.height:
            continue
        joined = {
            its: frame.join(part.select(CUTOFF, pl.col("forecast").alias("_naive")), on=CUTOFF)
            for its, part in theirs.items()
        }
        off = {
            its: float(f.select((pl.col("_naive") - pl.col("actual")).abs().mean()).item()) for its, f in joined.items()
        }
        best = min(off, key=lambda its: off[its])
        mine, base = (pl.col("forecast") - pl.col("actual")).abs(), (pl.col("_naive") - pl.col("actual")).abs()
        rows = joined[best]
        tables.append(
            {
                "point forecast": name,
                "origins": rows.height,
                "wells, mean": float(rows.get_column("series").to_numpy().mean()),
                "error / volume": ratio_of(rows, mine, pl.col("actual"))[0],
                "best naive field": best,
                "its error / volume": ratio_of(rows, base, pl.col("actual"))[0],
                "R": ratio_of(rows, mine, base)[1],
                "origins won": f"{rows.filter(mine < base).height} of {rows.height}",
            }
        )
    return tables


def total_coverage(totals: pl.DataFrame, *, overlap: int) -> list[dict[str, Any]]:
    """Share of outcomes within P90 .. P10 of sums; origins further apart than `overlap` are independent looks."""
    titles = {
        "field_rate": "field, months",
        "field_volume": "field, volume over the horizon",
        "well_volume": "wells, volume over the horizon",
    }
    tables = []
    for total, title in titles.items():
        rows = totals.filter(pl.col("total") == total)
        if not rows.height:
            continue
        inside = rows.filter(covered_expr(0.1, 0.9)).height
        origins = rows.get_column(CUTOFF).n_unique()
        interval = ratio_interval(per_origin(rows, covered_expr(0.1, 0.9), pl.col(MEDIAN) * 0 + 1))
        tables.append(
            {
                "total": title,
                "within P90 .. P10": f"{inside} of {rows.height}",
                "coverage80": with_interval(inside / rows.height, interval),
                "width / outcome": ratio_of(rows, pl.col("q90") - pl.col("q10"), pl.col(TARGET))[0],
                "origins": origins,
                "of them without overlap": -(-origins // overlap),
            }
        )
    return tables


def show_behind(
    ours: pl.DataFrame,
    naive: Mapping[str, pl.DataFrame],
    data: PanelDataset,
    *,
    step: int,
    field_origins: int,
    last: pl.DataFrame | None = None,
) -> None:
    """Print the tables of one model: wells, horizons, intervals, test, totals.

    Parameters
    ----------
    ours
        The model's judged rows with `segment` and `scale`.
    step
        Steps between origins.
    field_origins
        Closed origins that joint paths need.
    last
        Rows of the last value; None: the best naive takes its place.
    """
    best = best_of(naive, ours)
    pairs = paired(ours, naive[best])
    overlap = max(1, -(-data.schema.horizon // step))
    titled: list[tuple[str, Sequence[Mapping[str, Any]]]] = [
        (f"Wells beside {best}; goal: at most 5 % of wells above R {BAD} in the steady regime.", wells_alike(pairs)),
        (
            f"Skill per horizon, 1 - loss over that of {best}.",
            horizon_skill(pairs, naive[best] if last is None else last),
        ),
        ("Intervals: share of outcomes in q10 .. q90, mean width over mean level.", interval_rows(pairs, naive[best])),
        (f"Diebold-Mariano, ensemble less {best}, by origin means.", loss_tests(pairs, naive[best], overlap=overlap)),
    ]
    totals = path_totals(ours, freq=data.schema.freq, lower=data.schema.lower, origins=field_origins)
    titled.append(
        (
            "The field's volume over the horizon; goal: R at most 1.",
            field_errors(ours, naive, totals, freq=data.schema.freq),
        )
    )
    titled.append(
        (
            f"Sums by joint sample paths, at origins with {field_origins} closed ones before them.",
            total_coverage(totals, overlap=overlap),
        )
    )
    for title, rows in titled:
        print(f"\n{title}\n")
        if rows:
            show(rows)
        else:
            print("no rows")


def spec_of(chosen: argparse.Namespace) -> tuple[WorkloadFile, Path, Path | None]:
    """Workload file, its folder, and the data to read."""
    if chosen.panel == "generated":
        spec, data = generated(chosen.seed, **({"plan": chosen.plan} if chosen.plan else {})), None
    else:
        name, path = PANELS[chosen.panel]
        spec, data = load_workload_file(ROOT / "workloads" / name), DATA / path
    refits = max(1, chosen.cutoffs // 6)
    folds = {"cutoffs": chosen.cutoffs, "refits": refits, "step": 1, "min_train": chosen.history}
    changes: dict[str, Any] = {"folds": folds}
    if chosen.models:
        changes["models"] = tuple(chosen.models.split(","))
    return WorkloadFile.model_validate({**spec.model_dump(mode="json", exclude_unset=True), **changes}), ROOT, data


def main() -> None:
    """Print one panel's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panel", choices=[*PANELS, "generated"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plan", choices=["known", "noisy"])
    parser.add_argument("--cutoffs", type=int, default=24)
    parser.add_argument("--history", type=int, default=12, help="known months of some series before the first origin")
    parser.add_argument("--well-history", type=int, default=0, help="judge rows of series with so many known months")
    parser.add_argument("--models", help="catalog names, by comma; default: all of the preset")
    parser.add_argument("--preset", default="nightly_cpu")
    parser.add_argument("--cache", type=Path, help="keep finished units here")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--field-origins", type=int, default=6, help="closed origins that joint paths need")
    chosen = parser.parse_args()
    spec, base, path = spec_of(chosen)
    workload = panel_workload(spec, base)
    raw = workload.source.read(as_of=None, data=path, now=datetime.now(UTC).replace(tzinfo=None))
    verdict = workload.gates.raw(raw)
    verdict.raise_if_stopped()
    recipe = workload.recipe(chosen.preset)
    data: PanelDataset = workload.prepare(raw, verdict, recipe)
    with tempfile.TemporaryDirectory() as scratch:
        cache = chosen.cache or Path(scratch)
        place = cache / data.hash
        data.save(place)
        pool = WorkerPool(cache, chosen.processes)
        try:
            units = plan_units(workload, recipe, workload.folds(data, recipe.folds), data, place, keep_final=False)
            out = walk_forward(units, pool)
        finally:
            pool.close()
        for failure in out.failures:
            print(f"FAILED {failure.unit.title}: {failure.reason}")
        evaluation = evaluate(workload, recipe, data, out)
    members = evaluation.members
    if chosen.well_history:
        known = data.truth().sort(ID, TIME).with_columns(pl.int_range(1, pl.len() + 1).over(ID).alias("_known"))
        members = members.sort(CUTOFF).join_asof(
            known.select(ID, TIME, "_known").sort(TIME), left_on=CUTOFF, right_on=TIME, by=ID, check_sortedness=False
        )
        members = members.filter(pl.col("_known") >= chosen.well_history).drop("_known")
    parts = {str(name): part for (name,), part in members.partition_by(MODEL, as_dict=True).items()}
    naive = {name: parts[name] for name in NAIVE_ALL if name in parts}
    if chosen.plan:
        naive = {"planned_median3": planned_naive(data, members.get_column(CUTOFF).unique().sort().to_list())}
    print(f"{chosen.panel}: {data.frame[ID].n_unique()} series, {workload.facts['information']}\n")
    rows = [{"model": name, **against(part, naive, data)} for name, part in parts.items()]
    show(sorted(rows, key=lambda row: row["R"]))
    print("\nThe ensemble by regime and horizon: R, coverage of its 80 % interval.\n")
    best = min(
        naive, key=lambda name: float(np.abs(naive[name]["q50"].to_numpy() - naive[name][TARGET].to_numpy()).mean())
    )
    ours = parts[ENSEMBLE].join(naive[best].select(*KEYS, pl.col("q50").alias("_naive")), on=list(KEYS))
    tables = []
    for column in (SEGMENT, HORIZON):
        for (value,), part in sorted(ours.partition_by(column, as_dict=True).items()):
            y, low, middle, high, other = part.select(TARGET, "q10", "q50", "q90", "_naive").to_numpy().T
            ratio = float(np.abs(middle - y).sum() / np.abs(other - y).sum())
            inside = float(((y >= low) & (y <= high)).mean())
            tables.append({"cut": column, "value": value, "rows": part.height, "R": ratio, "coverage80": inside})
    show(tables)
    show_behind(
        parts[ENSEMBLE],
        naive,
        data,
        step=recipe.folds.step or 1,
        field_origins=chosen.field_origins,
        last=parts.get("naive_last"),
    )


if __name__ == "__main__":
    main()

"""What the wells workload is held to beyond errors: what-if answers, an oracle's plan, young wells, networks.

    python -m benchmarks.wells_proofs scenario  [--seeds 10 11 12 13 14] [--kinds wwir wbhp uptime]
    python -m benchmarks.wells_proofs oracle    [--cutoffs 36]
    python -m benchmarks.wells_proofs coldstart [--seeds 1 2 3 4 5] [--no-eddy] [--night]
    python -m benchmarks.wells_proofs deep      [--plan known] [--seed 1] [--cutoffs 24] [--fits]
    python -m benchmarks.wells_proofs table10   [--plan known] [--seed 1] [--cutoffs 24]
    python -m benchmarks.wells_proofs dump eddy FOLDER [--origins 3]
    python -m benchmarks.wells_proofs compare eddy FORECASTS.parquet [--models a,b,c]

`scenario`: each injector in turn injects 10 % more over the last six months of a generated field. The product's answer
(fitted on rows up to the month before, `workloads.scenario`) stands against the field simulated twice with the
same seed, wells and noise, once with that injector's daily rates raised. `plan` asks with the schedule of wells and
injectors known; `carried` with nothing known, against a field whose injectors hold their last month's rates. An effect
is the mean change of the noiseless calendar-day rate over the six months. Likewise each producer in turn flows at a
pressure 10 % lower, or is shut every fifth day it would be open (`plan` only): the change of its own rate.

`oracle`: Volve, the actual uptime given as the plan. `coldstart`: wells with fewer than six known months at the origin,
whose start the panel holds. `deep`: the default ensemble with and without its networks, from the same out-of-fold rows.
`table10`: the specification's table in its own terms, from the rows that every line of it has.

`dump` and `compare` are the two ends of `benchmarks/peers`: origins and rows for a program that shares no code with us,
and its forecasts scored beside ours on the same rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.panels import KEYS, NAIVE_ALL, against, dataset, generated, show
from benchmarks.wells_targets import DATA, PANELS, ROOT, planned_naive
from models.catalog import make_forecaster
from models.families.type_curve import Aligned, TypeCurve
from models.families.uptime import on_stream_of
from models.grid import grid_of
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MEDIAN, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.recipe import Recipe
from nightcast.contracts.source import RawData
from nightcast.contracts.workload import Workload
from nightcast.evaluation.folds import final_fold, panel_folds
from nightcast.evaluation.walk_forward import Outcome, plan_units, walk_forward
from nightcast.evaluation.workers import WorkerPool
from nightcast.sources.generator import FieldConfig
from nightcast.sources.generator.field import Simulation, simulate_days
from nightcast.sources.generator.network import Floats, simulate_network
from nightcast.sources.spec import WorkloadFile, load_workload_file
from workloads.panel import panel_workload
from workloads.scenario import FIELD, Change, answer, fitted
from workloads.stages import ENSEMBLE, Evaluation, evaluate

AHEAD = 6
RAISED = 0.1
LOWERED = {"wbhp": 0.1, "uptime": 0.2}
"""Share by which a producer's flowing pressure and time on stream are lowered."""
STRONG = 0.05
"""Connectivity above which a pair counts."""
NOTHING = 1e-6
"""m3/d; a true effect below it is that of a well that is shut all the while."""
YOUNG = 6
"""Known months below which a well is young."""
CURVE = 48
"""Months of the mean curve."""
DEEP = ("well_mixer", "attention_tsmixerx", "tsmixerx")
CLASSICAL = (
    *("naive_last", "naive_mean3", "naive_seasonal", "ses", "theta", "ets"),
    *("linear_global", "mlp_global", "lightgbm_global"),
)
PHYSICS = ("uptime_rate", "crm", "crm_residual")


# -- a night's chain -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A panel ready for the walk-forward."""

    workload: Workload[Any]
    recipe: Recipe
    data: PanelDataset


def changed(spec: WorkloadFile, **changes: Any) -> WorkloadFile:
    """The same workload file but for some keys."""
    return WorkloadFile.model_validate({**spec.model_dump(mode="json", exclude_unset=True), **changes})


def folds(cutoffs: int) -> dict[str, int]:
    """Monthly origins, one refit every six."""
    return {"cutoffs": cutoffs, "refits": max(1, cutoffs // 6), "step": 1, "min_train": 12}


def prepared(
    spec: WorkloadFile, data: Path | None = None, *, preset: str = "nightly_cpu", known: str | None = None
) -> Prepared:
    """Read, gate and prepare; `known` names a covariate whose actual future values become the plan."""
    workload = panel_workload(spec, ROOT / "workloads")
    raw = workload.source.read(as_of=None, data=data, now=datetime.now(UTC).replace(tzinfo=None))
    if known is not None:
        raw = with_oracle(raw, known)
    verdict = workload.gates.raw(raw)
    verdict.raise_if_stopped()
    recipe = workload.recipe(preset)  # type: ignore[arg-type]
    return Prepared(workload, recipe, workload.prepare(raw, verdict, recipe))


def with_oracle(raw: RawData, name: str) -> RawData:
    """The same rows with one covariate planned as it will come."""
    schema = raw.panel.model_copy(update={"covariates": {**raw.panel.covariates, name: "plan"}})
    return replace(raw, schema=schema, plan=raw.frame.select(ID, TIME, name).unique([ID, TIME], keep="first"))


def walked(its: Prepared, chosen: argparse.Namespace) -> Outcome:
    """All units of the recipe, finished ones from the cache."""
    place = chosen.cache / its.data.hash
    its.data.save(place)
    pool = WorkerPool(chosen.cache, chosen.processes)
    try:
        layout = its.workload.folds(its.data, its.recipe.folds)
        units = plan_units(its.workload, its.recipe, layout, its.data, place, keep_final=False)
        out = walk_forward(units, pool)
    finally:
        pool.close()
    for failure in out.failures:
        print(f"FAILED {failure.unit.title}: {failure.reason}")
    return out


def judged(its: Prepared, out: Outcome, without: Sequence[str] = ()) -> Evaluation:
    """The night's evaluation, as if some members had never been there."""
    recipe = its.recipe.model_copy(update={"models": tuple(m for m in its.recipe.models if m.label not in without)})
    kept = Outcome(tuple(r for r in out.results if r.unit.model.label not in without), out.failures)
    return evaluate(its.workload, recipe, its.data, kept)


def by_model(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Rows of each model."""
    return {str(name): part for (name,), part in rows.partition_by(MODEL, as_dict=True).items()}


def known_months(data: PanelDataset) -> pl.DataFrame:
    """`unique_id, ds, known`: how many months of a well are known up to each known one."""
    truth = data.truth().sort(ID, TIME)
    return truth.select(ID, TIME, pl.int_range(1, pl.len() + 1).over(ID).alias("known"))


def with_history(rows: pl.DataFrame, data: PanelDataset) -> pl.DataFrame:
    """Rows with `known`, the well's known months at the cutoff."""
    known = known_months(data).rename({TIME: CUTOFF}).sort(CUTOFF)
    return rows.sort(CUTOFF).join_asof(known, on=CUTOFF, by=ID, check_sortedness=False)


# -- scenario --------------------------------------------------------------------------------------------------------


def true_change(
    simulation: Simulation, source: int | None, month: int, *, carried: bool, by: float = RAISED
) -> tuple[Floats, Floats]:
    """What one injector's raised rate changes, by simulating the field's days twice.

    Parameters
    ----------
    source
        Row of the injector; None raises none.
    month
        First month of the raised rate.
    carried
        Whether all injectors hold their mean rate of the month before from then on, in both runs.

    Returns
    -------
    change, extra
        `(months ahead, J)` change of the calendar-day rate, m3/d, and `(months ahead,)` the water added, m3/d.
    """
    schedule, months, network = simulation.schedule, simulation.months, simulation.tanks.network
    begin = int(months.first[month])
    base = schedule.injection.copy()
    if carried:
        base[begin:] = (months.sums(schedule.injection) / months.days[:, None])[month - 1]
    case = base.copy()
    if source is not None:
        case[begin:, source] *= 1.0 + by
    arriving = network.connectivity * schedule.injection[0][:, None]
    rates = []
    for injection in (base, case):
        flow = simulate_network(
            network, replace(schedule, injection=injection), pressure=simulation.flow.pressure[0], arriving=arriving
        )
        rates.append(months.sums(flow.rate) / months.days[:, None])
    extra = (months.sums(case - base) / months.days[:, None]).sum(axis=1)
    return (rates[1] - rates[0])[month:], extra[month:]


def true_answer(simulation: Simulation, well: int, month: int, kind: str) -> Floats:
    """What a producer's own rate does when its pressure is lowered, or it is shut every fifth day it would be open.

    Parameters
    ----------
    well
        Row of the producer.
    month
        First month of the change.
    kind
        `wbhp` or `uptime`; by how much: `LOWERED`.

    Returns
    -------
    `(months ahead,)` change of the calendar-day rate, m3/d.
    """
    schedule, months, network = simulation.schedule, simulation.months, simulation.tanks.network
    begin = int(months.first[month])
    is_open, p_wf = schedule.is_open.copy(), schedule.p_wf.copy()
    if kind == "wbhp":
        p_wf[begin:, well] *= 1.0 - LOWERED[kind]
    else:
        every = round(1.0 / LOWERED[kind])
        flowing = begin + np.flatnonzero(is_open[begin:, well])
        is_open[flowing[every // 2 :: every], well] = False
    arriving = network.connectivity * schedule.injection[0][:, None]
    rates = []
    for case in (schedule, replace(schedule, is_open=is_open, p_wf=p_wf)):
        flow = simulate_network(network, case, pressure=simulation.flow.pressure[0], arriving=arriving)
        rates.append(months.sums(flow.rate)[month:, well] / months.days[month:])
    return np.asarray(rates[1] - rates[0])


def well_rows(seed: int, kind: str, *, draws: int, most: int | None = None) -> pl.DataFrame:
    """Wells of one field: `seed, producer, truth, told, inside, clear, gauged`, effects as means over the months."""
    config = FieldConfig(seed=seed)
    simulation = simulate_days(config)
    data = dataset(generated(seed, plan="known"), features={"status": {}})
    view = data.view(data.schema.freq.shift(data.as_of, -AHEAD))
    block = fitted(view, draws=draws, seed=seed)
    # A producer's setting moves no other well of the block, so that all can be asked at once.
    told = answer(block, [Change("*", kind, -LOWERED[kind], True)]).rows
    gauged = dict(zip(block.producers, np.isfinite(block.crm.reference), strict=True))
    rows = []
    for well, name in list(enumerate(simulation.layout.producers))[:most]:
        own = told.filter(pl.col(ID) == name).sort(HORIZON)
        truth = true_answer(simulation, well, config.months - AHEAD, kind)
        if own.is_empty() or np.abs(truth).mean() <= NOTHING:
            continue
        low, high = own["change_low"].to_numpy(), own["change_high"].to_numpy()
        rows.append(
            {
                "seed": seed,
                "producer": name,
                "truth": float(truth.mean()),
                "told": float(own["change"].to_numpy().mean()),
                "inside": float(((low - 1e-9 <= truth) & (truth <= high + 1e-9)).mean()),
                "clear": float(((low > 0) | (high < 0)).mean()),
                "gauged": bool(gauged[name]),
            }
        )
    return pl.DataFrame(rows)


def well_scores(wells: pl.DataFrame, kind: str) -> dict[str, Any]:
    """The table's line; of pressure, wells with a gauge: the others are not answered for."""
    asked = wells if kind == "uptime" else wells.filter("gauged")
    error = (asked["told"] / asked["truth"] - 1.0).to_numpy()
    low, high = np.quantile(error, [0.25, 0.75])
    return {
        "wells": asked.height,
        "not_answered": wells.height - asked.height,
        "sign": float((asked["told"] * asked["truth"] > 0).mean()),  # type: ignore[arg-type]
        "interval_clear_of_0": float(asked["clear"].mean()),  # type: ignore[arg-type]
        "median_error": float(np.median(np.abs(error))),
        "quartiles": f"{low:+.2f} {high:+.2f}",
        "told_over_true": float(asked["told"].sum()) / float(asked["truth"].sum()),
        "inside": float(asked["inside"].mean()),  # type: ignore[arg-type]
    }


def pair_rows(
    told: pl.DataFrame, change: Floats, producers: Sequence[str], connectivity: Floats, injector: str
) -> pl.DataFrame:
    """One row a pair: `injector, producer, f, truth, told, inside, above`.

    Parameters
    ----------
    told
        `Answer.rows` of the scenario.
    change
        `(H, J)` true change.
    connectivity
        `(J,)` of the injector.
    """
    steps = np.arange(1, len(change) + 1, dtype=np.int32)
    truth = pl.DataFrame(
        {
            ID: np.repeat(np.array(producers, dtype=object), len(change)).tolist(),
            HORIZON: np.tile(steps, len(producers)),
            "truth": change.T.ravel(),
            "f": np.repeat(connectivity, len(change)),
        }
    )
    joined = told.with_columns(pl.col(HORIZON).cast(pl.Int32)).join(truth, on=[ID, HORIZON], how="inner")
    inside = pl.col("truth").is_between(pl.col("change_low") - 1e-9, pl.col("change_high") + 1e-9)
    return (
        joined.group_by(pl.col(ID).alias("producer"), maintain_order=True)
        .agg(
            pl.col("f").first(),
            pl.col("truth").mean(),
            pl.col("change").mean().alias("told"),
            inside.mean().alias("inside"),
            (pl.col("change_low") > 0).mean().alias("above"),
        )
        .with_columns(pl.lit(injector).alias("injector"))
    )


def pair_scores(pairs: pl.DataFrame) -> dict[str, Any]:
    """The table's line: pairs with a connectivity above `STRONG` and a well that is not shut all the while."""
    strong = pairs.filter((pl.col("f") > STRONG) & (pl.col("truth") > NOTHING))
    error = (strong["told"] / strong["truth"] - 1.0).to_numpy()
    low, high = np.quantile(error, [0.25, 0.75])
    return {
        "pairs": strong.height,
        "shut": pairs.filter((pl.col("f") > STRONG) & (pl.col("truth") <= NOTHING)).height,
        "sign": float((strong["told"] > NOTHING).mean()),  # type: ignore[arg-type]
        "interval_above_0": float(strong["above"].mean()),  # type: ignore[arg-type]
        "median_error": float(np.median(np.abs(error))),
        "quartiles": f"{low:+.2f} {high:+.2f}",
        "told_over_true": float(strong["told"].sum()) / float(strong["truth"].sum()),
        "inside": float(strong["inside"].mean()),  # type: ignore[arg-type]
        "inside_all": float(pairs["inside"].mean()),  # type: ignore[arg-type]
    }


def scenario_rows(seed: int, *, carried: bool, draws: int, most: int | None = None) -> tuple[pl.DataFrame, list[float]]:
    """Pairs of one field, and per injector the relative error of the change of all wells together."""
    config = FieldConfig(seed=seed)
    simulation = simulate_days(config)
    data = dataset(generated(seed, **({} if carried else {"plan": "known"})), features={"status": {}})
    month = config.months - AHEAD
    view = data.view(data.schema.freq.shift(data.as_of, -AHEAD))
    names = simulation.layout.sources
    block = fitted(view, draws=draws, seed=seed)
    parts, totals = [], []
    for source, name in list(enumerate(names))[:most]:
        change, extra = true_change(simulation, source, month, carried=carried)
        last = view.support.filter(pl.col(ID) == name)["wwir"].drop_nulls()
        if extra.sum() <= NOTHING or not len(last) or (carried and last[-1] <= 0):
            continue
        told = answer(block, [Change(name, "wwir", RAISED, True)]).rows
        pairs = pair_rows(
            told, change, simulation.layout.producers, simulation.tanks.network.connectivity[source], name
        )
        parts.append(pairs)
        total = told.filter(pl.col(ID) == FIELD)["change"].mean()
        totals.append(float(total) / float(pairs["truth"].sum()) - 1.0)  # type: ignore[arg-type]
    return pl.concat(parts), totals


def scenario(chosen: argparse.Namespace) -> None:
    for kind in (kind for kind in chosen.kinds if kind != "wwir"):
        fields = [well_rows(seed, kind, draws=chosen.draws, most=chosen.wells) for seed in chosen.seeds]
        print(f"\nplan: -{LOWERED[kind]:.0%} {kind} of each producer over {AHEAD} months\n")
        lines = [{"seed": seed, **well_scores(rows, kind)} for seed, rows in zip(chosen.seeds, fields, strict=True)]
        show([*lines, {"seed": "all", **well_scores(pl.concat(fields), kind)}])
        print(flush=True)
    for mode in chosen.modes if "wwir" in chosen.kinds else ():
        carried = mode == "carried"
        rows, everything, totals = [], [], []
        for seed in chosen.seeds:
            begin = time.perf_counter()
            pairs, errors = scenario_rows(seed, carried=carried, draws=chosen.draws, most=chosen.injectors)
            everything.append(pairs)
            totals += errors
            rows.append({"seed": seed, "injectors": len(errors), **pair_scores(pairs)})
            rows[-1]["median_error_field"] = float(np.median(np.abs(errors)))
            print(f"  seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
        pooled = {"seed": "all", "injectors": len(totals), **pair_scores(pl.concat(everything))}
        pooled["median_error_field"] = float(np.median(np.abs(totals)))
        print(f"\n{mode}: +{RAISED:.0%} of each injector over {AHEAD} months\n")
        show([*rows, pooled])
        print(flush=True)


# -- oracle ----------------------------------------------------------------------------------------------------------


def oracle(chosen: argparse.Namespace) -> None:
    name, path = PANELS["volve"]
    members = chosen.models.split(",") if chosen.models else ["naive_planned", *CLASSICAL, *PHYSICS]
    spec = changed(load_workload_file(ROOT / "workloads" / name), folds=folds(chosen.cutoffs), models=members)
    its = prepared(spec, DATA / path, known="uptime")
    out = walked(its, chosen)
    parts = by_model(judged(its, out).members)
    origins = parts[ENSEMBLE][CUTOFF].unique().sort().to_list()
    naive = planned_naive(its.data, origins)
    parts = {"oracle uptime x median of 3": naive, **parts}
    for least in (1, 24):
        base = with_history(naive, its.data).filter(pl.col("known") >= least)
        base = base.join(parts[ENSEMBLE].select(KEYS), on=list(KEYS), how="semi")
        print(f"\nVolve, actual uptime as the plan; wells with {least} known months or more at the origin\n")
        show([{"model": label, **against(part, {"planned": base}, its.data)} for label, part in parts.items()])


# -- cold start ------------------------------------------------------------------------------------------------------


def mean_curve(view: PanelView) -> tuple[Floats, dict[str, tuple[float, int]]]:
    """Mean over all wells of their rates by month on stream, each divided by the mean of its first three.

    Returns
    -------
    curve, wells
        `(CURVE,)`, and per well the mean of its first three months and the months since its first.
    """
    grid = grid_of(view)
    wells = Aligned.of(on_stream_of(view, grid), CURVE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no month is NaN, as it should be
        level = np.nanmean(wells.y[:, :3], axis=1)
        curve = np.nanmean(wells.y[level > 0] / level[level > 0][:, None], axis=0)
    told = zip(level.tolist(), wells.months.tolist(), strict=True)
    return curve, dict(zip(grid.ids, told, strict=True))


def young_wells(view: PanelView, first: datetime) -> list[str]:
    """Wells owed a forecast with fewer than `YOUNG` known months, one positive at least, that began in the panel."""
    known = view.history.group_by(ID).agg(
        pl.col(TARGET).count().alias("n"),
        (pl.col(TARGET) > 0).sum().alias("some"),
        pl.col(TIME).filter(pl.col(TARGET).is_not_null()).min().alias("born"),
    )
    young = known.filter((pl.col("n") < YOUNG) & (pl.col("some") > 0) & (pl.col("born") > first))
    return sorted(set(young[ID].to_list()) & set(view.series))


def cold_rows(data: PanelDataset, *, back: int, every: int, refit: int = 6) -> pl.DataFrame:
    """Forecasts of young wells from rolling origins: `q10 .. q90` of the type curve, `last`, `curve`, `y`."""
    freq, first = data.schema.freq, data.frame[TIME].min()
    assert isinstance(first, datetime)
    origins = range(min(back, freq.steps_between(first, data.as_of) - 18), data.schema.horizon - 1, -every)
    parts: list[pl.DataFrame] = []
    model: TypeCurve | None = None
    for count, steps in enumerate(origins):
        cutoff = freq.shift(data.as_of, -steps)
        view = data.view(cutoff)
        if view.history[TARGET].count() == 0:
            continue
        if model is None or count * every % refit == 0:
            model, (curve, _) = TypeCurve().fit(view, seed=1), mean_curve(view)
        young = young_wells(view, first)
        if not young:
            continue
        _, wells = mean_curve(view)
        asked = replace(view, future=view.future.filter(pl.col(ID).is_in(young)))
        last = asked.history.filter(pl.col(ID).is_in(young)).group_by(ID).agg(pl.col(TARGET).drop_nulls().last())
        rows = model.predict(asked).frame.join(last.rename({TARGET: "last"}), on=ID)
        level = np.array([wells[name][0] for name in rows[ID]])
        month = np.array([wells[name][1] for name in rows[ID]]) + rows[HORIZON].to_numpy() - 1
        parts.append(rows.with_columns(pl.Series("curve", level * curve[np.minimum(month, CURVE - 1)])))
    return pl.concat(parts).join(data.truth(), on=[ID, TIME], how="inner").drop_nulls("curve")


def cold_scores(rows: pl.DataFrame) -> dict[str, Any]:
    """Errors of young wells against the last value and the mean curve, with 90 % intervals over wells."""
    error = rows.select(
        ID,
        (pl.col(MEDIAN) - pl.col(TARGET)).abs().alias("own"),
        (pl.col("last") - pl.col(TARGET)).abs(),
        (pl.col("curve") - pl.col(TARGET)).abs(),
    )
    sums = error.group_by(ID, maintain_order=True).sum().drop(ID).to_numpy()
    drawn = sums[np.random.default_rng(1).integers(0, len(sums), (1000, len(sums)))].sum(axis=1)
    out: dict[str, Any] = {"wells": len(sums), "origins": rows[CUTOFF].n_unique(), "rows": rows.height}
    out["MAE"] = float(error["own"].mean())  # type: ignore[arg-type]
    for at, name in ((1, "R_last"), (2, "R_curve")):
        low, high = np.quantile(drawn[:, 0] / drawn[:, at], [0.05, 0.95])
        out[name] = float(sums[:, 0].sum() / sums[:, at].sum())
        out[f"{name}_90%"] = f"{low:.2f} to {high:.2f}"
    out["coverage80"] = float(rows.select(pl.col(TARGET).is_between("q10", "q90").mean()).item())
    return out


def young_rows(rows: pl.DataFrame, data: PanelDataset) -> pl.DataFrame:
    """Rows of wells that are young at the cutoff, as `young_wells` has it."""
    first = data.frame[TIME].min()
    born = data.truth().group_by(ID).agg(pl.col(TIME).min().alias("born"))
    began = data.truth().filter(pl.col(TARGET) > 0).group_by(ID).agg(pl.col(TIME).min().alias("began"))
    known = with_history(rows, data).join(born, on=ID).join(began, on=ID)
    young = (pl.col("known") < YOUNG) & (pl.col("born") > first) & (pl.col("began") <= pl.col(CUTOFF))
    return known.filter(young).drop("known", "born", "began")


def night_of_the_young(chosen: argparse.Namespace) -> None:
    """A night's chain on Eddy with the type curve as one more member, judged on the rows of young wells."""
    name, path = PANELS["eddy"]
    members = [*(chosen.models.split(",") if chosen.models else CLASSICAL), "type_curve"]
    spec = changed(load_workload_file(ROOT / "workloads" / name), folds=folds(chosen.cutoffs), models=members)
    its = prepared(spec, DATA / path)
    out = walked(its, chosen)
    parts = by_model(judged(its, out, without=["type_curve"]).members)
    both = by_model(judged(its, out).members)
    parts |= {"type_curve": both["type_curve"], f"{ENSEMBLE} with type_curve": both[ENSEMBLE]}
    fewest = {"ets", "theta"}  # these leave the youngest wells out
    young = shared({label: young_rows(rows, its.data) for label, rows in parts.items() if label not in fewest})
    naive = {"naive_last": young["naive_last"]}
    print(f"\nEddy, wells with fewer than {YOUNG} known months ({young['naive_last'][ID].n_unique()} wells)\n")
    lines = [{"model": label, **against(rows, naive, its.data)} for label, rows in young.items()]
    show(sorted(lines, key=lambda line: line["R"]))


def coldstart(chosen: argparse.Namespace) -> None:
    if chosen.night:
        night_of_the_young(chosen)
        return
    lines = []
    for seed in chosen.seeds:
        rows = cold_rows(dataset(generated(seed), features={}), back=96, every=1)
        lines.append({"panel": f"generated {seed}", **cold_scores(rows)})
        print(lines[-1], flush=True)
    if not chosen.no_eddy:
        name, path = PANELS["eddy"]
        data = dataset(ROOT / "workloads" / name, DATA / path, features={})
        lines.append({"panel": "eddy", **cold_scores(cold_rows(data, back=150, every=2))})
    show(lines)


# -- networks --------------------------------------------------------------------------------------------------------


def deep(chosen: argparse.Namespace) -> None:
    spec = changed(
        generated(chosen.seed, **({"plan": chosen.plan} if chosen.plan else {})), folds=folds(chosen.cutoffs)
    )
    its = prepared(spec)
    if chosen.fits:
        fit_costs(its)
        return
    out = walked(its, chosen)
    full, less = judged(its, out), judged(its, out, without=DEEP)
    parts, other = by_model(full.members), by_model(less.members)
    print(f"\ngenerated {chosen.seed}, {its.workload.facts['information']}, {spec.folds}\n")
    naive = {name: parts[name] for name in NAIVE_ALL if name in parts}
    if chosen.plan:
        naive = {"planned_median3": planned_naive(its.data, parts[ENSEMBLE][CUTOFF].unique().sort().to_list())}
    lines = {**{name: parts[name] for name in DEEP}, "with networks": parts[ENSEMBLE], "without": other[ENSEMBLE]}
    show([{"model": label, **against(rows, naive, its.data)} for label, rows in lines.items()])
    ratio = against(parts[ENSEMBLE], {"without": other[ENSEMBLE]}, its.data)
    print(f"\nMAE with networks / without: {ratio['R']:.4f} ({ratio['R_low']:.4f} to {ratio['R_high']:.4f}, 90 %)")
    for horizon, weights in full.weights["weights"].items():
        told = ", ".join(f"{name} {weights.get(name, 0.0):.3f}" for name in DEEP)
        print(f"final weights at h = {horizon}: {told}")
    for name in DEEP:
        cost = [r.fit_seconds for r in out.results if r.unit.model.label == name]
        print(f"{name}: fits of {', '.join(f'{s:.0f}' for s in cost)} s in the walk-forward")


def fit_costs(its: Prepared) -> None:
    """Seconds of one fit on the whole panel, one thread."""
    import torch

    torch.set_num_threads(1)
    view = its.data.training(final_fold(its.data, its.recipe.folds))
    wells, budget = view.history[ID].n_unique(), its.recipe.limits.seconds
    lines = []
    for name in DEEP:
        choice = next(choice for choice in its.recipe.models if choice.name == name)
        make_forecaster(choice)  # imports are not the fit's
        cpu, wall = time.process_time(), time.perf_counter()
        make_forecaster(choice).fit(view, seed=1)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        lines.append({"model": name, "wells": wells, "cpu_s": cpu, "wall_s": wall, "budget_s": budget})
    show(lines)


# -- the specification's table ---------------------------------------------------------------------------------------


def plain_scores(rows: pl.DataFrame) -> dict[str, float]:
    """MAE, RMSE and R2 pooled over all rows, and what they hide: R2 about each well's own mean, NSE well by well."""
    error, y = (rows[MEDIAN] - rows[TARGET]).to_numpy(), rows[TARGET].to_numpy()
    wells = rows.group_by(ID).agg(
        (pl.col(MEDIAN) - pl.col(TARGET)).pow(2).sum().alias("sse"),
        (pl.col(TARGET) - pl.col(TARGET).mean()).pow(2).sum().alias("sst"),
    )
    sse, sst = wells.filter(pl.col("sst") > 0).select("sse", "sst").to_numpy().T
    low, middle, high = np.quantile(1 - sse / sst, [0.25, 0.5, 0.75])
    return {
        "MAE": float(np.abs(error).mean()),
        "RMSE": float(np.sqrt((error**2).mean())),
        "R2_pooled": float(1 - (error**2).sum() / ((y - y.mean()) ** 2).sum()),
        "R2_within": float(1 - sse.sum() / sst.sum()),
        "NSE_q25": float(low),
        "NSE_median": float(middle),
        "NSE_q75": float(high),
        "nMAE": float(np.abs(error).sum() / np.abs(y).sum()),
    }


def shared(parts: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Each part's rows that all parts have."""
    keys = None
    for part in parts.values():
        keys = part.select(KEYS) if keys is None else keys.join(part.select(KEYS), on=list(KEYS), how="semi")
    assert keys is not None
    return {name: part.join(keys, on=list(KEYS), how="semi").sort(KEYS) for name, part in parts.items()}


def table10(chosen: argparse.Namespace) -> None:
    layout = folds(chosen.cutoffs)
    source = {"kind": "field_generator", "params": {"seed": chosen.seed}}
    if chosen.plan:
        source["plan"] = chosen.plan
    single = [
        {"name": "tsmixerx", "label": "target_only", "params": {"max_exog": 0}},
        {"name": "multiscale_tsmixer"},
        {"name": "attention_tsmixerx"},
    ]
    usual = prepared(changed(load_workload_file(ROOT / "workloads" / "wells.yaml"), source=source, folds=layout))
    out = walked(usual, chosen)
    parts = by_model(judged(usual, out).members)
    alone = prepared(
        changed(load_workload_file(ROOT / "workloads" / "wells.yaml"), source=source, folds=layout, models=single)
    )
    loose = by_model(walked(alone, chosen).out_of_fold().join(alone.data.truth(), on=[ID, TIME], how="inner"))
    lines = {
        "naive: last value": parts["naive_last"],
        "naive: mean of 3": parts["naive_mean3"],
        "naive: exponential smoothing": parts["ses"],
    }
    if chosen.plan:
        lines["naive: planned uptime x median of 3"] = planned_naive(
            usual.data, parts[ENSEMBLE][CUTOFF].unique().sort().to_list()
        )
    lines |= {
        "baseline: TSMixerx, target only": loose["target_only"],
        "phase 1: TSMixerx with features": parts["tsmixerx"],
        "phase 2: MultiScaleTSMixer": loose["multiscale_tsmixer"],
        "phase 2: AttentionTSMixerx": loose["attention_tsmixerx"],
    }
    for name, title in (("wells_weighted3", "phase 2: ensemble of 3"), ("wells_ensemble4", "phase 2: ensemble of 4")):
        given = prepared(changed(load_workload_file(ROOT / "workloads" / f"{name}.yaml"), source=source, folds=layout))
        answers = walked(given, chosen)
        evaluation = judged(given, answers)
        lines[title] = by_model(evaluation.members)[ENSEMBLE]
        lines[f"{title}, weights unguarded"] = given_weights(answers, given)
    lines["default night: lightgbm_global"] = parts["lightgbm_global"]
    lines["default night: ensemble"] = parts[ENSEMBLE]
    rows = shared(lines)
    one = next(iter(rows.values()))
    between = one.group_by(ID).agg(pl.col(TARGET).mean().alias("m"), pl.len().alias("n"))
    grand = float(one[TARGET].mean())  # type: ignore[arg-type]
    apart = float((between["n"] * (between["m"] - grand) ** 2).sum())
    spread = apart / float(((one[TARGET] - grand) ** 2).sum())
    print(
        f"\ngenerated {chosen.seed}, {usual.workload.facts['information']}: {one.height} rows, "
        f"{one[CUTOFF].n_unique()} origins, {one[ID].n_unique()} wells, mean {grand:.1f} m3/d, "
        f"between-well share of variance {spread:.2f}\n"
    )
    base = plain_scores(rows["baseline: TSMixerx, target only"])["MAE"]
    show(
        [{"line": name, **(s := plain_scores(part)), "MAE / baseline": s["MAE"] / base} for name, part in rows.items()]
    )


def given_weights(out: Outcome, its: Prepared) -> pl.DataFrame:
    """Forecasts under the recipe's given weights alone, as the specification averages them, without guard."""
    weights = its.recipe.combiner.weights
    assert weights is not None
    rows = out.out_of_fold().filter(pl.col(MODEL).is_in(list(weights)))
    share = pl.col(MODEL).replace_strict(weights, return_dtype=pl.Float64)
    mixed = (
        rows.with_columns(share.alias("_w"))
        .group_by(KEYS)
        .agg(pl.len().alias("_n"), *((pl.col(name) * pl.col("_w")).sum() / pl.col("_w").sum() for name in QUANTILES))
    )
    mixed = mixed.filter(pl.col("_n") == len(weights)).drop("_n")
    return mixed.join(its.data.truth(), on=[ID, TIME], how="inner").sort(KEYS)


# -- peers -----------------------------------------------------------------------------------------------------------


def panel_spec(chosen: argparse.Namespace) -> tuple[WorkloadFile, Path]:
    """Workload file and data of a real panel."""
    name, path = PANELS[chosen.panel]
    spec = changed(load_workload_file(ROOT / "workloads" / name), folds=folds(chosen.cutoffs))
    if chosen.models:
        spec = changed(spec, models=chosen.models.split(","))
    return spec, DATA / path


def peer_origins(data: PanelDataset, recipe: Recipe, count: int) -> list[datetime]:
    """The last `count` origins of the walk-forward whose horizons do not overlap, rising."""
    origins = [cutoff for fold in panel_folds(data, recipe.folds) for cutoff in fold.cutoffs]
    return sorted(origins[:: -data.schema.horizon][:count])


def dump(chosen: argparse.Namespace) -> None:
    its = prepared(*panel_spec(chosen))
    chosen.folder.mkdir(parents=True, exist_ok=True)
    rows = its.data.frame.filter(pl.col(TIME) <= its.data.as_of).select(ID, TIME, TARGET)
    rows.write_parquet(chosen.folder / "panel.parquet")
    origins = peer_origins(its.data, its.recipe, chosen.origins)
    owed = {f"{cutoff:%Y-%m-%d}": its.data.view(cutoff).series for cutoff in origins}
    facts = {
        "freq": its.data.schema.freq.alias,
        "horizon": its.data.schema.horizon,
        "lower": its.data.schema.lower,
        "levels": [int(name[1:]) / 100 for name in QUANTILES],
        "origins": owed,
    }
    (chosen.folder / "origins.json").write_text(json.dumps(facts, indent=1))
    told = ", ".join(f"{origin} ({len(series)} series)" for origin, series in owed.items())
    print(f"{chosen.folder}: {rows.height} rows, origins {told}")


def compare(chosen: argparse.Namespace) -> None:
    its = prepared(*panel_spec(chosen))
    peer = pl.read_parquet(chosen.forecasts).with_columns(
        pl.col(TIME).cast(pl.Datetime("us")), pl.col(CUTOFF).cast(pl.Datetime("us")), pl.col(HORIZON).cast(pl.Int32)
    )
    peer = peer.join(its.data.truth(), on=[ID, TIME], how="inner")
    parts = by_model(judged(its, walked(its, chosen)).members)
    lines = shared({"peer": peer, **parts})
    naive = {name: lines[name] for name in NAIVE_ALL if name in lines}
    title = f"{chosen.panel}: rows that the peer and all of ours have, {peer[CUTOFF].n_unique()} origins"
    print(f"\n{title}; {peer.height} rows of the peer have an outcome\n")
    show(
        sorted(
            ({"model": name, **against(rows, naive, its.data)} for name, rows in lines.items()),
            key=lambda row: row["R"],
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, *, cutoffs: int | None = 24) -> argparse.ArgumentParser:
        out = commands.add_parser(name)
        if cutoffs is not None:
            out.add_argument("--cutoffs", type=int, default=cutoffs)
            out.add_argument("--models", help="catalog names, by comma")
            out.add_argument("--cache", type=Path, help="keep finished units here")
            out.add_argument("--processes", type=int, default=2)
        return out

    asked = command("scenario", cutoffs=None)
    asked.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    asked.add_argument("--modes", nargs="+", choices=["plan", "carried"], default=["plan", "carried"])
    asked.add_argument("--draws", type=int, default=100, help="draws behind an interval")
    asked.add_argument("--kinds", nargs="+", choices=["wwir", *LOWERED], default=["wwir", *LOWERED])
    asked.add_argument("--wells", type=int, help="so many producers of a field only")
    asked.add_argument("--injectors", type=int, help="so many of a field only")
    command("oracle", cutoffs=36)
    asked = command("coldstart")
    asked.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    asked.add_argument("--no-eddy", action="store_true")
    asked.add_argument("--night", action="store_true", help="Eddy's night on the rows of young wells, instead")
    for name in ("deep", "table10"):
        asked = command(name)
        asked.add_argument("--seed", type=int, default=1)
        asked.add_argument("--plan", choices=["known", "noisy"])
        if name == "deep":
            asked.add_argument("--fits", action="store_true", help="time one fit of each network, and nothing else")
    asked = command("dump")
    asked.add_argument("panel", choices=list(PANELS))
    asked.add_argument("folder", type=Path)
    asked.add_argument("--origins", type=int, default=3)
    asked = command("compare")
    asked.add_argument("panel", choices=list(PANELS))
    asked.add_argument("forecasts", type=Path)
    chosen = parser.parse_args()
    run = {
        "scenario": scenario,
        "oracle": oracle,
        "coldstart": coldstart,
        "deep": deep,
        "table10": table10,
        "dump": dump,
        "compare": compare,
    }
    with tempfile.TemporaryDirectory() as scratch:
        if getattr(chosen, "cache", None) is None:
            chosen.cache = Path(scratch)
        run[chosen.command](chosen)


if __name__ == "__main__":
    main()

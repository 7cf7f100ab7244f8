"""Does attention point at what matters? `attention_tsmixerx` on generated fields, where the truth is known.

python -m benchmarks.attention_truth --seed 1 --seed 2

Two tables, preset `nightly_cpu`. *Default features*: attention of a night's model against knock-outs; a generated field
has no season, so `cal_*` and `fourier_*` are the inputs without a cause. *Planted*: the model is given what truly
drives each well (water that arrives, flowing pressure, uptime) and the same three of another field, which drive
nothing here. AUC is the chance that an input with a cause stands above one without; .5 is none.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import polars as pl

from benchmarks.panels import dataset, factory, generated, show
from models.families.mixers import AttentionMixer
from nightcast.contracts.columns import ID, ROLE_TARGET, SERIES_ROLE, TARGET, TIME
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.reports.attention_views import rank_agreement
from nightcast.sources.generator import FieldConfig, simulate_field

DRIVERS = ("support", "p_wf", "uptime")
SEASON = ("cal_", "fourier_")
FOREIGN = "foreign_"
"""Before the name of another field's driver."""
OTHER_FIELD = 100
"""Added to a field's seed for the field that the foreign drivers come from."""


def planted(config: FieldConfig, *, horizon: int = 6) -> PanelView:
    """A generated field whose covariates are its wells' noiseless drivers and those of another field's wells."""

    def drivers(of: FieldConfig) -> pl.DataFrame:
        mean = pl.col("support").mean().over(ID)
        truth = simulate_field(of).truth.monthly
        share = (pl.col("support") / mean).fill_nan(None)  # a well that no injector reaches has none
        return truth.select(ID, TIME, support=share, p_wf="p_wf", uptime="uptime")

    rows = simulate_field(config).monthly.filter(pl.col(SERIES_ROLE) == ROLE_TARGET).select(ID, TIME, TARGET)
    foreign = drivers(replace(config, seed=config.seed + OTHER_FIELD))
    foreign = foreign.rename({name: FOREIGN + name for name in DRIVERS})
    for its in (drivers(config), foreign):
        rows = rows.join(its, on=[ID, TIME], how="left")
    names = [*DRIVERS, *(FOREIGN + name for name in DRIVERS)]
    schema = PanelSchema(freq="MS", horizon=horizon, lower=0.0, covariates={name: "past" for name in names})
    last: Any = rows.get_column(TIME).max()
    columns = {name: FeatureColumn(role="past") for name in names}
    as_of = schema.freq.shift(last, -horizon)
    return PanelDataset(rows.sort(ID, TIME), schema, columns, as_of=as_of).view(as_of)


def auc(found: pl.DataFrame, column: str, causeless: tuple[str, ...]) -> float:
    """Chance that an input with a cause has the larger value."""
    idle = pl.any_horizontal(pl.col("name").str.starts_with(prefix) for prefix in causeless)
    driving, rest = (found.filter(chosen).get_column(column).to_numpy() for chosen in (~idle, idle))
    return float((driving[:, None] > rest[None, :]).mean())


def against_truth(model: AttentionMixer, view: PanelView, causeless: tuple[str, ...]) -> dict[str, Any]:
    """One row of a table."""
    check = model.knock_outs(view)
    found = check.filter(~pl.col("own"))
    return {
        "inputs": found.height,
        "attention, least to most": _span(found, "weight"),
        "change, least to most": _span(found, "change"),
        "rank correlation with change": rank_agreement(check),
        "with rise of error": rank_agreement(check, of="rise"),
        "AUC attention": auc(found, "weight", causeless),
        "AUC change": auc(found, "change", causeless),
        "AUC rise": auc(found, "rise", causeless),
        "most attention": _top(found, "weight"),
        "largest change": _top(found, "change"),
    }


def _span(found: pl.DataFrame, column: str) -> str:
    values = found.get_column(column).to_numpy()
    return f"{values.min():.3f} to {values.max():.3f}"


def _top(found: pl.DataFrame, column: str) -> str:
    return ", ".join(found.sort(column, descending=True).head(4).get_column("name"))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="of a generated field; may be repeated")
    seeds = parser.parse_args().seed or [1, 2]
    make = factory("attention_tsmixerx")
    tables: dict[str, list[dict[str, Any]]] = {"default features": [], "planted": []}
    for seed in seeds:
        data = dataset(generated(seed))
        view = data.view(data.as_of)
        tables["default features"].append(
            {"seed": seed, **against_truth(make().fit(view, seed=1), view, SEASON)},
        )
        view = planted(FieldConfig(seed=seed))
        tables["planted"].append({"seed": seed, **against_truth(make().fit(view, seed=1), view, (FOREIGN,))})
    for name, rows in tables.items():
        print(f"\n{name}\n")
        show(rows)


if __name__ == "__main__":
    main()

"""Forecast a dumped panel with AutoGluon-TimeSeries, in an environment of its own.

    python benchmarks/peers/autogluon_panels.py FOLDER FORECASTS.parquet [--preset high_quality] [--seconds 120]

FOLDER is what `python -m benchmarks.wells_proofs dump PANEL FOLDER` wrote: `panel.parquet` (`unique_id, ds, y` on a
regular grid, a missing value is null) and `origins.json` (frequency, horizon, levels, and per origin the series that
are owed a forecast). At each origin the preset is fitted on the rows up to it and forecasts from it, within the time
limit. Pretrained models are left out: they need a download. Nothing of Nightcast is imported.

Written: `unique_id, ds, cutoff, horizon, q10 .. q90`, and beside it a `.json` with what was fitted, for how long, and
the series left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

PRETRAINED = ["Chronos", "Chronos2", "Toto", "Toto2"]
"""Kinds of models whose weights would have to be fetched."""
FEWEST = 1
"""Known values a series needs to be handed over."""


def long_table(panel: pd.DataFrame, cutoff: pd.Timestamp, series: list[str]) -> pd.DataFrame:
    """Rows up to an origin in AutoGluon's names; series with no known value are left out.

    A series begins at its first known value and ends at the origin: what is missing on the way stays missing.
    """
    past = panel[panel["ds"] <= cutoff].sort_values(["unique_id", "ds"])
    known = past["y"].notna()
    begun = known.groupby(past["unique_id"]).cummax()
    enough = known.groupby(past["unique_id"]).transform("sum") >= FEWEST
    past = past[begun & enough]
    wanted = set(series)
    ended = past.groupby("unique_id")["ds"].transform("max") < cutoff
    past = past[~(ended & past["unique_id"].isin(wanted))]
    return past.rename(columns={"unique_id": "item_id", "ds": "timestamp", "y": "target"})


def as_rows(forecast: pd.DataFrame, cutoff: pd.Timestamp, levels: list[float], lower: float | None) -> pd.DataFrame:
    """AutoGluon's answer in the columns that are scored: quantiles sorted, held to the lower bound."""
    frame = forecast.reset_index()
    out = frame[["item_id", "timestamp"]].set_axis(["unique_id", "ds"], axis=1)
    out["cutoff"] = cutoff
    out["horizon"] = out.groupby("unique_id")["ds"].rank(method="first").astype("int32")
    values = frame[[str(level) for level in levels]].to_numpy(dtype=float)
    values.sort(axis=1)
    if lower is not None:
        values = values.clip(min=lower)
    for at, level in enumerate(levels):
        out[f"q{round(level * 100):02d}"] = values[:, at]
    return out


def forecast_from(
    panel: pd.DataFrame, facts: dict[str, Any], origin: str, *, preset: str, seconds: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fit at one origin and forecast the series that are owed one."""
    from autogluon.timeseries import TimeSeriesDataFrame, TimeSeriesPredictor

    cutoff, series = pd.Timestamp(origin), list(facts["origins"][origin])
    table = long_table(panel, cutoff, series)
    data = TimeSeriesDataFrame.from_data_frame(table)
    begin = time.perf_counter()
    # Some of its models save to the working folder whatever the path is.
    with tempfile.TemporaryDirectory(prefix="autogluon-") as folder, contextlib.chdir(folder):
        predictor = TimeSeriesPredictor(
            prediction_length=facts["horizon"],
            freq=facts["freq"],
            quantile_levels=facts["levels"],
            eval_metric="WQL",
            path="predictor",
            verbosity=1,
        )
        predictor.fit(data, presets=preset, time_limit=seconds, excluded_model_types=PRETRAINED, random_seed=1)
        fitted = time.perf_counter() - begin
        asked = data.loc[data.index.get_level_values("item_id").isin(series)]
        answer = predictor.predict(asked, random_seed=1)
        board = predictor.leaderboard()
        told = {
            "fit_seconds": fitted,
            "seconds": time.perf_counter() - begin,
            "models": {str(row["model"]): float(row["score_val"]) for _, row in board.iterrows()},
            "best": predictor.model_best,
        }
    rows = as_rows(pd.DataFrame(answer), cutoff, facts["levels"], facts["lower"])
    told["left_out"] = sorted(set(series) - set(rows["unique_id"]))
    return rows, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("forecasts", type=Path)
    parser.add_argument("--preset", default="high_quality")
    parser.add_argument("--seconds", type=int, default=120, help="time limit of the fit at each origin")
    parser.add_argument("--origins", type=int, help="the last so many only")
    chosen = parser.parse_args()
    panel = pd.read_parquet(chosen.folder / "panel.parquet")
    facts = json.loads((chosen.folder / "origins.json").read_text())
    parts: list[pd.DataFrame] = []
    notes: dict[str, Any] = {"preset": chosen.preset, "seconds": chosen.seconds, "origins": {}}
    for origin in sorted(facts["origins"])[-(chosen.origins or 0) :]:
        rows, told = forecast_from(panel, facts, origin, preset=chosen.preset, seconds=chosen.seconds)
        parts.append(rows)
        notes["origins"][origin] = told
        print(
            f"{origin}: {rows['unique_id'].nunique()} series, {len(told['left_out'])} left out, "
            f"{told['seconds']:.0f} s, best {told['best']}",
            flush=True,
        )
        pd.concat(parts).to_parquet(chosen.forecasts, index=False)
        chosen.forecasts.with_suffix(".json").write_text(json.dumps(notes, indent=1))


if __name__ == "__main__":
    main()

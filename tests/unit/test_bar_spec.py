"""Workload files of bars: what may be left out, what must be, and how mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.sources.spec import BarsChoice, WorkloadFile, load_workload_file
from workloads.catalog import WORKLOADS, workload_path

SHORTEST = """\
name: mine
kind: bars
source: {path: bars.parquet}
"""
REAL = {
    "crypto_30m": ("30min", "continuous", 5.0),
    "crypto_5m": ("5min", "continuous", 6.0),
    "fx_1h": ("h", "weekdays", 0.5),
    "fx_5m": ("5min", "weekdays", 0.5),
    "stocks_daily": ("D", "business_days", 1.5),
}


def load(folder: Path, text: str) -> WorkloadFile:
    path = folder / "work.yaml"
    path.write_text(text, encoding="utf-8")
    return load_workload_file(path)


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder / "work.yaml") in message
    return message


def test_three_lines_are_a_whole_workload_of_bars(tmp_path: Path) -> None:
    spec = load(tmp_path, SHORTEST)

    assert (spec.kind, spec.bars_freq, spec.horizon) == ("bars", None, 20)
    assert spec.bars == BarsChoice()
    assert (spec.bars.horizons, spec.bars.calendar, spec.bars.max_gap) == ((1, 5, 20), "auto", 3)
    assert (spec.bars.labels, spec.bars.costs) == (LabelPlan(), CostPlan())
    spec.require_bars()


@pytest.mark.parametrize(
    ("line", "freq"), [("", None), ("freq: auto\n", None), ("freq: 30min\n", Frequency(30, "min"))]
)
def test_the_step_is_declared_or_left_to_the_data(tmp_path: Path, line: str, freq: Frequency | None) -> None:
    assert load(tmp_path, SHORTEST + line).bars_freq == freq


def test_the_horizon_is_the_longest_of_the_horizons(tmp_path: Path) -> None:
    spec = load(tmp_path, SHORTEST + "bars: {horizons: [5, 10, 15]}\n")

    assert spec.horizon == 15
    assert spec.bars_schema(Frequency(5, "min"), "weekdays") == BarsSchema(
        freq="5min", horizons=(5, 10, 15), calendar="weekdays"
    )


def test_a_file_with_an_open_step_can_be_written_as_json(tmp_path: Path) -> None:
    assert load(tmp_path, SHORTEST).model_dump(mode="json")["freq"] == "auto"
    assert load(tmp_path, SHORTEST + "freq: h\n").model_dump(mode="json")["freq"] == "h"


def test_labels_and_costs_are_given_key_by_key(tmp_path: Path) -> None:
    bars = load(tmp_path, SHORTEST + "bars: {labels: {barrier: fixed, threshold: 0.02}, costs: {fee_bps: 4}}\n").bars

    assert bars.labels == LabelPlan(barrier="fixed", threshold=0.02)
    assert bars.costs == CostPlan(fee_bps=4)


def test_a_scale_is_a_symbol_s_own_before_a_pattern_s_before_the_default() -> None:
    bars = BarsChoice(price_scale={".*JPY": 1000, "default": 100000, "EURJPY": 100})

    assert [bars.divisor(name) for name in ("EURJPY", "USDJPY", "EURUSD", "JPYX")] == [100, 1000, 100000, 100000]
    assert BarsChoice(price_scale={".*JPY": 1000}).divisor("EURUSD") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("horizon: 6", ("horizon", "6", "bars.horizons")),
        ("lower: 0", ("lower", "no lower bound")),
        ("freq: MS", ("freq", "'MS'", "fixed length")),
        ("freq: fortnight", ("fortnight", "`freq`")),
        ("columns: {target: close}", ("columns", "no columns.target", "columns.bars")),
        ("columns: {covariates: {a: past}}", ("columns", "no columns.covariates")),
        ("columns: {bars: {opn: o}}", ("columns.bars.opn", "did you mean 'open'?")),
        ("bars: {horizns: [1]}", ("bars.horizns", "did you mean 'horizons'?")),
        ("bars: {horizons: [5, 1]}", ("bars.horizons", "rising horizons")),
        ("bars: {horizons: [0, 1]}", ("bars.horizons", "rising horizons")),
        ("bars: {horizons: []}", ("bars.horizons", "at least 1 item")),
        ("bars: {calendar: lunar}", ("bars.calendar", "'lunar'", "'weekdays'")),
        ("bars: {labels: {barier: fixed}}", ("bars.labels.barier", "did you mean 'barrier'?")),
        ("bars: {costs: {fee_bps: -1}}", ("bars.costs.fee_bps", "-1", "greater than or equal to 0")),
        ("bars: {price_scale: {'*JPY': 1000}}", ("bars.price_scale", "'*JPY'", "regular expression")),
        ("bars: {price_scale: {default: 0}}", ("bars.price_scale", "positive divisor", "'default'")),
        ("source: {kind: norne}", ("source", "files, market_generator")),
        ("source: {path: a.csv, plan: b.csv}", ("source", "no source.plan")),
    ],
)
def test_a_wrong_line_is_named_with_its_value_and_what_would_be_right(
    tmp_path: Path, line: str, words: tuple[str, ...]
) -> None:
    key = line.partition(":")[0]
    text = "".join(f"{kept}\n" for kept in SHORTEST.splitlines() if not kept.startswith(f"{key}:")) + line + "\n"

    message = fault(tmp_path, text)

    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bars: {horizons: [1]}", ("bars", "kind: bars")),
        ("columns: {bars: {open: o}}", ("no columns.bars", "kind: bars")),
        ("source: {kind: market_generator}", ("source", "files, volve, norne, field_generator")),
    ],
)
def test_a_panel_takes_nothing_that_belongs_to_bars(tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
    panel = {"name": "mine", "source": "{path: a.csv}", "freq": "D", "horizon": "3"}
    panel.pop(line.partition(":")[0], None)

    message = fault(tmp_path, "".join(f"{key}: {value}\n" for key, value in panel.items()) + line + "\n")

    for word in words:
        assert word in message


@pytest.mark.parametrize("key", ["freq", "horizon"])
def test_a_panel_still_needs_its_step_and_horizon(tmp_path: Path, key: str) -> None:
    lines = {"name": "mine", "source": "{path: a.csv}", "freq": "D", "horizon": "3"}
    del lines[key]

    assert f"the key {key!r} is missing" in fault(tmp_path, "".join(f"{k}: {v}\n" for k, v in lines.items()))


def test_a_misspelt_key_is_named_before_the_one_that_is_missing(tmp_path: Path) -> None:
    message = fault(tmp_path, "name: mine\nsource: {path: a.csv}\nfreq: D\nhorizn: 3\n")

    assert "unknown key 'horizn'" in message
    assert "did you mean 'horizon'?" in message
    assert "(and 1 more)" in message


def test_each_family_refuses_the_files_of_the_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mine' is of kind 'bars'; expected kind: panel"):
        load(tmp_path, SHORTEST).require_panel()
    with pytest.raises(ConfigError, match="'mine' is of kind 'panel'; expected kind: bars"):
        load(tmp_path, "name: mine\nsource: {path: a.csv}\nfreq: D\nhorizon: 3\n").require_bars()


@pytest.mark.parametrize("name", sorted(REAL))
def test_shipped_files_of_real_bars_declare_step_calendar_and_costs(name: str) -> None:
    spec = load_workload_file(workload_path(name))

    freq, calendar, side_bps = REAL[name]
    assert (spec.freq.alias, spec.bars.calendar) == (freq, calendar)
    assert spec.bars.costs.side * 1e4 == pytest.approx(side_bps)
    assert spec.source.path == f"data/market/{name}.parquet"


@pytest.mark.parametrize(("name", "horizons"), [("markets", (1, 5, 20)), ("markets_h5_20", (5, 10, 15, 20))])
def test_the_shipped_generated_markets_need_no_data(name: str, horizons: tuple[int, ...]) -> None:
    spec = load_workload_file(workload_path(name))

    assert name in WORKLOADS
    assert (spec.source.kind, spec.source.path, spec.bars.horizons) == ("market_generator", None, horizons)

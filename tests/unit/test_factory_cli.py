"""The commands for one classifier, on a tiny generated market, from an empty directory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from flows.factory_cli import parse_settings, run_lines
from models.classifiers import CLASSIFIERS
from nightcast.contracts.errors import ConfigError, SourceError
from workloads.factory.trainer import ARTEFACTS

TINY = """
name: tiny
kind: bars
source: {kind: market_generator, params: {bars: 1600, symbols: [MES], freq: 30min}}
bars:
  horizons: [1, 5]
"""
PANEL = """
name: rates
kind: panel
source: {path: t.parquet}
columns: {id: a, time: b, target: c}
freq: MS
horizon: 3
"""


def nightcast(*arguments: str) -> Result:
    """Run a command in this process; an error of ours passes through to the test."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def printed(*arguments: str) -> Any:
    """What a command printed as JSON."""
    done = nightcast(*arguments, "--json")
    assert done.exit_code == 0
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a workload file and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "rates.yaml").write_text(PANEL)
    return folder


@pytest.fixture(autouse=True)
def _inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    for name in ("NIGHTCAST_HOME", "NIGHTCAST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NIGHTCAST_HOME", str(home / "home"))


@pytest.fixture(scope="module")
def runs(home: Path) -> dict[str, dict[str, Any]]:
    """Two models trained through the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("NIGHTCAST_HOME", str(home / "home"))
        train = ("train", "--workload", "tiny.yaml", "--horizon", "5", "--preset", "ci", "--model")
        return {
            "logistic": printed(*train, "logistic"),
            "lightgbm": printed(*train, "lightgbm", "--set", "rounds=8", "--seed", "7", "--validation", "0.3"),
        }


# -- train -----------------------------------------------------------------------------------------------------------


def test_train_leaves_a_complete_run_directory_under_experiments(home: Path, runs: dict[str, Any]) -> None:
    for name, answer in runs.items():
        folder = home / answer["output_path"]
        assert folder.parent == home / "experiments" / "runs"
        assert folder.name.startswith(f"{name}_h5_")
        assert all((folder / artefact).exists() for artefact in ARTEFACTS)
        assert answer["evaluation_metrics"] == json.loads((folder / "metrics/evaluation_metrics.json").read_text())


def test_train_hands_seed_share_and_hyperparameters_on(home: Path, runs: dict[str, Any]) -> None:
    text = (home / runs["lightgbm"]["output_path"] / "config" / "training_config.yaml").read_text()
    model = (home / runs["lightgbm"]["output_path"] / "config" / "model_config.yaml").read_text()

    assert "random_seed: 7" in text
    assert "rounds: 8" in model
    rows = [
        pl.read_parquet(home / answer["output_path"] / "predictions" / "val_predictions.parquet").height
        for answer in runs.values()
    ]
    assert rows[1] / rows[0] == pytest.approx(1.5, rel=0.02)


def test_train_speaks_to_people_in_a_few_lines(runs: dict[str, Any]) -> None:
    text = run_lines(runs["logistic"])

    assert text.splitlines()[0] == runs["logistic"]["run_id"]
    for words in ("log loss", "macro F1", "direction AUC", "Sharpe, net", "tearsheet.html"):
        assert words in text
    money = dict.fromkeys(runs["logistic"]["evaluation_metrics"]["trading"]) | {"num_trades": 0}
    flat = {**runs["logistic"], "evaluation_metrics": {**runs["logistic"]["evaluation_metrics"], "trading": money}}
    assert "Sharpe, net     – (gross –, 0 trades)" in run_lines(flat)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "logistik", "--horizon", "5"], r"unknown model 'logistik'; expected .*logistic"),
        (["--model", "logistic", "--horizon", "7"], "horizon 7 is not labelled; expected one of 1, 5"),
        (["--model", "logistic", "--horizon", "5", "--preset", "fast"], "unknown preset 'fast'"),
        (["--model", "logistic", "--horizon", "5", "--set", "wibble=1"], "wibble"),
        (["--model", "logistic", "--horizon", "5", "--set", "wibble"], "name=value"),
        (["--model", "logistic", "--horizon", "5", "--validation", "1"], "validation share 1"),
        (["--model", "logistic", "--horizon", "5", "--feature-set", "magic"], "magic"),
        (["--model", "logistic", "--horizon", "5", "--workload", "rates.yaml"], "expected a workload of kind bars"),
    ],
)
def test_a_wrong_wish_is_refused_in_one_line_and_leaves_no_run(
    home: Path, arguments: list[str], words: str, tmp_path: Path
) -> None:
    given = ["train", "--workload", "tiny.yaml", "--preset", "ci", "--to", str(tmp_path / "runs"), *arguments]

    with pytest.raises(ConfigError, match=words):
        nightcast(*given)

    assert not (tmp_path / "runs").exists()


def test_settings_are_json_where_they_can_be_and_text_else() -> None:
    given = ["max_depth=4", "rate=0.1", "flag=true", 'members=["logistic","lightgbm"]', "word=sqrt", "equation=a=b"]

    assert parse_settings(given) == {
        "max_depth": 4,
        "rate": 0.1,
        "flag": True,
        "members": ["logistic", "lightgbm"],
        "word": "sqrt",
        "equation": "a=b",
    }
    with pytest.raises(ConfigError, match="=4"):
        parse_settings(["=4"])


# -- compare ---------------------------------------------------------------------------------------------------------


def test_compare_shows_all_runs_the_best_and_their_correlation(runs: dict[str, Any]) -> None:
    done = nightcast("compare")

    assert done.exit_code == 0
    for name in runs:
        assert f"| {name} | 5 | " in done.stdout
    assert "## Best per horizon, by log loss" in done.stdout
    matrix = done.stdout.split("### 5 bars")[1]
    assert re.search(r"\| lightgbm \| 1.00 \| -?0\.\d\d \|", matrix), "on their common decisions"


def test_compare_writes_a_file_where_asked(runs: dict[str, Any], tmp_path: Path) -> None:
    done = nightcast("compare", "--to", str(tmp_path / "comparison.md"))

    assert done.stdout.strip() == str(tmp_path / "comparison.md")
    assert (tmp_path / "comparison.md").read_text().startswith("# Model comparison")


def test_compare_without_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nightcast train"):
        nightcast("compare", str(tmp_path))


# -- recommend -------------------------------------------------------------------------------------------------------


def test_recommend_names_the_first_choice_that_is_installed_and_why() -> None:
    lines = nightcast("recommend", "--rows", "200000").stdout.splitlines()
    few = printed("recommend", "--rows", "1000")

    assert lines[0] == "try first: tcn"
    assert "none of the special cases" in lines[1]
    assert few["because"] == "fewer than 50,000 rows"
    assert few["installed"] == [name for name in few["models"] if name in CLASSIFIERS]
    assert printed("recommend", "--rows", "200000", "--interpretable")["models"][0] == "nbeats"


def test_recommend_marks_what_is_not_installed() -> None:
    found = printed("recommend", "--rows", "1000")
    shown = nightcast("recommend", "--rows", "1000").stdout

    for name in found["models"]:
        assert (f"{name} (not here)" in shown) == (name not in found["installed"])


# -- backtest --------------------------------------------------------------------------------------------------------


@pytest.fixture
def signals(home: Path, runs: dict[str, Any]) -> Path:
    return home / runs["logistic"]["output_path"] / "predictions" / "val_predictions.parquet"


def test_a_backtest_of_a_runs_predictions_gives_the_runs_own_numbers(
    runs: dict[str, Any], signals: Path, tmp_path: Path
) -> None:
    (row,) = printed("backtest", str(signals), "--workload", "tiny.yaml", "--to", str(tmp_path))
    told = runs["logistic"]["evaluation_metrics"]["trading"]

    assert row["horizon"] == 5
    assert row["trades"] == told["num_trades"] > 0
    assert row["sharpe"] == pytest.approx(told["sharpe_ratio"])
    page = Path(row["tearsheet"])
    assert page == tmp_path / "val_predictions_5bar_tearsheet.html"
    assert "tranches, costs × 1" in page.read_text()


def test_costs_and_policy_matter(signals: Path) -> None:
    def sharpe(*more: str) -> float:
        value: float = printed("backtest", str(signals), "--workload", "tiny.yaml", *more)[0]["sharpe"]
        return value

    free, plain, dear = (sharpe("--costs", costs) for costs in ("0", "1", "2"))

    assert free > plain > dear
    assert sharpe("--policy", "single") != plain


def test_signals_of_ones_own_come_from_csv_with_a_horizon_named(signals: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(signals).select("unique_id", "ds", "signal")
    rows.write_csv(tmp_path / "own.csv")
    zoned = rows.with_columns(pl.col("ds").dt.replace_time_zone("UTC"), pl.col("signal").cast(pl.Float64))
    zoned.write_parquet(tmp_path / "zoned.parquet")

    expected = printed("backtest", str(signals), "--workload", "tiny.yaml")
    for name in ("own.csv", "zoned.parquet"):
        assert printed("backtest", str(tmp_path / name), "--workload", "tiny.yaml", "--horizon", "5") == expected
    with pytest.raises(ConfigError, match="no column horizon; expected --horizon"):
        nightcast("backtest", str(tmp_path / "own.csv"), "--workload", "tiny.yaml")


def test_a_backtest_shows_a_table_to_people(signals: Path) -> None:
    done = nightcast("backtest", str(signals), "--workload", "tiny.yaml")

    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("horizon", "sharpe", "gross_sharpe", "trades"))


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (pl.col("signal").alias("position"), [], "lacks signal"),
        (pl.col("signal") * 2, [], "-1, 0 or 1"),
        (pl.lit(0.7).alias("signal"), [], "signal 0.7"),
        (pl.lit("long").alias("signal"), [], "signal as String"),
        (pl.lit("noon").alias("ds"), [], "ds as String"),
        (pl.col("ds").dt.offset_by("7m"), [], "lie on no bar"),
        (None, ["--horizon", "9"], "no signal of horizon 9"),
        (None, ["--policy", "yolo"], "policy 'yolo'"),
        (None, ["--costs", "-1"], "costs × -1"),
    ],
)
def test_signals_that_cannot_be_traded_are_refused_in_words(
    signals: Path, tmp_path: Path, change: pl.Expr | None, more: list[str], words: str
) -> None:
    rows = pl.read_parquet(signals)
    changed = rows if change is None else rows.with_columns(change)
    if "position" in changed.columns:
        changed = changed.drop("signal")
    changed.write_parquet(tmp_path / "bad.parquet")

    with pytest.raises(ConfigError, match=words):
        nightcast("backtest", str(tmp_path / "bad.parquet"), "--workload", "tiny.yaml", *more)


def test_a_file_that_is_absent_or_broken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(SourceError, match="there is no file"):
        nightcast("backtest", str(tmp_path / "gone.parquet"), "--workload", "tiny.yaml")
    with pytest.raises(SourceError, match=r"broken\.parquet cannot be read"):
        nightcast("backtest", str(tmp_path / "broken.parquet"), "--workload", "tiny.yaml")


# -- labels and models -----------------------------------------------------------------------------------------------


def test_the_label_search_finds_a_plan_on_the_older_bars_alone(tmp_path: Path) -> None:
    answer = printed("labels", "search", "tiny.yaml", "--hold-out", "0.4", "--to", str(tmp_path / "labels.json"))

    assert answer["best"]["multiplier"] > 0
    assert len(answer["trials"]) > 10
    saved = json.loads((tmp_path / "labels.json").read_text())
    assert saved["best"] == answer["best"]
    with pytest.raises(ConfigError, match="hold-out 1"):
        nightcast("labels", "search", "tiny.yaml", "--hold-out", "1")


def test_models_lists_every_classifier_with_what_it_needs() -> None:
    rows = {row["name"]: row for row in printed("models") if row["for"] == "bars"}

    assert set(rows) == set(CLASSIFIERS)
    assert rows["gru"]["needs"] == "robust scaling; windows"
    assert rows["climatology"]["baseline"] is True
    assert rows["stacking"]["family"] == "ensemble"

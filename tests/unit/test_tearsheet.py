"""The tearsheet of a backtest: its numbers are the backtest's, and it is one page that needs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import ID, TIME
from nightcast.contracts.schema import BarsSchema, CostPlan
from nightcast.evaluation.backtest import Backtest, run_backtest
from nightcast.evaluation.class_scores import class_scores
from nightcast.reports.table import number
from nightcast.reports.tearsheet import render_tearsheet
from tests.contract.bar_data import bar_dataset
from tests.unit.test_report_night import HOSTILE, Page

H = 4
COSTS = CostPlan(fee_bps=2.0, half_spread_bps=0.5, slippage_bps=0.5)
SCHEMA = bar_dataset(("plain10",)).schema


@functools.cache
def backtest(every: int = 1, side: int = 0) -> Backtest:
    """Signals that follow the planted driver, on every so many bars; or one side at all of them."""
    frame = bar_dataset(("plain10",), bars=(2400, 2200)).frame
    driver = frame["signal"].to_numpy()
    signal = np.full(len(driver), side) if side else np.where(np.abs(driver) < 1, 0, np.sign(driver))
    signals = frame.select(ID, TIME).with_columns(pl.Series("signal", signal.astype(np.int8)))
    return run_backtest(frame, signals[::every], horizon=H, costs=COSTS)


def render(test: Backtest | None = None, **changes: Any) -> str:
    given: dict[str, Any] = {"title": "lightgbm, 4 bars ahead", "schema": SCHEMA, "costs": COSTS}
    return render_tearsheet(backtest() if test is None else test, **{**given, **changes})


def metrics(test: Backtest) -> dict[str, Any]:
    return test.metrics(days_per_year=SCHEMA.days_per_year, bars_per_year=SCHEMA.bars_per_year)


def flat() -> Backtest:
    """No position was ever taken."""
    frame = bar_dataset(("plain10",)).frame
    signals = frame.select(ID, TIME).with_columns(pl.lit(0, dtype=pl.Int8).alias("signal"))
    return run_backtest(frame, signals, horizon=H, costs=COSTS)


@pytest.fixture(scope="module")
def html() -> str:
    return render()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_has_its_four_sections_once_each(page: Page) -> None:
    assert [attrs["id"] for tag, attrs in page.tags if tag == "h2"] == ["equity", "numbers", "months", "rules"]
    assert len(page.ids()) == len(set(page.ids()))


def test_the_page_fetches_nothing_and_runs_nothing(html: str, page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attrs.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, name, value)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.findall(r"url\(|@import|https?://|\sstyle=|\son[a-z]+=", html)
    assert "default-src 'none'" in html


def test_the_policy_names_the_style_of_the_page(html: str) -> None:
    (style,) = re.findall("<style>(.*?)</style>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in html


def test_the_numbers_are_those_of_the_backtest(page: Page) -> None:
    its = metrics(backtest())
    for words in (
        f"Sharpe, net {its['sharpe']:.3g} mean of daily returns",
        f"Sharpe, gross {its['gross_sharpe']:.3g} the same before costs",
        f"win rate {its['win_rate']:.1%} share of trades",
        f"profit factor {its['profit_factor']:.3g} sum of gains",
        f"trades {its['trades']:,} positions opened",
        f"turnover a day {its['turnover']:.3g} sum of",
        f"exposure {its['exposure']:.1%} mean size",
        f"best month {its['worst_month_share']:.1%} share",
        f"{its['trades']:,} trades; Sharpe {its['sharpe']:.3g} after costs, {its['gross_sharpe']:.3g} before.",
    ):
        assert words.replace("%", " %") in page.text


def test_every_metric_of_a_backtest_has_a_label_and_a_meaning(html: str) -> None:
    (table,) = re.findall(r'aria-label="Trading".*?</table>', html, flags=re.DOTALL)
    rows = re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL)

    assert len(rows) - 1 == len(metrics(backtest()))
    assert not re.findall(r"_", Page(re.sub(r'^aria-label="Trading"[^>]*>', "", table) + "").text)


def test_the_sharpe_ratio_stands_beside_what_chance_makes_of_it(page: Page) -> None:
    """On two months it varies by about the root of six."""
    days = backtest().daily.height
    assert f"± {number(np.sqrt(365.25 / days))} by chance" in page.text
    assert f"on {days} days" in page.text


def test_months_add_up_to_the_whole(html: str) -> None:
    (part,) = re.findall(r'<section aria-labelledby="months">(.*?)</section>', html, flags=re.DOTALL)
    rows = re.findall(r"(\d{4}-\d\d) ([+−\d.]+) % ([\d.]+) % ([+−\d.]+) % (\d+)", Page(part).text)
    daily = backtest().daily

    assert [month for month, *_ in rows] == daily["day"].dt.strftime("%Y-%m").unique().sort().to_list()
    total = [sum(float(r[i].replace("−", "-")) for r in rows) for i in (1, 2, 3, 4)]
    assert total[:3] == pytest.approx([100 * daily[c].sum() for c in ("gross", "cost", "net")], abs=0.03)
    assert total[3] == daily.height


def test_the_curves_end_at_the_sums_of_the_returns(html: str) -> None:
    daily = backtest().daily
    words = f"Sum of daily returns: {daily['net'].sum():.1%} after costs, {daily['gross'].sum():.1%} before."
    assert words.replace("%", " %") in html


def test_the_drawdown_is_drawn_where_there_was_one() -> None:
    losing = backtest(side=-1)
    fall = metrics(losing)["max_drawdown"]
    assert f"Drawdown after costs, {fall:.1%} at most.".replace("%", " %") in render(losing)

    rising = losing.daily.with_columns(net=pl.lit(0.01), gross=pl.lit(0.01))
    page = render(Backtest(losing.bars, rising, losing.trades))
    assert "Sum of daily returns" in page
    assert "Drawdown after costs" not in page


def test_a_backtest_without_a_trade_says_so_and_draws_nothing() -> None:
    page = Page(render(flat()))
    assert "No position was ever taken: flat is what the signals asked for." in page.text
    assert "so there is nothing to draw" in page.text
    assert "Sharpe, net – mean" in page.text
    assert "±" not in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


def test_a_backtest_of_no_signal_at_all_is_a_page_too() -> None:
    frame = bar_dataset(("plain10",)).frame
    nothing = frame.clear().select(ID, TIME).with_columns(pl.lit(0, dtype=pl.Int8).alias("signal"))
    test = run_backtest(frame.clear(), nothing, horizon=H, costs=COSTS)

    page = Page(render(test))

    assert "No position was ever taken" in page.text
    assert "No day was traded." in page.text


def test_scores_of_the_same_decisions_stand_beside_their_meaning(page: Page) -> None:
    rng = np.random.default_rng(1)
    probs = rng.dirichlet([2, 2, 2], 400)
    scores = class_scores(rng.integers(0, 3, 400), probs)

    text = Page(render(scores=scores)).text

    for label, name in (("log loss", "log_loss"), ("Brier score", "brier"), ("ECE", "ece"), ("F1, short", "f1_short")):
        assert f"{label} {scores[name]:.3g}" in text
    assert "direction AUC" in text
    assert "0.5 is chance" in text
    assert "Signals alone were handed over, no probabilities." in page.text


def test_a_score_that_does_not_exist_is_a_dash() -> None:
    scores = class_scores(np.ones(30, dtype=np.int64), np.tile([0.2, 0.6, 0.2], (30, 1)))
    assert scores["direction_auc"] is None
    text = Page(render(scores=scores)).text
    assert "direction AUC – ranks" in text
    assert "MCC – correlation" in text


def test_the_verdict_tells_which_gates_were_passed_and_why_not() -> None:
    verdict = {
        "model": "lightgbm",
        "horizon": 4,
        "seed_gate": True,
        "skill_gate": False,
        "economic_gate": None,
        "why": "direction AUC bound 0.497 is not above 0.5",
    }
    text = Page(render(verdict=verdict)).text
    assert "seed gate passed" in text
    assert "skill gate failed" in text
    assert "economic gate" not in text
    assert "direction AUC bound 0.497 is not above 0.5" in text


def test_the_rules_state_costs_calendar_and_that_nothing_is_compounded(page: Page) -> None:
    assert "Each side of a trade costs 3.00 basis points (fee 2, half the spread 0.5, slippage 0.5)." in page.text
    assert "A year has 365.25 days of profit or loss and 17,532 bars of 30 minutes (continuous)." in page.text
    assert "Returns are sums, not compounded" in page.text
    daily = Page(render(schema=BarsSchema(freq="D", horizons=(1, 5), calendar="business_days"))).text
    assert "A year has 252 days of profit or loss and 252 bars of one day (business days)." in daily


def test_a_hostile_title_and_reason_are_shown_and_never_run() -> None:
    html = render(title=HOSTILE, verdict={"why": HOSTILE, "seed_gate": False})
    page = Page(html)
    assert not {"img", "script"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(HOSTILE) == 3, "in the title, the heading and the lead"


def test_equal_backtests_give_equal_bytes(html: str) -> None:
    again = backtest.__wrapped__()
    assert render(again) == html
    mixed = Backtest(again.bars, again.daily.sample(fraction=1, shuffle=True, seed=2), again.trades)
    assert render(mixed) == html

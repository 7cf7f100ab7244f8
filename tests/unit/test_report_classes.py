"""The nightly page of class probabilities: every symbol, its signals, what they were worth, and what changed."""

from __future__ import annotations

import dataclasses
import re
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import CLASS_PROBS, CLASSES
from nightcast.contracts.decision import Decision, Guard
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.source import Note
from nightcast.contracts.verdict import Finding, Verdict
from nightcast.reports.class_views import CHARTED, class_views
from nightcast.reports.night import NightReport, night_pictures, render_night
from tests.unit.test_report_night import HOSTILE, SECTIONS, Page, emptied

AS_OF = datetime(2024, 5, 31, 16, 0)
BAR = timedelta(minutes=30)
HORIZONS = (1, 5, 20)
MODELS = ("ensemble", "lightgbm", "logistic", "volatility_only", "climatology")


def probabilities(rng: np.random.Generator, n: int) -> np.ndarray:
    """`[n, 3]`, near the class shares."""
    z = rng.normal(0, 0.5, (n, 3)) + np.array([0, 0.4, 0])
    e = np.exp(z)
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def class_rows(names: list[str], cutoff: datetime, rng: np.random.Generator, night: str) -> list[dict[str, Any]]:
    """One decision of every symbol at every horizon; the second symbol is served by a fallback."""
    rows = []
    for place, name in enumerate(names):
        for h, p in zip(HORIZONS, probabilities(rng, len(HORIZONS)), strict=True):
            flat = place == 1
            lean = float(p[2] - p[0])
            rows.append(
                {"unique_id": name, "ds": cutoff, "cutoff": cutoff, "horizon": h}
                | dict(zip(CLASS_PROBS, [1 / 3] * 3 if flat else p.tolist(), strict=True))
                | {
                    "signal": 0 if flat or abs(lean) < 0.1 else (1 if lean > 0 else -1),
                    "model_used": "flat" if flat else "ensemble",
                    "fallback_reason": "quarantined" if flat else None,
                    "night_id": night,
                }
            )
    return rows


def verdict_rows(names: tuple[str, ...] = MODELS) -> pl.DataFrame:
    """One row per model and horizon, as the verdicts of a night have them."""
    rows = []
    for place, model in enumerate(names):
        for h in HORIZONS:
            good = model == "ensemble" and h == 5
            rows.append(
                {
                    "model": model,
                    "horizon": h,
                    "seed_gate": True if good else model == "lightgbm",
                    "skill_gate": None if model == "climatology" else good,
                    "economic_gate": good,
                    "leak_alarm": False,
                    "why": "" if good else f"direction AUC bound {0.49 + place / 1000:.3f} is not above 0.5",
                    "macro_f1": 0.41 - place / 100,
                    "direction_auc": 0.52,
                    "sharpe": None if model == "climatology" else 1.1 - place,
                    "psr": 0.8,
                    "trades": 400,
                    "luck": 0.63,
                    "trials": 15,
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def make_class_report(symbols: int = 5, *, days: int = 30, **changes: Any) -> NightReport:
    """A market's night with something in every section."""
    rng = np.random.default_rng(5)
    names = [f"SYM{place:02d}" for place in range(1, symbols + 1)]
    stamps = [AS_OF - i * BAR for i in range(days * 48)][::-1]
    history = pl.concat(
        pl.DataFrame({"unique_id": name, "ds": stamps, "y": 100 * np.exp(np.cumsum(rng.normal(0, 0.002, len(stamps))))})
        for name in names
    )
    parts = []
    for name in names:
        for h in HORIZONS:
            at = stamps[:: max(1, len(stamps) // 240)]
            p = probabilities(rng, len(at))
            y = (rng.random(len(at))[:, None] > p.cumsum(axis=1)[:, :2]).sum(axis=1)
            lean = p[:, 2] - p[:, 0]
            parts.append(
                pl.DataFrame(
                    {
                        "unique_id": name,
                        "ds": at,
                        "cutoff": at,
                        "horizon": np.full(len(at), h, dtype=np.int32),
                        **{column: p[:, k] for k, column in enumerate(CLASS_PROBS)},
                        "signal": np.where(abs(lean) < 0.2, 0, np.sign(lean)).astype(np.int8),
                        "y": y.astype(np.int8),
                        "ret": (y - 1) * 0.002 + rng.normal(0, 0.0005, len(at)),
                        "loss": -np.log(p[np.arange(len(at)), y]),
                    }
                )
            )
    league = pl.DataFrame(
        {
            "model": MODELS,
            "ratio": [0.985, 0.99, 0.993, 1.0, 1.02],
            "log_loss": [1.02, 1.03, 1.035, 1.04, 1.06],
            "macro_f1": [0.43, 0.42, 0.42, 0.40, 0.22],
            "direction_auc": [0.53, 0.525, 0.52, 0.501, 0.499],
            "brier_skill": [0.02, 0.015, 0.012, 0.01, 0.0],
            "ece": [0.01, 0.02, 0.02, 0.015, 0.01],
            "mcc": [0.1, 0.09, 0.08, 0.05, None],
            "sharpe": [0.4, 0.1, -0.3, -2.0, None],
            "gross_sharpe": [1.4, 1.2, 0.9, -0.1, None],
            "max_drawdown": [0.02, 0.03, 0.04, 0.09, 0.0],
            "turnover": [3.0, 4.0, 4.5, 9.0, 0.0],
            "trades": [420.0, 510.0, 560.0, 900.0, 0.0],
            "rows": [3600] * 5,
            "series": [symbols] * 5,
            "seconds": [0.5, 9.0, 2.0, 6.0, 0.1],
        }
    )
    by_horizon = pl.DataFrame(
        [
            {"model": m, "horizon": h, "log_loss": 1.0 + 0.01 * k, "ratio": 0.98 + 0.01 * k + 0.001 * h}
            for k, m in enumerate(MODELS)
            for h in HORIZONS
        ]
    )
    finding = Finding(names[1], "stale_run", "quarantine", 9, "9 bars in a row are equal.", "not_stuck")
    facts: dict[str, Any] = {
        "workload": "markets",
        "title": "Generated market, short / neutral / long",
        "unit": "",
        "as_of": AS_OF,
        "night_id": "night-1",
        "horizon": 20,
        "freq_word": "30 minutes",
        "status": "published with fallbacks",
        "forecast": pl.DataFrame(class_rows(names, AS_OF, rng, "night-1"), infer_schema_length=None),
        "history": history,
        "league": league,
        "by_horizon": by_horizon,
        "oof": pl.concat(parts),
        "weights": {str(h): {"lightgbm": 0.6, "logistic": 0.4} for h in HORIZONS},
        "verdicts": (Verdict("raw", symbols, 12, 0.2, (finding,)),),
        "notes": (Note("bars_before_segment", 120, "Bars of a segment before its first decision."),),
        "decision": Decision(
            "none",
            False,
            "No horizon of the challenger passes the economic gate.",
            (Guard("economic gate", 0.0, "at least one horizon", False),),
            -0.01,
            -0.02,
            0.003,
            3600,
            30,
        ),
        "failures": ({"model": "svm", "fold": "fold-01", "reason": "ran past its ceiling of 180 s"},),
        "provenance": {"champion_version": "3", "champion_as_of": "2024-05-30", "snapshot": "feed"},
        "timings": {"raw_gate": 1.0, "train": 60.0, "publish": 0.4},
        "retired": {"OLD": "last bar 2024-01-02 10:00, more than 12 bars before 2024-05-31 16:00"},
        "previous": pl.DataFrame(class_rows(names, AS_OF - 48 * BAR, rng, "night-0"), infer_schema_length=None),
        "baselines": ("volatility_only", "climatology"),
        "promised": (),
        "information": "bars up to the decision, nothing of the future",
        "documents": {
            "Comparison of all models": "model_comparison.md",
            "ensemble, 5 bars": "documents/ensemble_5bar_tearsheet.html",
        },
        "verdict_table": verdict_rows(),
        "views": class_views,
    }
    return NightReport(**{**facts, **changes})


@pytest.fixture(scope="module")
def report() -> NightReport:
    return make_class_report()


@pytest.fixture(scope="module")
def html(report: NightReport) -> str:
    return render_night(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def sections(page: Page) -> list[str | None]:
    return [attrs["id"] for tag, attrs in page.tags if tag == "h2"]


def text_of(html: str, section: str) -> str:
    """The words of one section."""
    (part,) = re.findall(rf'<section aria-labelledby="{section}">(.*?)</section>', html, flags=re.DOTALL)
    return Page(part).text


def test_verdicts_and_documents_stand_after_the_league_and_the_navigation_reaches_them(page: Page) -> None:
    place = SECTIONS.index("league") + 1
    assert sections(page) == [*SECTIONS[:place], "verdicts", "documents", *SECTIONS[place:]]
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert {f"#{name}" for name in sections(page)} <= links
    assert len(page.ids()) == len(set(page.ids()))


def test_a_night_without_verdicts_and_documents_has_neither_section_nor_link(report: NightReport) -> None:
    plain = Page(render_night(dataclasses.replace(report, verdict_table=pl.DataFrame(), documents={})))
    assert sections(plain) == SECTIONS
    assert not {"#verdicts", "#documents"} & {attrs.get("href") for _, attrs in plain.tags}


def test_every_promised_symbol_is_in_the_table_even_one_that_was_not_served(report: NightReport) -> None:
    promised = (*report.promised_series, "GONE")
    html = render_night(dataclasses.replace(report, promised=promised))
    keys = {attrs["data-key"] for tag, attrs in Page(html).tags if tag == "tr" and attrs.get("data-key")}
    assert keys == {name.lower() for name in promised}
    assert "GONE not served missing" in text_of(html, "series")
    assert "All 6 promised symbols" in text_of(html, "series")


def test_the_table_gives_probabilities_and_signal_of_every_horizon(report: NightReport, html: str) -> None:
    words = text_of(html, "series")
    for h in HORIZONS:
        assert f"short, {h} long, {h} signal, {h}" in words
    entry = report.forecast.filter((pl.col("unique_id") == "SYM01") & (pl.col("horizon") == 1)).row(0, named=True)
    signal = {-1: "short", 0: "flat", 1: "long"}[entry["signal"]]
    last = report.history.filter(pl.col("unique_id") == "SYM01").sort("ds")["y"][-1]
    expected = f"SYM01 ensemble {last:.3g} 2024-05-31 16:00"
    assert f"{expected} {entry['p_short']:.1%} {entry['p_long']:.1%} {signal}".replace("%", " %") in words


def test_each_picture_tells_its_probabilities_and_signals_to_those_who_cannot_see_it(html: str) -> None:
    assert html.count('<figure class="card') >= 5
    assert "SYM01: class probabilities by horizon; signals 1: " in html
    for name in CLASSES:
        assert re.search(rf"5 bars: .*{name} \d", html)
    assert "1 bar: short" in html


def test_what_is_drawn_adds_up_to_one(report: NightReport) -> None:
    from nightcast.reports.plot import Block

    for picture in class_views(report).forecasts:
        blocks = [mark for mark in picture.plot.marks if isinstance(mark, Block)]
        assert len(blocks) == len(CLASSES) * len(HORIZONS)
        tops = [block.top for block in blocks][len(CLASSES) - 1 :: len(CLASSES)]
        assert tops == pytest.approx([1.0] * len(HORIZONS))


def test_a_fallback_carries_its_badge_and_reason_in_picture_table_and_head(page: Page, html: str) -> None:
    badges = re.findall(r'<figure class="card is-fallback"[^>]*>\s*<figcaption><b>(\w+)</b> <span[^>]*>fallback', html)
    assert badges == ["SYM02"]
    assert "flat: quarantined" in text_of(html, "forecasts")
    assert "SYM02 flat: quarantined fallback" in text_of(html, "series")
    assert "4 of 5 promised series are served by the models, 1 by a fallback (quarantined 1); none is missing." in (
        page.text
    )


def test_the_verdict_table_shows_every_model_and_horizon_with_its_gates_and_reason(html: str) -> None:
    words = text_of(html, "verdicts")
    assert words.startswith(f"Verdicts {len(MODELS) * len(HORIZONS)}")
    assert '"No model passed" is a valid night.' in words
    assert "ensemble 5 yes yes yes no 0.410" in words, "all gates passed, no leak alarm, no reason against it"
    assert "ensemble 1 no no no direction AUC bound 0.490 is not above 0.5 no" in words
    assert "lightgbm 20 yes no no" in words
    assert "climatology naive 1 no – no" in words, "a gate that could not be asked is a dash"
    assert "seed gate skill gate economic gate why leak alarm" in words


def test_documents_are_links_to_files_beside_the_page(report: NightReport, page: Page, html: str) -> None:
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and not (attrs["href"] or "").startswith("#")]
    assert links == list(report.documents.values())
    assert text_of(html, "documents") == "Documents 2 Comparison of all models ensemble, 5 bars"


def test_the_page_loads_nothing(html: str, page: Page, report: NightReport) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attrs.get(name) or ""
            assert not value or value.startswith(("#", "data:")) or value in report.documents.values(), (tag, name)
    assert not re.findall(r"url\(|@import|https?://|//[a-z]+\.", html)


def test_changes_name_the_signals_that_turned(report: NightReport, html: str) -> None:
    before = report.previous
    assert before is not None
    keys = ["unique_id", "horizon"]
    both = report.forecast.join(before, on=keys, suffix="_then")
    turned = both.filter(pl.col("signal") != pl.col("signal_then"))
    words = text_of(html, "changes")

    assert 0 < turned.height < both.height
    assert f"{turned.height} of {both.height} common signals changed" in words
    for name, h in turned.select(keys).iter_rows():
        assert re.search(rf"{name} {h} (short|flat|long) (short|flat|long) ", words)
    assert "made after the bar of 2024-05-30 16:00, this one after that of 2024-05-31 16:00" in words


def test_a_first_night_and_a_night_without_a_turn_say_so(report: NightReport) -> None:
    first = dataclasses.replace(report, previous=None)
    same = dataclasses.replace(report, previous=report.forecast)
    assert "There is no earlier published forecast to compare with." in Page(render_night(first)).text
    assert "No signal changed." in Page(render_night(same)).text


def test_equity_sums_the_returns_of_the_signals_before_costs(report: NightReport) -> None:
    pictures = class_views(report).hindcasts
    assert [picture.title for picture in pictures] == ["1 bar ahead", "5 bars ahead", "20 bars ahead"]
    for picture, h in zip(pictures, HORIZONS, strict=True):
        rows = report.oof.filter(pl.col("horizon") == h)
        total = float((rows["signal"] * rows["ret"]).sum()) / h / rows["unique_id"].n_unique()
        shown = re.search(r"cumulated return ([−\d.]+) %", picture.plot.description)
        assert shown is not None
        assert float(shown[1].replace("−", "-")) == pytest.approx(100 * total, abs=0.06)
        taken = int((rows["signal"] != 0).sum())
        assert picture.note == f"{taken:,} of {rows.height:,} decisions took a position"


def test_calibration_shows_stated_beside_true_shares(report: NightReport, html: str) -> None:
    words = text_of(html, "calibration")
    assert "Labels of neighbouring bars overlap, so the count of independent ones is far smaller." in words
    for h in HORIZONS:
        rows = report.oof.filter(pl.col("horizon") == h)
        row = "1 bar" if h == 1 else f"{h} bars"
        share = (rows["y"] == 0).mean()
        assert isinstance(share, float)
        stated = f"{rows['p_short'].mean():.1%} {share:.1%}".replace("%", " %")
        assert f"{row} {rows.height:,} {stated}" in words
    views = class_views(report)
    assert len(views.calibration) == len(HORIZONS)
    assert all(0 <= y <= 1 for p in views.calibration for m in p.plot.marks for y in getattr(m, "y", ()))


def test_nothing_to_say_is_said_in_words(report: NightReport) -> None:
    empty = dataclasses.replace(emptied(report), views=class_views, verdict_table=pl.DataFrame(), documents={})
    page = Page(render_night(empty))
    assert sections(page) == SECTIONS
    for words in (
        "No forecast was published",
        "No promised symbol is known for this night.",
        "There is no earlier published forecast to compare with.",
        "nothing to look back on",
        "calibration could not be measured",
    ):
        assert words in page.text
    assert night_pictures(empty) == {}


@pytest.mark.parametrize("field", ["forecast", "history", "league", "by_horizon", "oof", "weights", "previous"])
def test_any_one_part_may_be_missing(report: NightReport, field: str) -> None:
    changed = dataclasses.replace(report, **{field: getattr(emptied(report), field)})
    assert len(sections(Page(render_night(changed)))) == len(SECTIONS) + 2


def test_rows_without_probabilities_or_signal_are_refused_by_name(report: NightReport) -> None:
    with pytest.raises(ConfigError, match="frame 'forecast' lacks p_short"):
        render_night(dataclasses.replace(report, forecast=report.forecast.drop("p_short")))
    with pytest.raises(ConfigError, match="frame 'oof' lacks signal"):
        render_night(dataclasses.replace(report, oof=report.oof.drop("signal")))
    assert report.previous is not None
    with pytest.raises(ConfigError, match="frame 'previous' lacks p_long"):
        render_night(dataclasses.replace(report, previous=report.previous.drop("p_long")))


def test_rows_without_a_known_label_do_not_count(report: NightReport) -> None:
    y = pl.when(pl.col("horizon") < 20).then(pl.col("y")).alias("y")
    views = class_views(dataclasses.replace(report, oof=report.oof.with_columns(y)))
    assert [picture.title for picture in views.hindcasts] == ["1 bar ahead", "5 bars ahead"]
    assert len(views.calibration_table.rows) == 2


def test_hostile_names_are_shown_and_never_run(report: NightReport) -> None:
    def rename(frame: pl.DataFrame | None) -> pl.DataFrame:
        assert frame is not None
        return frame.with_columns(pl.col("unique_id").replace({"SYM01": HOSTILE, "SYM03": HOSTILE + "2"}))

    hostile = dataclasses.replace(
        report,
        forecast=rename(report.forecast).with_columns(model_used=pl.lit(HOSTILE), fallback_reason=pl.lit(HOSTILE)),
        history=rename(report.history),
        oof=rename(report.oof),
        previous=rename(report.previous).with_columns(model_used=pl.lit(HOSTILE)),
        verdict_table=report.verdict_table.with_columns(
            pl.col("model").replace({"ensemble": HOSTILE}), pl.lit(HOSTILE).alias("why")
        ),
        documents={HOSTILE: "model_comparison.md"},
    )
    html = render_night(hostile)
    page = Page(html)
    assert "img" not in {tag for tag, _ in page.tags}
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    for section in ("forecasts", "series", "changes", "verdicts", "documents"):
        assert HOSTILE in text_of(html, section), section
    assert set(night_pictures(hostile)) == set(night_pictures(report))


def test_equal_nights_give_equal_bytes(report: NightReport, html: str) -> None:
    again = make_class_report()
    assert render_night(again) == html
    assert night_pictures(again) == night_pictures(report)


def test_the_order_of_rows_does_not_matter_to_the_page(report: NightReport, html: str) -> None:
    assert report.previous is not None
    mixed = dataclasses.replace(
        report,
        forecast=report.forecast.sample(fraction=1, shuffle=True, seed=3),
        history=report.history.sample(fraction=1, shuffle=True, seed=4),
        previous=report.previous.sample(fraction=1, shuffle=True, seed=5),
        oof=report.oof.sample(fraction=1, shuffle=True, seed=6),
    )
    assert render_night(mixed) == html


def test_many_symbols_unfold_and_the_rest_is_in_the_table_alone() -> None:
    html = render_night(make_class_report(CHARTED + 3, days=2))
    assert html.count('<details class="card') == CHARTED - 12
    assert "The 12 first symbols by name; the others unfold below; 3 more are in the" in text_of(html, "forecasts")
    assert f"The other {CHARTED - 12}, by name" in text_of(html, "forecasts")
    assert text_of(html, "series").count(" ensemble ") + text_of(html, "series").count(" flat: ") == CHARTED + 3

"""The nightly page: complete, self-contained, safe against hostile names, the same for the same night."""

from __future__ import annotations

import dataclasses
import re
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import LEVELS, QUANTILES
from nightcast.contracts.decision import Decision, Guard
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.source import Note
from nightcast.contracts.verdict import BrokenRule, Finding, Verdict
from nightcast.reports.night import NightReport, night_pictures, render_night

MONTH = Frequency.parse("MS")
AS_OF = datetime(2024, 5, 1)
SECTIONS = [
    "decision",
    "forecasts",
    "series",
    "changes",
    "league",
    "horizon",
    "hindcast",
    "calibration",
    "weights",
    "quarantine",
    "data",
    "failures",
    "retired",
    "provenance",
]


def fan_rows(name: str, cutoff: datetime, level: float, horizon: int) -> list[dict[str, Any]]:
    spread = np.array([-1.28, -0.84, -0.52, -0.25, 0, 0.25, 0.52, 0.84, 1.28])
    return [
        {
            "unique_id": name,
            "ds": MONTH.shift(cutoff, step),
            "cutoff": cutoff,
            "horizon": step,
            **dict(zip(QUANTILES, level * (1 - 0.01 * step) * (1 + 0.06 * np.sqrt(step) * spread), strict=True)),
        }
        for step in range(1, horizon + 1)
    ]


def make_report(
    series: int = 20, *, horizon: int = 6, months: int = 40, origins: int = 8, **changes: Any
) -> NightReport:
    """A night with something in every section."""
    rng = np.random.default_rng(7)
    names = [f"W-{place:03d}" for place in range(1, series + 1)]
    history, forecast, previous, oof = [], [], [], []
    for place, name in enumerate(names):
        start = 900.0 * 0.97**place
        path = start * np.exp(-0.008 * np.arange(months) + np.cumsum(rng.normal(0, 0.03, months)))
        times = [MONTH.shift(AS_OF, step - months + 1) for step in range(months)]
        for time, value in zip(times, path, strict=True):
            missing = place == 2 and time in times[20:24]
            history.append({"unique_id": name, "ds": time, "y": None if missing else float(value)})
        level = float(path[-3:].mean())
        forecast += [
            {
                **row,
                "model_used": "seasonal_naive" if place == 4 else "ensemble",
                "fallback_reason": "quarantined" if place == 4 else None,
                "night_id": "night-1",
            }
            for row in fan_rows(name, AS_OF, level, horizon)
        ]
        previous += [
            {**row, "model_used": "ensemble", "fallback_reason": None, "night_id": "night-0"}
            for row in fan_rows(name, MONTH.shift(AS_OF, -1), level * (1 + rng.normal(0, 0.1)), horizon)
        ]
        for back in range(origins):
            at = months - 1 - horizon - back
            for row in fan_rows(name, times[at], float(path[max(0, at - 2) : at + 1].mean()), horizon):
                oof.append({**row, "y": float(path[at + row["horizon"]])})
    members = ["ensemble", "lightgbm", "tsmixerx", "ses", "last_value"]
    league = pl.DataFrame(
        {
            "model": members,
            "rows": [960] * 5,
            "series": [series] * 5,
            "mae": [8.31, 8.6, 8.8, 8.97, 9.45],
            "nmae": [0.157, 0.162, 0.166, 0.17, 0.179],
            "mase": [1.03, 1.1, 1.12, 1.18, 1.23],
            "rmsse": [0.9, 0.93, 0.95, 0.99, 1.04],
            "bias": [-0.012, 0.004, 0.02, 0.015, 0.03],
            "r2_pooled": [0.872, 0.87, 0.865, 0.881, 0.856],
            "r2_within": [-0.1, -0.2, -0.25, -0.3, -0.57],
            "nse_median": [0.11, 0.01, -0.1, -0.21, -0.31],
            "pinball": [3.1, float("nan"), 3.4, 3.6, 3.3],
            "coverage80": [0.81, 0.78, 0.74, 0.8, 0.79],
            "width80": [31.0, 29.0, 27.0, 35.0, 38.0],
            "ratio": [0.926, 0.959, 0.981, 1.0, 1.054],
            "seconds": [0.4, 35.0, 312.0, 1.2, 0.1],
        }
    )
    by_horizon = pl.DataFrame(
        [
            {"model": m, "horizon": h, "mae": 5 + h + 0.3 * k, "ratio": 0.9 + 0.02 * k + 0.005 * h}
            for k, m in enumerate(members)
            for h in range(1, horizon + 1)
        ]
    )
    raw = Verdict(
        "raw",
        series,
        14,
        0.2,
        (
            Finding(names[4], "duplicate_rows", "quarantine", 3, "3 rows share the month 2023-07.", "one_row_per_time"),
            Finding(
                names[5], "negative_target", "mask", 2, "2 values below zero, smallest -4.2.", "target_not_negative"
            ),
            *(
                Finding(name, "flat_line", "warn", 6, "The last 6 values are equal.", "not_stuck")
                for name in names[6:9]
            ),
        ),
    )
    features = Verdict("features", series, 6, 0.2, (), (BrokenRule("no_nulls", "TypeError: bad operand"),))
    facts: dict[str, Any] = {
        "workload": "wells",
        "title": "Liquid rate of oil wells",
        "unit": "m3/d",
        "as_of": AS_OF,
        "night_id": "night-1",
        "horizon": horizon,
        "freq_word": MONTH.word,
        "status": "published with fallbacks",
        "forecast": pl.DataFrame(forecast, infer_schema_length=None),
        "history": pl.DataFrame(history, infer_schema_length=None),
        "league": league,
        "by_horizon": by_horizon,
        "oof": pl.DataFrame(oof),
        "weights": {
            str(h): {"lightgbm": 0.5 - 0.03 * h, "tsmixerx": 0.2 + 0.03 * h, "ses": 0.3} for h in range(1, horizon + 1)
        },
        "verdicts": (raw, features),
        "notes": (Note("negative_water_set_missing", 12, "Negative water volumes count as missing."),),
        "decision": Decision(
            "replace",
            True,
            "The challenger's loss is lower beyond doubt.",
            (Guard("bias", 0.012, "|bias| ≤ 0.15", True), Guard("coverage", 0.81, "0.60 to 0.97", True)),
            -0.032,
            -0.051,
            -0.011,
            960,
            8,
        ),
        "failures": ({"model": "tsmixerx", "fold": "fold-01", "reason": "ran past its ceiling of 900 s"},),
        "provenance": {
            "champion_version": "17",
            "champion_as_of": "2024-04-01",
            "git_commit": "0123abcd",
            "snapshot": "feed",
        },
        "timings": {"raw_gate": 2.1, "train": 412.0, "publish": 0.8},
        "retired": {"W-900": "no row in the last 12 months"},
        "previous": pl.DataFrame(previous, infer_schema_length=None),
        "baselines": ("ses", "last_value"),
        "promised": (),
        "information": "future unknown (U)",
    }
    return NightReport(**{**facts, **changes})


def emptied(report: NightReport) -> NightReport:
    """The same night with nothing to say."""
    return dataclasses.replace(
        report,
        status="stopped",
        forecast=pl.DataFrame(),
        history=pl.DataFrame(),
        league=pl.DataFrame(),
        by_horizon=pl.DataFrame(),
        oof=pl.DataFrame(),
        weights={},
        verdicts=(),
        notes=(),
        decision=None,
        failures=(),
        provenance={},
        timings={},
        retired={},
        previous=None,
        promised=(),
    )


class Page(HTMLParser):
    """Tags, attributes and text of a page, with its tag balance checked."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def ids(self) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get("id"))]


@pytest.fixture(scope="module")
def report() -> NightReport:
    return make_report()


@pytest.fixture(scope="module")
def html(report: NightReport) -> str:
    return render_night(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_section_has_its_heading_and_the_navigation_reaches_each(page: Page) -> None:
    headings = [attrs["id"] for tag, attrs in page.tags if tag == "h2"]
    assert headings == list(SECTIONS)
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert {f"#{name}" for name in SECTIONS} <= links
    assert {link.removeprefix("#") for link in links if link} <= set(page.ids())


def test_no_id_is_given_twice(page: Page) -> None:
    assert len(page.ids()) == len(set(page.ids()))


def test_the_page_loads_nothing(html: str, page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attrs.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, name, value)
    assert not re.findall(r"url\(|@import|https?://|//[a-z]+\.", html)
    assert "default-src 'none'" in html


def test_the_policy_names_the_style_and_the_script_of_the_page(html: str) -> None:
    import base64
    import hashlib

    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in html
    assert not re.findall(r"\sstyle=|\son[a-z]+=", re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))


def test_all_promised_series_are_named_even_those_that_were_not_served(report: NightReport) -> None:
    promised = (*report.promised_series, "W-777")
    page = Page(render_night(dataclasses.replace(report, promised=promised)))
    rows = {attrs["data-key"] for tag, attrs in page.tags if tag == "tr" and attrs.get("data-key")}
    assert rows == {name.lower() for name in promised}
    assert "1 got no forecast: W-777" in page.text
    assert "not served" in page.text


def test_the_header_counts_who_is_served_by_what(page: Page) -> None:
    assert (
        "19 of 20 promised series are served by the models, 1 by a fallback (quarantined 1); none is missing."
        in page.text
    )
    assert "ensemble has 7.4 % less error than the best naive" in page.text
    assert "trained 30 days before the as-of date" in page.text


def test_a_night_without_skill_says_so(report: NightReport) -> None:
    league = report.league.with_columns(ratio=pl.col("ratio") + 0.2)
    assert "does not beat the best naive" in Page(render_night(dataclasses.replace(report, league=league))).text


def test_quarantine_names_reason_detail_and_what_serves_the_series(page: Page) -> None:
    assert "duplicate_rows 3 rows share the month 2023-07. 3 seasonal_naive: quarantined fallback" in page.text


def test_failures_notes_retired_and_provenance_are_told(page: Page) -> None:
    for words in (
        "tsmixerx fold-01 ran past its ceiling of 900 s",
        "Negative water volumes count as missing.",
        "W-900 no row in the last 12 months",
        "0123abcd",
        "no_nulls: TypeError: bad operand",
        "6 min 52 s",
    ):
        assert words in page.text


def test_the_decision_shows_its_evidence_and_guards(page: Page) -> None:
    assert "−3.20 % (lower loss)" in page.text
    assert "−5.10 % to −1.10 %" in page.text
    assert "|bias| ≤ 0.15 passed" in page.text


def test_a_failed_guard_is_shown_as_failed(report: NightReport) -> None:
    decision = Decision("none", False, "The bias guard failed.", (Guard("bias", 0.4, "|bias| ≤ 0.15", False),))
    text = Page(render_night(dataclasses.replace(report, decision=decision))).text
    assert "No model passed" in text
    assert "|bias| ≤ 0.15 failed" in text


def test_pooled_and_within_r2_stand_side_by_side_and_baselines_are_marked(html: str, page: Page) -> None:
    assert "R² pooled R² within" in page.text
    assert html.count('<tr class="is-naive">') == 2 * len(("ses", "last_value"))  # league and by-horizon table


def test_changes_tell_actuals_that_came_in_since(report: NightReport, page: Page) -> None:
    before = report.previous
    assert before is not None
    new = report.history.join(before, on=["unique_id", "ds"]).filter(pl.col("y").is_not_null())
    inside = new.filter(pl.col("y").is_between(pl.col("q10"), pl.col("q90"))).height / new.height
    assert f"{new.height} actuals came in since for steps it covered: {inside:.1%}".replace("%", " %") in page.text


def test_series_that_left_or_joined_the_forecast_are_named(report: NightReport) -> None:
    forecast = report.forecast.filter(pl.col("unique_id") != "W-003")
    previous = report.previous.filter(pl.col("unique_id") != "W-001") if report.previous is not None else None
    text = Page(render_night(dataclasses.replace(report, forecast=forecast, previous=previous))).text
    assert "New in the forecast: W-001." in text
    assert "No longer in the forecast: W-003." in text


def test_empty_parts_say_so_in_words_instead_of_vanishing(report: NightReport) -> None:
    page = Page(render_night(emptied(report)))
    assert [attrs["id"] for tag, attrs in page.tags if tag == "h2"] == list(SECTIONS)
    for words in (
        "No promotion was decided tonight",
        "No forecast was published",
        "No promised series is known for this night.",
        "There is no earlier published forecast",
        "No model was scored tonight.",
        "No scores by horizon",
        "nothing to look back on",
        "calibration could not be measured",
        "No ensemble was combined tonight",
        "No gate gave a verdict.",
        "The source counted no treatment",
        "No model reported a failure.",
        "No series is retired",
        "No stage was timed.",
    ):
        assert words in page.text


@pytest.mark.parametrize(
    "field", ["forecast", "history", "league", "by_horizon", "oof", "weights", "verdicts", "timings", "previous"]
)
def test_any_one_part_may_be_missing(report: NightReport, field: str) -> None:
    changed = dataclasses.replace(report, **{field: getattr(emptied(report), field)})
    assert [attrs["id"] for tag, attrs in Page(render_night(changed)).tags if tag == "h2"] == list(SECTIONS)


def test_rows_without_columns_of_their_own_kind_are_refused_by_name(report: NightReport) -> None:
    with pytest.raises(ConfigError, match="frame 'oof' lacks y"):
        render_night(dataclasses.replace(report, oof=report.oof.drop("y")))
    with pytest.raises(ConfigError, match="frame 'forecast' lacks q10"):
        render_night(dataclasses.replace(report, forecast=report.forecast.drop("q10")))


def test_a_champion_date_that_is_no_date_is_refused(report: NightReport) -> None:
    with pytest.raises(ConfigError, match="champion_as_of is 'yesterday'"):
        render_night(dataclasses.replace(report, provenance={"champion_as_of": "yesterday"}))


HOSTILE = """<img src=x onerror=alert(1)>"'&</script></style>$\\frac{$"""


def test_hostile_names_are_shown_and_never_run(report: NightReport) -> None:
    def rename(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col("unique_id").replace({"W-001": HOSTILE, "W-005": HOSTILE + "2"}))

    model = {"ensemble": HOSTILE}
    hostile = dataclasses.replace(
        report,
        title=HOSTILE,
        unit=HOSTILE,
        workload=HOSTILE,
        night_id=HOSTILE,
        status=HOSTILE,
        freq_word=HOSTILE,
        information=HOSTILE,
        forecast=rename(report.forecast).with_columns(model_used=pl.lit(HOSTILE), fallback_reason=pl.lit(HOSTILE)),
        history=rename(report.history),
        oof=rename(report.oof),
        previous=rename(report.previous) if report.previous is not None else None,
        league=report.league.with_columns(pl.col("model").replace(model)),
        by_horizon=report.by_horizon.with_columns(pl.col("model").replace(model)),
        weights={HOSTILE: {HOSTILE: 1.0}},
        verdicts=(Verdict(HOSTILE, 3, 3, 0.5, (Finding(HOSTILE, HOSTILE, "quarantine", 1, HOSTILE, HOSTILE),)),),
        notes=(Note(HOSTILE, 1, HOSTILE),),
        decision=Decision("keep", False, HOSTILE, (Guard(HOSTILE, 1.0, HOSTILE, False),)),
        failures=({"model": HOSTILE, "fold": HOSTILE, "reason": HOSTILE},),
        provenance={HOSTILE: HOSTILE, "champion_version": HOSTILE},
        timings={HOSTILE: 1.0},
        retired={HOSTILE: HOSTILE},
    )
    html = render_night(hostile)
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert "img" not in tags
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE in page.text
    assert set(night_pictures(hostile)) == set(night_pictures(report))


def test_equal_nights_give_equal_bytes(report: NightReport, html: str) -> None:
    again = make_report()
    assert render_night(again) == html
    assert night_pictures(again) == night_pictures(report)


def test_the_order_of_rows_does_not_matter_to_the_page(report: NightReport, html: str) -> None:
    mixed = dataclasses.replace(
        report,
        forecast=report.forecast.sample(fraction=1, shuffle=True, seed=3),
        history=report.history.sample(fraction=1, shuffle=True, seed=4),
        previous=report.previous.sample(fraction=1, shuffle=True, seed=5) if report.previous is not None else None,
    )
    assert render_night(mixed) == html


def test_twelve_series_are_up_front_and_the_rest_unfold(html: str) -> None:
    assert html.count('<figure class="card') - html.count('class="grid broad"') * 6 == 12
    assert html.count('<details class="card') == 8


def test_pictures_are_png_and_missing_parts_give_no_picture(report: NightReport) -> None:
    pictures = night_pictures(report)
    assert sorted(pictures) == [
        "by_horizon.png", "calibration.png", "forecasts.png", "hindcast.png", "league.png", "weights.png",
    ]  # fmt: skip
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5_000 for picture in pictures.values())
    assert night_pictures(emptied(report)) == {}


def test_another_prediction_type_brings_its_own_views(report: NightReport) -> None:
    from nightcast.reports.quantile_views import quantile_views

    def plain(night: NightReport) -> Any:
        return dataclasses.replace(quantile_views(night), reading="Probabilities of three classes.", forecasts=())

    text = Page(render_night(dataclasses.replace(report, views=plain))).text
    assert "No forecast was published" in text
    assert "W-001" in text


def test_a_single_step_forecast_has_a_visible_band() -> None:
    html = render_night(make_report(10, horizon=1))
    bands = re.findall(r'<path class="band r-forecast" d="M([\d.]+) [\d.]+L([\d.]+) ', html)
    assert bands
    assert all(float(left) < float(right) for left, right in bands)


def test_levels_are_those_of_the_contract(page: Page) -> None:
    assert len(LEVELS) == 9
    assert "central 80 % central 60 % central 40 % central 20 %" in page.text

"""The nightly page: one self-contained HTML file that says what ran, what it is worth and what to distrust.

Nothing in it is fetched: style, script and pictures are inline, and its content policy forbids requests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import CUTOFF, FALLBACK_REASON, HORIZON, ID, MODEL, MODEL_USED, TARGET, TIME
from nightcast.contracts.decision import Decision, Kind
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.source import Note
from nightcast.contracts.verdict import Finding, Severity, Verdict
from nightcast.reports import charts
from nightcast.reports.plot import Plot
from nightcast.reports.quantile_views import quantile_views, served_by
from nightcast.reports.table import (
    NOTHING,
    Cell,
    Column,
    Row,
    Table,
    count,
    counted,
    duration,
    known,
    number,
    number_cell,
    percent,
    percent_cell,
    row,
    time_format,
)
from nightcast.reports.views import Chapter, Views

UP_FRONT: Final = 12
"""Pictures of series shown without unfolding."""
MOST_FINDINGS: Final = 150
"""Findings listed per gate; all of them are counted."""


@dataclass(frozen=True)
class NightReport:
    """Everything one night has to say.

    Attributes
    ----------
    freq_word
        One step in words, `one month`.
    status
        `published`, `published with fallbacks`, or what else became of the night.
    forecast
        `unique_id, ds, cutoff, horizon, <values>, model_used, fallback_reason, night_id`.
    history
        `unique_id, ds, y`.
    league
        `model` and metrics, best first; metrics this module does not know are shown under their own name.
    by_horizon
        `model, horizon` and metrics.
    oof
        The ensemble's out-of-fold rows: keys, values and `y`.
    weights
        Horizon -> member -> weight.
    failures
        `model, fold, reason` of each unit of work that gave no result.
    provenance
        Name -> value, shown as given. `champion_version` (or `registry_version`) and `champion_as_of` (ISO date)
        also stand at the top of the page, with the champion's age.
    timings
        Stage -> seconds.
    retired
        Series that are owed no forecast -> reason.
    previous
        The last published forecast, None on the first night.
    baselines
        Labels of the naive family.
    promised
        Series that are owed a forecast; empty: those in `forecast` and those in quarantine.
    information
        What models knew of the future when they were scored ("future unknown", "plan known").
    documents
        Title -> relative link of files that lie beside the page.
    verdict_table
        `model, horizon`, named gates (`<name>_gate`, Boolean), their numbers and `why`; empty where there are none.
    views
        Pictures and tables of the prediction type.
    chapters
        Sections that only this workload has, in their order.
    """

    workload: str
    title: str
    unit: str
    as_of: datetime
    night_id: str
    horizon: int
    freq_word: str
    status: str
    forecast: pl.DataFrame
    history: pl.DataFrame
    league: pl.DataFrame
    by_horizon: pl.DataFrame
    oof: pl.DataFrame
    weights: Mapping[str, Mapping[str, float]]
    verdicts: tuple[Verdict, ...]
    notes: tuple[Note, ...]
    decision: Decision | None
    failures: tuple[Mapping[str, Any], ...]
    provenance: Mapping[str, str]
    timings: Mapping[str, float]
    retired: Mapping[str, str]
    previous: pl.DataFrame | None
    baselines: tuple[str, ...]
    promised: tuple[str, ...] = ()
    information: str = ""
    documents: Mapping[str, str] = field(default_factory=dict)
    verdict_table: pl.DataFrame = field(default_factory=pl.DataFrame)
    views: Callable[[NightReport], Views] = field(default=quantile_views)
    chapters: tuple[Chapter, ...] = ()

    @property
    def promised_series(self) -> tuple[str, ...]:
        """Series that are owed a forecast, sorted."""
        if self.promised:
            return tuple(sorted(set(self.promised)))
        served = self.forecast.get_column(ID).unique().to_list() if self.forecast.height else []
        return tuple(sorted({*served, *(name for verdict in self.verdicts for name in verdict.quarantined)}))


_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "forecast": (ID, TIME, CUTOFF, HORIZON, MODEL_USED, FALLBACK_REASON),
    "history": (ID, TIME, TARGET),
    "league": (MODEL,),
    "by_horizon": (MODEL, HORIZON),
    "oof": (ID, TIME, CUTOFF, HORIZON, TARGET),
    "previous": (ID, TIME, CUTOFF, MODEL_USED),
}


def render_night(report: NightReport) -> str:
    """The night as one HTML page; equal reports give equal bytes.

    Raises
    ------
    ConfigError
        If a frame of the report lacks a column.
    """
    import jinja2
    from markupsafe import Markup

    from nightcast.reports import svg

    _check(report)
    texts = {name: _text(name) for name in ("macros.html.j2", "page.html.j2", "page.css", "page.js")}
    style, script = f"{texts['page.css']}{svg.style()}\n", texts["page.js"]
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def draw(plot: Plot) -> Markup:
        return Markup(svg.draw(plot))

    environment.filters["draw"] = draw
    views = report.views(report)
    page = environment.get_template("page.html.j2").render(
        report=report,
        views=views,
        up_front=UP_FRONT,
        style=Markup(style),
        script=Markup(script),
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
        **_sections(report),
    )
    return page.strip() + "\n"


def night_pictures(report: NightReport) -> dict[str, bytes]:
    """The night's pictures as PNG, by file name; a picture with nothing to show is left out.

    Raises
    ------
    ConfigError
        If a frame of the report lacks a column.
    """
    from nightcast.reports.png import draw_grid

    _check(report)
    views = report.views(report)
    night = f"{report.title}, {_stamp(report)}"
    grids: dict[str, tuple[str, list[tuple[str, Plot]], int]] = {
        "forecasts.png": ("Forecasts", [(picture.title, picture.plot) for picture in views.forecasts[:UP_FRONT]], 3),
        "hindcast.png": ("Out-of-fold forecasts", [(picture.title, picture.plot) for picture in views.hindcasts], 2),
        "calibration.png": ("Calibration", [(picture.title, picture.plot) for picture in views.calibration], 2),
    }
    league, horizon = _league_plot(report), _horizon_plots(report)
    if league is not None:
        grids["league.png"] = ("Against the best naive", [("", league)], 1)
    if horizon:
        grids["by_horizon.png"] = ("By horizon", [("", plot) for plot in horizon], 2)
    for chapter in report.chapters:
        grids[f"{chapter.name}.png"] = (chapter.title, [(its.title, its.plot) for its in chapter.pictures], 2)
    if report.weights:
        grids["weights.png"] = ("Ensemble weights", [("", charts.weights(report.weights))], 1)
    return {
        name: draw_grid(plots, title=f"{title}: {night}", columns=columns)
        for name, (title, plots, columns) in sorted(grids.items())
        if plots
    }


def _text(name: str) -> str:
    return resources.files("nightcast.reports").joinpath(name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """A content policy's word for an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _check(report: NightReport) -> None:
    for name, columns in _REQUIRED.items():
        frame = getattr(report, name)
        missing = [] if frame is None or not frame.height else [c for c in columns if c not in frame.columns]
        if missing:
            raise ConfigError(
                f"the report's frame {name!r} lacks {', '.join(missing)}; it has {', '.join(frame.columns)}",
                expected=f"the columns {', '.join(columns)}, or no rows at all",
                remedy="hand over the frame as the flow made it",
            )


def _stamp(report: NightReport) -> str:
    return f"{report.as_of:{time_format([report.as_of])}}"


def _sections(report: NightReport) -> dict[str, Any]:
    """All that does not depend on the prediction type."""
    service = _service(report)
    return {
        "as_of": _stamp(report),
        "tone": _tone(report, service),
        "lead": _lead(report, service),
        "facts": _facts(report, service),
        "decision": _decision(report.decision),
        "guards": _guards(report.decision),
        "verdict_table": _verdict_table(report),
        "league": _league(report),
        "league_words": _league_words(report),
        "league_plot": _league_plot(report),
        "metrics": _METRICS,
        "horizon_plots": _horizon_plots(report),
        "horizon_table": _horizon_table(report),
        "weights_plot": charts.weights(report.weights) if report.weights else None,
        "weights_table": _weights_table(report),
        "quarantine": _quarantine(report),
        "gates": _gates(report),
        "gate_findings": [(verdict, *_findings(verdict)) for verdict in report.verdicts],
        "notes": _notes(report),
        "failures": _failures(report),
        "retired": _retired(report),
        "provenance": _provenance(report),
        "timings": _timings(report),
    }


@dataclass(frozen=True)
class _Service:
    promised: int
    by_model: int
    by_fallback: int
    missing: tuple[str, ...]
    quarantined: int
    reasons: tuple[tuple[str, int], ...]


def _service(report: NightReport) -> _Service:
    promised = report.promised_series
    fallback: dict[str, str] = {}
    served: set[str] = set()
    if report.forecast.height:
        for key, part in report.forecast.partition_by(ID, as_dict=True, maintain_order=True).items():
            served.add(str(key[0]))
            reason = served_by(part)[1]
            if reason:
                fallback[str(key[0])] = reason
    tally: dict[str, int] = {}
    for reason in fallback.values():
        tally[reason] = tally.get(reason, 0) + 1
    return _Service(
        promised=len(promised),
        by_model=len(served) - len(fallback),
        by_fallback=len(fallback),
        missing=tuple(name for name in promised if name not in served),
        quarantined=len({name for verdict in report.verdicts for name in verdict.quarantined}),
        reasons=tuple(sorted(tally.items(), key=lambda item: (-item[1], item[0]))),
    )


def _tone(report: NightReport, service: _Service) -> str:
    if service.missing or not report.status.startswith("published"):
        return "bad"
    return "warn" if service.by_fallback or "fallback" in report.status else "good"


def _lead(report: NightReport, service: _Service) -> str:
    if not service.promised:
        return "No promised series is known for this night."
    words = f"{count(service.by_model)} of {counted(service.promised, 'promised series', 'promised series')} "
    words += "is served by the models" if service.by_model == 1 else "are served by the models"
    if service.by_fallback:
        why = ", ".join(f"{reason} {count(times)}" for reason, times in service.reasons)
        words += f", {count(service.by_fallback)} by a fallback ({why})"
    if not service.missing:
        return f"{words}; none is missing."
    names = ", ".join(service.missing[:8])
    more = f" and {len(service.missing) - 8} more" if len(service.missing) > 8 else ""
    return f"{words}; {count(len(service.missing))} got no forecast: {names}{more}."


def _facts(report: NightReport, service: _Service) -> list[tuple[str, str, str]]:
    """Name, value and a small addition."""
    best = _best(report)
    version = report.provenance.get("champion_version") or report.provenance.get("registry_version") or "not recorded"
    return [
        ("as of", _stamp(report), "the last known time"),
        ("forecast", counted(report.horizon, "step"), f"of {report.freq_word}"),
        ("promised", count(service.promised), "series"),
        ("served", count(service.by_model + service.by_fallback), f"{count(service.by_fallback)} by a fallback"),
        ("quarantined", count(service.quarantined), "series"),
        ("champion", version, _age(report)),
        (
            "against the naive",
            NOTHING if best is None else f"× {number(best[1])}",
            "no ratio in the league" if best is None else f"error of {best[0]} / best naive",
        ),
        ("took", duration(sum(report.timings.values())) if report.timings else NOTHING, "all stages together"),
    ]


def _age(report: NightReport) -> str:
    text = report.provenance.get("champion_as_of", "")
    if not text:
        return "age not recorded"
    try:
        since = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"champion_as_of is {text!r}",
            expected="an ISO date, such as 2024-05-01",
            remedy="write the as-of date of the night that trained the champion into the provenance",
        ) from error
    days = (report.as_of - since.replace(tzinfo=None)).days
    return "trained on tonight's as-of date" if days == 0 else f"trained {counted(days, 'day')} before the as-of date"


_KINDS: Final[dict[Kind, str]] = {
    "first": "First champion",
    "refit": "Refit of the champion's recipe",
    "replace": "The challenger replaces the champion",
    "keep": "The champion stays",
    "none": "No model passed",
}


def _decision(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    evidence: list[tuple[str, str]] = []
    if decision.effect is not None:
        side = "lower" if decision.effect < 0 else "higher"
        evidence.append(("change of the mean loss", f"{percent(decision.effect, sign=True, digits=2)} ({side} loss)"))
    if decision.low is not None and decision.high is not None:
        span = f"{percent(decision.low, sign=True, digits=2)} to {percent(decision.high, sign=True, digits=2)}"
        evidence.append(("bootstrap interval", span))
    evidence += [("paired rows", count(decision.rows)), ("origins", count(decision.cutoffs))]
    tone = "good" if decision.promote else ("bad" if decision.kind == "none" else "neutral")
    return {
        "heading": _KINDS[decision.kind],
        "promote": "promoted" if decision.promote else "not promoted",
        "reason": decision.reason,
        "tone": tone,
        "evidence": evidence,
    }


def _guards(decision: Decision | None) -> Table:
    rows = tuple(
        row(
            Cell(guard.name, "strong"),
            number_cell(guard.value),
            guard.limit,
            Cell("passed" if guard.passed else "failed", "good" if guard.passed else "bad"),
        )
        for guard in (decision.guards if decision else ())
    )
    columns = (Column("guard"), Column("value", True), Column("limit"), Column("outcome"))
    return Table("Guards: what a challenger must not be worse at", columns, rows, "No guard was asked.")


_Metric = tuple[str, str, str]
_METRICS: Final[dict[str, _Metric]] = {
    # column: (heading, kind, meaning)
    "ratio": ("× naive", "ratio", "error divided by that of the best naive on the same rows; below 1 is better"),
    "mae": ("MAE", "number", "mean absolute error of the median, in the target's unit; lower is better"),
    "nmae": ("nMAE", "percent", "sum of absolute errors divided by the sum of actuals; lower is better"),
    "mase": ("MASE", "number", "error over that of a one-step naive in the training rows; lower is better"),
    "rmsse": ("RMSSE", "number", "the same with squared errors; lower is better"),
    "bias": ("bias", "percent", "mean of forecast minus actual, as a share of the mean actual; + is too high"),
    "r2_pooled": ("R² pooled", "number", "around the grand mean of all series; inflated by differences between series"),
    "r2_within": ("R² within", "number", "around each series' own mean; what is explained inside series"),
    "nse_median": ("NSE median", "number", "median over series of 1 − SSE/SST; 0 is as good as the mean in hindsight"),
    "pinball": ("pinball", "number", "mean quantile loss over all levels; lower is better"),
    "coverage80": ("80 % cov.", "percent", "share of actuals between q10 and q90; 80 % is right"),
    "width80": ("80 % width", "number", "mean width of the central 80 %; narrower is better at equal coverage"),
    "log_loss": ("log loss", "number", "mean negative log of the probability of what came true; lower is better"),
    "macro_f1": ("macro F1", "number", "mean F1 of the three classes; rises with volatility alone"),
    "direction_auc": ("direction AUC", "number", "ranks ups above downs among rows that moved; 0.5 is chance"),
    "balanced_accuracy": ("bal. acc.", "number", "mean recall of the classes; 1/3 is chance"),
    "brier_skill": ("Brier skill", "percent", "1 − Brier score / that of class shares by hour; above 0 is better"),
    "ece": ("ECE", "percent", "mean gap of stated and true probability; lower is better"),
    "mcc": ("MCC", "number", "correlation of predicted and true class; 0 is chance"),
    "seed_sharpe": ("Sharpe, argmax", "number", "of the most probable class before costs, as the seed gate asks"),
    "sharpe": ("Sharpe, net", "number", "of daily profit after costs, annualised"),
    "gross_sharpe": ("Sharpe, gross", "number", "the same before costs"),
    "max_drawdown": ("max. drawdown", "percent", "largest fall from a peak, after costs"),
    "turnover": ("turnover", "number", "sum of position changes a day"),
    "trades": ("trades", "count", "entries over the scored span"),
    "rows": ("rows", "count", "scored rows"),
    "series": ("series", "count", "scored series"),
    "seconds": ("time", "seconds", "fitting and predicting, all folds together"),
}


def _metric_columns(frame: pl.DataFrame, *, leave: Sequence[str]) -> list[str]:
    present = [name for name in _METRICS if name in frame.columns]
    return present + [name for name in frame.columns if name not in _METRICS and name not in leave]


def _metric_column(name: str) -> Column:
    heading, _, meaning = _METRICS.get(name, (name.replace("_", " "), "number", ""))
    return Column(heading, True, meaning)


def _metric_cell(name: str, value: Any) -> Cell:
    if value is None or isinstance(value, str):
        return Cell(NOTHING if value is None else value)
    kind = _METRICS.get(name, ("", "number", ""))[1]
    if kind == "ratio":
        better = known(value) and value < 1
        return number_cell(value, tone="good strong" if better else "strong")
    if kind == "count":
        return Cell(count(int(value)), sort=float(value))
    if kind == "seconds":
        return Cell(duration(value), sort=float(value))
    return percent_cell(value, sign=name == "bias") if kind == "percent" else number_cell(float(value))


def _league(report: NightReport) -> Table:
    names = _metric_columns(report.league, leave=(MODEL,))
    rows = []
    for entry in report.league.iter_rows(named=True):
        model = str(entry[MODEL])
        naive = model in report.baselines
        title = Cell(model, "strong", badge="naive" if naive else "")
        cells = (title, *(_metric_cell(name, entry[name]) for name in names))
        rows.append(row(*cells, mark="naive" if naive else ""))
    mode = report.information or "not stated"
    return Table(
        f"Out-of-fold scores, best first. Information about the future: {mode}",
        (Column("model"), *(_metric_column(name) for name in names)),
        tuple(rows),
        "No model was scored tonight.",
        sortable=True,
    )


_GATE: Final = "_gate"
_WHY: Final = "why"


def _verdict_table(report: NightReport) -> Table:
    """One row per model and horizon: the gates passed or failed, the reason, then the numbers."""
    frame = report.verdict_table
    gates = [name for name in frame.columns if name.endswith(_GATE)]
    rest = [name for name in frame.columns if name not in (MODEL, HORIZON, _WHY, *gates)]
    rows = []
    for entry in frame.iter_rows(named=True):
        model = str(entry[MODEL])
        cells = [
            Cell(NOTHING) if entry[g] is None else Cell("yes" if entry[g] else "no", "good" if entry[g] else "bad")
            for g in gates
        ]
        numbers = [
            Cell("yes" if entry[name] else "no") if isinstance(entry[name], bool) else _metric_cell(name, entry[name])
            for name in rest
        ]
        rows.append(
            row(
                Cell(model, "strong", badge="naive" if model in report.baselines else ""),
                Cell(str(entry[HORIZON])),
                *cells,
                Cell(str(entry.get(_WHY) or ""), "words"),
                *numbers,
                mark="naive" if model in report.baselines else "",
            )
        )
    columns = (
        Column("model"),
        Column("horizon", True),
        *(Column(name.removesuffix(_GATE) + " gate") for name in gates),
        Column("why"),
        *(_metric_column(name) for name in rest),
    )
    return Table("Gates per model and horizon", columns, tuple(rows), "", sortable=True)


def _best(report: NightReport) -> tuple[str, float] | None:
    """The row of the league that serves most series, and its ratio; without such a row the best that is no baseline."""
    if "ratio" not in report.league.columns:
        return None
    rows = [
        (str(model), float(ratio))
        for model, ratio in report.league.select(MODEL, "ratio").iter_rows()
        if ratio is not None and known(ratio) and model not in report.baselines
    ]
    serving: list[str] = []
    if report.forecast.height:
        used = report.forecast.group_by(MODEL_USED).len().sort("len", MODEL_USED, descending=[True, False])
        serving = used.get_column(MODEL_USED).to_list()
    for its in rows:
        if serving and its[0] == serving[0]:
            return its
    return min(rows, key=lambda item: item[1]) if rows else None


def _league_words(report: NightReport) -> str:
    if not report.league.height:
        return ""
    best = _best(report)
    if best is None:
        return "The league gives no ratio to the best naive, so no model can be called better than one."
    model, ratio = best
    if ratio < 1:
        return f"The {model} has {percent(1 - ratio)} less error than the best naive on the same rows."
    return f"The {model} does not beat the best naive: it has {number(ratio)} times its error."


def _league_plot(report: NightReport) -> Plot | None:
    if "ratio" not in report.league.columns or not report.league["ratio"].is_finite().any():
        return None
    return charts.league_ratios(report.league, baselines=report.baselines)


_HORIZON_VALUES: Final = (("ratio", "error / error of the best naive"), ("mae", "MAE"))


def _horizon_plots(report: NightReport) -> list[Plot]:
    if not report.by_horizon.height:
        return []
    order = [str(name) for name in report.league[MODEL]] if report.league.height else []
    return [
        charts.by_horizon(
            report.by_horizon,
            value=value,
            label=f"{label} ({report.unit})" if value == "mae" and report.unit else label,
            order=order,
            baselines=report.baselines,
        )
        for value, label in _HORIZON_VALUES
        if value in report.by_horizon.columns and report.by_horizon[value].is_finite().any()
    ]


def _horizon_table(report: NightReport) -> Table:
    frame = report.by_horizon
    value = next((name for name, _ in _HORIZON_VALUES if name in frame.columns), None)
    empty = "No scores by horizon were handed over."
    if value is None or not frame.height:
        return Table("By horizon", (), (), empty)
    steps = sorted({int(step) for step in frame[HORIZON]})
    order = [str(name) for name in report.league[MODEL]] if report.league.height else []
    table: dict[str, dict[int, Any]] = {name: {} for name in order}
    for model, step, score in frame.select(MODEL, HORIZON, value).sort(MODEL, HORIZON).iter_rows():
        table.setdefault(str(model), {})[int(step)] = score
    rows = tuple(
        row(
            Cell(model, "strong", badge="naive" if model in report.baselines else ""),
            *(_metric_cell(value, its.get(step)) for step in steps),
            mark="naive" if model in report.baselines else "",
        )
        for model, its in table.items()
        if its
    )
    columns = (Column("model"), *(Column(f"step {step}", True) for step in steps))
    return Table(f"{_METRICS[value][0]} by horizon: {_METRICS[value][2]}", columns, rows, empty)


def _weights_table(report: NightReport) -> Table:
    horizons = list(report.weights)
    members = sorted({member for its in report.weights.values() for member in its})
    mean = {m: sum(report.weights[h].get(m, 0.0) for h in horizons) / max(len(horizons), 1) for m in members}
    rows = tuple(
        row(
            Cell(member, "strong", badge="naive" if member in report.baselines else ""),
            percent_cell(mean[member]),
            *(percent_cell(report.weights[horizon].get(member)) for horizon in horizons),
        )
        for member in sorted(members, key=lambda member: (-mean[member], member))
    )
    columns = (Column("member"), Column("mean", True), *(Column(f"step {horizon}", True) for horizon in horizons))
    empty = "No ensemble was combined tonight, so there are no weights."
    return Table("Weight of each member by horizon", columns, rows, empty)


def _quarantine(report: NightReport) -> Table:
    parts: dict[str, pl.DataFrame] = {}
    if report.forecast.height:
        parts = {str(k[0]): part for k, part in report.forecast.partition_by(ID, as_dict=True).items()}
    rows = []
    for verdict in report.verdicts:
        for series, reasons in verdict.quarantined.items():
            its = [f for f in verdict.findings if f.series == series and f.severity == "quarantine"]
            served = Cell("not served", "bad", badge="missing")
            if series in parts:
                used, reason = served_by(parts[series])
                served = Cell(f"{used}: {reason}" if reason else used, badge="fallback" if reason else "")
            rows.append(
                row(
                    Cell(series, "strong"),
                    verdict.gate,
                    Cell(", ".join(reasons), "code"),
                    Cell(" ".join(f.detail for f in its), "words"),
                    Cell(count(sum(f.rows for f in its)), sort=float(sum(f.rows for f in its))),
                    served,
                )
            )
    columns = (
        Column("series"),
        Column("gate"),
        Column("reason"),
        Column("what was found"),
        Column("rows", True),
        Column("served by"),
    )
    empty = "No series is in quarantine." if report.verdicts else "No gate gave a verdict."
    return Table("Series in quarantine, and what serves them instead", columns, tuple(rows), empty, sortable=True)


def _gates(report: NightReport) -> Table:
    rows = []
    for verdict in report.verdicts:
        share = len(verdict.quarantined) / max(verdict.series, 1)
        stops = sum(finding.severity == "stop" for finding in verdict.findings)
        state = Cell("passed", "good")
        if verdict.broken:
            state = Cell("a rule raised", "bad")
        elif stops:
            state = Cell("stopped the run", "bad")
        elif share > verdict.budget:
            state = Cell("over budget", "bad")
        rows.append(
            row(
                Cell(verdict.gate, "strong"),
                state,
                Cell(count(verdict.series)),
                Cell(count(verdict.rules)),
                Cell(
                    f"{count(len(verdict.quarantined))} ({percent(share)}, budget {percent(verdict.budget, digits=0)})"
                ),
                Cell(count(verdict.masked_rows)),
                Cell(count(sum(finding.severity == "warn" for finding in verdict.findings))),
                Cell(count(len(verdict.broken))),
            )
        )
    columns = (
        Column("gate"),
        Column("outcome"),
        Column("series", True),
        Column("rules asked", True),
        Column("quarantined", True),
        Column("masked rows", True, "rows that count as missing"),
        Column("warnings", True),
        Column("rules that raised", True),
    )
    return Table("What the gates said", columns, tuple(rows), "No gate gave a verdict.")


_SEVERITIES: Final[tuple[Severity, ...]] = ("stop", "quarantine", "mask", "warn")


def _findings(verdict: Verdict) -> tuple[Table, Table, str]:
    """Findings of a gate by reason, then one by one, and a sentence on what was left out."""
    groups: dict[tuple[int, str], list[Finding]] = {}
    for finding in verdict.findings:
        groups.setdefault((_SEVERITIES.index(finding.severity), finding.reason), []).append(finding)
    by_reason = [
        row(
            Cell(reason, "code"),
            _SEVERITIES[severity],
            Cell(count(len({f.series for f in its if f.series is not None}))),
            Cell(count(sum(f.rows for f in its))),
            Cell(its[0].rule, "code"),
        )
        for (severity, reason), its in sorted(groups.items())
    ]
    by_reason += [
        row(Cell("rule_raised", "code"), Cell("stop", "bad"), NOTHING, NOTHING, Cell(f"{b.rule}: {b.error}", "code"))
        for b in verdict.broken
    ]
    ranked = sorted(
        verdict.findings, key=lambda f: (_SEVERITIES.index(f.severity), f.reason, -f.rows, f.series or "", f.detail)
    )
    each = [
        row(
            Cell(finding.series if finding.series is not None else "the whole table", "strong"),
            Cell(finding.reason, "code"),
            finding.severity,
            Cell(count(finding.rows), sort=float(finding.rows)),
            Cell(finding.detail, "words"),
        )
        for finding in ranked[:MOST_FINDINGS]
    ]
    empty = f"The {verdict.gate} gate found nothing."
    left = len(ranked) - len(each)
    summary = Table(
        f"Findings of the {verdict.gate} gate, by reason",
        (Column("reason"), Column("severity"), Column("series", True), Column("rows", True), Column("rule")),
        tuple(by_reason),
        empty,
    )
    details = Table(
        f"Findings of the {verdict.gate} gate",
        (Column("series"), Column("reason"), Column("severity"), Column("rows", True), Column("what was found")),
        tuple(each),
        empty,
        sortable=True,
    )
    words = f"{counted(left, 'further finding')} of the mildest kind are counted above and not listed." if left else ""
    return summary, details, words


def _notes(report: NightReport) -> Table:
    rows = tuple(
        row(Cell(note.code, "code"), Cell(count(note.rows), sort=float(note.rows)), Cell(note.detail, "words"))
        for note in sorted(report.notes, key=lambda note: (-note.rows, note.code))
    )
    columns = (Column("treatment"), Column("rows", True), Column("what was done"))
    empty = "The source counted no treatment: nothing was filled, clipped or dropped."
    return Table("Treatments of the input, counted", columns, rows, empty)


def _failures(report: NightReport) -> Table:
    rows = tuple(
        row(
            Cell(str(entry.get("model", NOTHING)), "strong"),
            str(entry.get("fold", NOTHING)),
            Cell(str(entry.get("reason", NOTHING)), "words"),
        )
        for entry in report.failures
    )
    columns = (Column("model"), Column("fold"), Column("reason"))
    return Table("Models that gave no result in a fold", columns, rows, "No model reported a failure.")


def _retired(report: NightReport) -> Table:
    rows = tuple(row(Cell(name, "strong"), Cell(reason, "words")) for name, reason in sorted(report.retired.items()))
    empty = "No series is retired: every target series is owed a forecast."
    return Table("Series that are owed no forecast", (Column("series"), Column("reason")), rows, empty)


def _provenance(report: NightReport) -> Table:
    rows = [row(Cell("night", "strong"), Cell(report.night_id, "code"))]
    rows += [
        row(Cell(name.replace("_", " "), "strong"), Cell(value or NOTHING, "code"))
        for name, value in report.provenance.items()
    ]
    return Table("What this night was made of", (Column("what"), Column("value")), tuple(rows), "")


def _timings(report: NightReport) -> Table:
    total = sum(report.timings.values())
    rows: list[Row] = [
        row(
            Cell(stage.replace("_", " "), "strong"),
            Cell(duration(seconds), sort=seconds),
            Cell(percent(seconds / total if total else None), bar=seconds / total if total else 0.0),
        )
        for stage, seconds in report.timings.items()
    ]
    if rows:
        rows.append(row(Cell("together", "strong"), Cell(duration(total), "strong", total), Cell("")))
    columns = (Column("stage"), Column("time", True), Column("share"))
    return Table("Where the time went", columns, tuple(rows), "No stage was timed.")

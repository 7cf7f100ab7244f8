"""A verdict for people: rows of a table, and Great Expectations' own pages on request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from expectations.gate import load_gx
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.verdict import Verdict

if TYPE_CHECKING:
    import great_expectations as gx


def verdict_table(verdict: Verdict) -> list[dict[str, Any]]:
    """Rows of a table, the worst first: broken rules, stops, quarantines, masks, warnings.

    Every row has the keys `gate, severity, series, reason, rows, detail`; `series` is `(table)` for findings of the
    table. An empty list means nothing was found.
    """
    rows: list[dict[str, Any]] = [
        {
            "gate": verdict.gate,
            "severity": "broken rule",
            "series": "(table)",
            "reason": broken.rule,
            "rows": 0,
            "detail": broken.error,
        }
        for broken in verdict.broken
    ]
    order = ("stop", "quarantine", "mask", "warn")
    for finding in sorted(verdict.findings, key=lambda its: order.index(its.severity)):
        rows.append(
            {
                "gate": verdict.gate,
                "severity": finding.severity,
                "series": "(table)" if finding.series is None else finding.series,
                "reason": finding.reason,
                "rows": finding.rows,
                "detail": finding.detail,
            }
        )
    return rows


def write_data_docs(
    folder: Path, assets: Mapping[str, pl.DataFrame], suites: Mapping[str, gx.ExpectationSuite], *, title: str
) -> Path:
    """Write Great Expectations' Data Docs for the suites of a gate; takes seconds, so only on request.

    The pages load their styles, scripts and fonts from public servers: without a network they are legible but bare.
    The nightly report and `verdict_table` do not need one.

    Parameters
    ----------
    folder
        Where `index.html` goes; made if absent.
    assets, suites
        As for `expectations.gate.ask`; for the raw gate `raw_assets(raw, thresholds)` and `raw_suites(thresholds)`.
    title
        Name of the run on the pages.

    Returns
    -------
    Path
        The index page.

    Raises
    ------
    ConfigError
        If assets and suites do not match.
    """
    if set(assets) != set(suites):
        raise ConfigError(
            f"there are the assets {sorted(assets)} and suites for {sorted(suites)}",
            expected="one suite for each asset",
            remedy="pass the assets and suites of the same gate",
        )
    module = load_gx()
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    context = module.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    for name in context.get_site_names():
        context.delete_data_docs_site(name)
    context.add_data_docs_site(
        "pages",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        },
    )
    frames = context.data_sources.add_pandas("frames")
    update = module.checkpoint.UpdateDataDocsAction(name="pages", site_names=["pages"])
    for key in sorted(assets):
        definition = module.ValidationDefinition(
            name=f"{title} {key}",
            data=frames.add_dataframe_asset(key).add_batch_definition_whole_dataframe("whole"),
            suite=context.suites.add(suites[key]),
        )
        checkpoint = module.Checkpoint(
            name=f"{title} {key}",
            validation_definitions=[context.validation_definitions.add(definition)],
            actions=[update],
            result_format="SUMMARY",
        )
        context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": assets[key].to_pandas()})
    return folder / "index.html"

"""One model from several seeds: members `label`, `label#2`, ... are averaged, and weigh as one.

Networks of different seeds differ by chance alone. Weights learned for each of them would fit that chance, and n equal
shares would make the model count n times; so their quantiles are averaged first (bagging; Breiman 1996, and deep
ensembles, Lakshminarayanan et al. 2017), and the bag goes by the label of its first member. Every seed stays a member
of its own in the walk-forward and in the league table: what averaging is worth can be read there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import polars as pl

from nightcast.contracts.columns import MODEL, QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.prediction import KEYS, Quantiles
from nightcast.contracts.recipe import ModelChoice

_SEED: Final = re.compile(r"#\d+$")


def bag_of(label: str) -> str:
    """The bag a member belongs to: its label without the seed."""
    return _SEED.sub("", label)


def seeded(choice: ModelChoice, seeds: int) -> tuple[ModelChoice, ...]:
    """A recipe's line, and the same once more for each further seed."""
    more = range(choice.seed_index + 1, choice.seed_index + seeds)
    again = (choice.model_copy(update={"label": f"{choice.label}#{i + 1}", "seed_index": i}) for i in more)
    return (choice, *again)


def refuse_unknown(weights: Iterable[str] | None, members: Iterable[ModelChoice]) -> None:
    """Hold the labels of given weights against the recipe's members.

    Raises
    ------
    ConfigError
        If a weight is given to no member.
    """
    known = {bag_of(choice.label) for choice in members}
    unknown = sorted(set(weights or ()) - known)
    if unknown:
        raise ConfigError(
            f"recipe.combiner.weights names {', '.join(map(repr, unknown))}, which is the label of no model",
            expected=f"labels among {', '.join(sorted(known))}",
            remedy="correct the label, or add the model to `models`; the seeds of one model share one weight",
        )


def bagged_rows(oof: pl.DataFrame) -> pl.DataFrame:
    """Out-of-fold rows with one member per bag: the mean quantiles of the seeds that have the row.

    Rows that are not finite are left out. Without a bag the rows are given back as they are.
    """
    if MODEL not in oof.columns or not set(QUANTILES) <= set(oof.columns):
        return oof  # the combiner names the column that is missing
    labels = oof.get_column(MODEL).unique().sort().to_list()
    seeds = [label for label in labels if bag_of(label) != label]
    if not seeds:
        return oof
    bags = {label: bag_of(label) for label in labels}
    ours = pl.col(MODEL).is_in([label for label in labels if bags[label] in {bags[seed] for seed in seeds}])
    finite = pl.all_horizontal(pl.col(QUANTILES).cast(pl.Float64).is_finite().fill_null(False))
    single, bag = oof.filter(~ours), oof.filter(ours & finite)
    repeated = bag.filter(bag.select(*KEYS, MODEL).is_duplicated())
    if repeated.height:
        return oof  # the combiner names the row that repeats
    # In order of labels, so that a sum does not depend on the order of rows.
    bag = bag.sort(*KEYS, MODEL).with_columns(pl.col(MODEL).replace(bags))
    rest = [name for name in oof.columns if name not in (*KEYS, MODEL, *QUANTILES)]
    joined = bag.group_by(*KEYS, MODEL, maintain_order=True).agg(
        *(pl.col(name).cast(pl.Float64).mean() for name in QUANTILES), *(pl.col(name).first() for name in rest)
    )
    return pl.concat([single.with_columns(pl.col(QUANTILES).cast(pl.Float64)), joined.select(oof.columns)])


def bagged(members: Mapping[str, Quantiles]) -> dict[str, Quantiles]:
    """Predictions with one member per bag; a seed that lacks a row leaves it to the others."""
    bags: dict[str, list[Quantiles]] = {}
    for label in sorted(members):
        bags.setdefault(bag_of(label), []).append(members[label])
    return {bag: its[0] if len(its) == 1 else Quantiles.mean(its) for bag, its in bags.items()}

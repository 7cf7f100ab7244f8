"""Ensembles as classifiers: members learn from the past alone, and weights from what members had not seen."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.classifier import Classifier, Inputs, Samples
from models.classifiers import CLASSIFIERS
from models.ensembles.pooling import log_loss, log_pool, softmax
from models.families.ensemble_classes import (
    MIN_LEARNED,
    BlendingClassifier,
    EnsembleClassifier,
    StackingClassifier,
    VotingClassifier,
    inner_blocks,
    purged_pair,
    subset,
)
from nightcast.contracts.columns import CLASS_PROBS
from nightcast.contracts.errors import ConfigError, RegistryError
from tests.contract.bar_data import bar_dataset, last_fold

ENSEMBLES = (VotingClassifier, StackingClassifier, BlendingClassifier)
SETS = ("ensemble_base", "neural_optimal", "boosting_optimal")
MEMBERS = {"members": ("logistic", "lightgbm"), "member_params": {"lightgbm": {"rounds": 6, "depth": 3}}}
GRU = {"window": 16, "hidden": 4, "head": 4, "epochs": 1}
HOUR = np.timedelta64(1, "h")


# -- samples ---------------------------------------------------------------------------------------------------------


def samples(
    times: list[NDArray[np.int64]],
    chosen: list[NDArray[np.int64]],
    hold: NDArray[np.int32],
    y: NDArray[np.int8],
    horizons: tuple[int, ...],
) -> Samples:
    """Decisions at some bars of several symbols, which lie one after another.

    Parameters
    ----------
    times
        Hours of each symbol's bars.
    chosen
        Each symbol's decisions, as positions among its bars.
    hold, y
        `[n, H]`; a horizon beyond the symbol's last bar makes the label unknown.
    """
    sizes = [len(its) for its in times]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = np.concatenate([start + its for start, its in zip(starts, chosen, strict=True)])
    last = np.concatenate(
        [np.full(len(its), start + n - 1) for start, its, n in zip(starts, chosen, sizes, strict=True)]
    )
    y = np.where(rows[:, None] + np.asarray(horizons) <= last[:, None], y, -1).astype(np.int8)
    inputs = Inputs(
        base=np.arange(sum(sizes), dtype=np.float32)[:, None],
        rows=rows.astype(np.int64),
        names=("number",),
        horizons=horizons,
        raw=np.empty((0, 5)),
        segment=np.repeat(np.arange(len(sizes)), sizes),
        times=(np.datetime64("2024-01-01") + np.concatenate(times) * HOUR).astype("datetime64[us]"),
        symbol=np.repeat(np.arange(len(sizes)), sizes),
    )
    return Samples(inputs, y, (y >= 0).astype(np.float32), np.where(y >= 0, hold, 0).astype(np.int32))


@st.composite
def markets(draw: st.DrawFn) -> Samples:
    """Two or three symbols with gaps of their own, thinned decisions and labels of any length."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    horizons = tuple(sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=2))))
    times, chosen = [], []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(20, 80))
        times.append(np.cumsum(rng.choice([1, 1, 1, 5], count)) + int(rng.integers(0, 20)))
        chosen.append(np.flatnonzero(rng.random(count) < draw(st.sampled_from([0.5, 0.8, 1.0]))))
    n = sum(map(len, chosen))
    hold = rng.integers(1, np.asarray(horizons) + 1, (n, len(horizons))).astype(np.int32)
    return samples(times, chosen, hold, rng.integers(0, 3, hold.shape).astype(np.int8), horizons)


def decided(its: Samples) -> NDArray[np.datetime64]:
    return its.inputs.times[its.inputs.rows]


def ends(its: Samples) -> NDArray[np.datetime64]:
    """`[n, H]` the last bar that each label may look at."""
    times, horizons = its.inputs.times, np.asarray(its.inputs.horizons)
    return cast("NDArray[np.datetime64]", times[np.minimum(its.inputs.rows[:, None] + horizons, len(times) - 1)])


# -- no member scores what it was fitted on ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(market=markets(), blocks=st.integers(1, 5))
def test_what_a_block_is_scored_by_was_known_before_its_first_decision(market: Samples, blocks: int) -> None:
    for past, block in inner_blocks(market, blocks):
        first = decided(block).min()
        known = past.y >= 0
        assert known.any(axis=1).all(), "a decision without a known label teaches nothing"
        assert (decided(past) < first).all()
        assert (ends(past)[known] < first).all()
        assert (past.weight[~known] == 0).all()
        assert (past.hold[~known] == 0).all()


@settings(max_examples=100, deadline=None)
@given(market=markets(), blocks=st.integers(1, 5))
def test_blocks_are_all_but_the_oldest_decisions_each_once_and_untouched(market: Samples, blocks: int) -> None:
    pairs = inner_blocks(market, blocks)
    scored = np.concatenate([block.inputs.rows for _, block in pairs])
    where = {int(row): i for i, row in enumerate(market.inputs.rows)}

    oldest = len(np.array_split(market.inputs.rows, blocks + 1)[0])
    assert len(scored) == len(set(scored.tolist())) == len(market.inputs.rows) - oldest
    for past, block in pairs:
        at = [where[int(row)] for row in block.inputs.rows]
        assert np.array_equal(block.y, market.y[at])
        assert np.array_equal(block.weight, market.weight[at])
        kept = [where[int(row)] for row in past.inputs.rows]
        unchanged = past.y >= 0
        assert np.array_equal(past.y[unchanged], market.y[kept][unchanged])


@settings(max_examples=100, deadline=None)
@given(market=markets(), share=st.floats(0.1, 0.5))
def test_a_purge_drops_no_label_that_ended_in_time(market: Samples, share: float) -> None:
    order = np.argsort(decided(market), kind="stable")
    cut = max(1, round((1 - share) * len(order)))
    past, later = purged_pair(market, order[:cut], order[cut:]) if cut < len(order) else (None, None)
    if past is None or later is None:
        return
    older, first = subset(market, np.sort(order[:cut])), decided(later).min()

    in_time = (older.y >= 0) & (ends(older) < first)

    assert (past.y >= 0).sum() == in_time.sum()


class Recorded:
    """A member that remembers when its labels ended, and what it was asked since."""

    def __init__(self, train: Samples, valid: Samples) -> None:
        known = train.y >= 0
        self.newest = ends(train)[known].max()
        self.latest_stop = decided(valid).max() if len(valid.inputs.rows) else None
        self.asked: list[NDArray[np.datetime64]] = []

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        self.asked.append(inputs.times[inputs.rows])
        return np.full((len(inputs.rows), len(inputs.horizons), 3), 1 / 3)

    def checked(self, probs: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
        assert len(probs) == rows
        return probs


def view_samples() -> tuple[Samples, Samples]:
    """Training and validation samples of two symbols, the second with a gap."""
    data = bar_dataset(SETS)
    model = VotingClassifier(members=("logistic", "lightgbm"))
    return model.split(data.training(last_fold(data)), seed=1)


@pytest.mark.parametrize("ensemble", [StackingClassifier, BlendingClassifier])
def test_members_are_asked_during_learning_only_about_decisions_after_their_labels(
    ensemble: type[EnsembleClassifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recorded] = []

    def record(self: EnsembleClassifier, train: Samples, valid: Samples, seed: int) -> dict[str, Classifier]:
        its = {name: Recorded(train, valid) for name in self.params.members}
        made.extend(its.values())
        return cast("dict[str, Classifier]", its)

    monkeypatch.setattr(EnsembleClassifier, "_fit_members", record)
    train, valid = view_samples()
    ensemble(**MEMBERS).fit_samples(train, valid, seed=3)

    asked = [(member, times) for member in made for times in member.asked]
    assert asked
    assert all(times.min() > member.newest for member, times in asked)
    stacked = ensemble is StackingClassifier
    assert len({id(member) for member, _ in asked}) == (3 if stacked else 1) * len(MEMBERS["members"])
    if stacked:
        assert all(member.latest_stop is None for member, _ in asked), "an inner member stops early on nothing later"


# -- what they learn -------------------------------------------------------------------------------------------------


class Reader:
    """A member whose log-odds are a column of the inputs: `-x, 0, x`."""

    def __init__(self, column: int) -> None:
        self.column = column

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        x = inputs.table()[:, self.column].astype(np.float64)
        its = softmax(np.stack([-x, np.zeros(len(x)), x], axis=1))
        return np.repeat(its[:, None], len(inputs.horizons), axis=1)

    def checked(self, probs: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
        return probs


@functools.cache
def readable(n: int = 3000, horizons: int = 2) -> Samples:
    """Labels drawn from what column 0 says; columns 1 and 2 are as sure of themselves, and wrong."""
    rng = np.random.default_rng(4)
    base = rng.normal(size=(n, 3)).astype(np.float32)
    truth = Reader(0)
    y = np.empty((n, horizons), dtype=np.int8)
    inputs = Inputs(
        base=base,
        rows=np.arange(n),
        names=("good", "bad", "worse"),
        horizons=tuple(range(1, horizons + 1)),
        raw=np.empty((0, 5)),
        segment=np.zeros(n, dtype=np.int64),
        times=np.datetime64("2024-01-01", "us") + np.arange(n) * HOUR,
        symbol=np.zeros(n, dtype=np.int64),
    )
    probs = truth.probabilities(inputs)
    for h in range(horizons):
        y[:, h] = (rng.random(n)[:, None] > probs[:, h].cumsum(axis=1)[:, :2]).sum(axis=1)
    return Samples(inputs, y, np.ones((n, horizons), dtype=np.float32), np.ones((n, horizons), dtype=np.int32))


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Three members that read a column each; the first one is right."""
    names = ("logistic", "lightgbm", "random_forest")

    def made(self: EnsembleClassifier, train: Samples, valid: Samples, seed: int) -> Mapping[str, Any]:
        return {name: Reader(column) for column, name in enumerate(self.params.members)}

    monkeypatch.setattr(EnsembleClassifier, "_fit_members", made)
    return names


def parts(its: Samples, share: float = 0.7) -> tuple[Samples, Samples]:
    cut = int(share * len(its.y))
    return subset(its, np.arange(cut)), subset(its, np.arange(cut, len(its.y)))


def loss(probs: NDArray[np.float64], its: Samples) -> float:
    return float(np.mean([log_loss(probs[:, h], its.y[:, h]) for h in range(its.y.shape[1])]))


def test_stacking_finds_the_member_that_knows(readers: tuple[str, ...]) -> None:
    train, test = parts(readable())
    nothing = subset(test, np.arange(0))
    stack = StackingClassifier(members=readers).fit_samples(train, nothing, seed=1)
    vote = VotingClassifier(members=readers).fit_samples(train, nothing, seed=1)

    best, stacked, voted = (
        loss(probs, test)
        for probs in (
            Reader(0).probabilities(test.inputs),
            stack.probabilities(test.inputs),
            vote.probabilities(test.inputs),
        )
    )

    assert stacked < best * 1.03
    assert voted > best * 1.05


def test_blending_gives_the_member_that_knows_almost_all_the_weight(readers: tuple[str, ...]) -> None:
    train, test = parts(readable())
    blend = BlendingClassifier(members=readers, share=0.3)

    blend.fit_samples(train, subset(test, np.arange(0)), seed=1)

    assert blend.weights.shape == (2, 3)
    assert blend.weights.sum(axis=1) == pytest.approx(1.0)
    assert (blend.weights >= 0).all()
    assert blend.weights[:, 0].min() > 0.9
    assert loss(blend.probabilities(test.inputs), test) < loss(Reader(0).probabilities(test.inputs), test) * 1.02


@pytest.mark.parametrize("ensemble", [StackingClassifier, BlendingClassifier])
def test_too_few_known_labels_leave_the_members_equal(
    ensemble: type[EnsembleClassifier], readers: tuple[str, ...]
) -> None:
    short, test = parts(readable(), share=0.06)
    assert len(short.y) < MIN_LEARNED
    nothing = subset(test, np.arange(0))

    model = ensemble(members=readers).fit_samples(short, nothing, seed=1)
    vote = VotingClassifier(members=readers).fit_samples(short, nothing, seed=1)

    assert model.probabilities(test.inputs) == pytest.approx(vote.probabilities(test.inputs))


def test_weights_of_decisions_matter_to_the_stack_and_to_the_blend(readers: tuple[str, ...]) -> None:
    """Half of the decisions are labelled by the second member; without weight they have no say."""
    train, test = parts(readable())
    rng = np.random.default_rng(8)
    lying = rng.random(len(train.y)) < 0.5
    other = Reader(1).probabilities(train.inputs)[:, 0].argmax(axis=1)
    y = np.where(lying[:, None], other[:, None], train.y).astype(np.int8)
    weight = np.where(lying[:, None], 0.0, train.weight).astype(np.float32)
    nothing = subset(test, np.arange(0))

    blend = BlendingClassifier(members=readers, share=0.3)
    heard = BlendingClassifier(members=readers, share=0.3)
    blend.fit_samples(replace(train, y=y, weight=weight), nothing, seed=1)
    heard.fit_samples(replace(train, y=y), nothing, seed=1)
    assert blend.weights[:, 0].min() > 0.9
    assert heard.weights[:, 0].max() < 0.8

    quiet, loud = (
        StackingClassifier(members=readers).fit_samples(its, nothing, seed=1).probabilities(test.inputs)
        for its in (replace(train, y=y, weight=weight), replace(train, y=y))
    )
    assert loss(quiet, test) < loss(loud, test) - 0.02


def test_blending_without_enough_older_decisions_fits_on_everything_and_weighs_equally() -> None:
    """All labels are so long that none ends before the newest decisions begin."""
    rng = np.random.default_rng(2)
    n = 300
    hold = np.full((n, 1), 5, dtype=np.int32)
    its = samples([np.arange(n + 401)], [np.arange(n)], hold, rng.integers(0, 3, (n, 1)).astype(np.int8), (400,))
    past, _ = purged_pair(its, np.arange(270), np.arange(270, n))
    assert len(past.y) == 0

    blend = BlendingClassifier(**MEMBERS).fit_samples(its, subset(its, np.arange(0)), seed=1)

    assert blend.weights.tolist() == [[0.5, 0.5]]
    assert np.isfinite(blend.probabilities(its.inputs)).all()


# -- with members of the catalog ---------------------------------------------------------------------------------------


@functools.cache
def fitted(ensemble: type[EnsembleClassifier]) -> EnsembleClassifier:
    data = bar_dataset(SETS)
    return ensemble(**MEMBERS).fit(data.training(last_fold(data)), seed=3)


def decisions() -> Any:
    data = bar_dataset(SETS)
    return next(data.tests(last_fold(data)))


def inputs_of(model: EnsembleClassifier) -> Inputs:
    view = decisions()
    base = model.pipeline.transform(view.base[:, view.columns_of("ensemble_base")])
    return model.inputs(view, base, view.rows)


def test_voting_is_the_equal_log_pool_of_its_members() -> None:
    model = fitted(VotingClassifier)
    inputs = inputs_of(model)

    asked = np.stack([member.probabilities(inputs) for member in model.members.values()])
    pooled = np.stack([log_pool(asked[:, :, h], np.full(2, 0.5)) for h in range(2)], axis=1)

    assert model.probabilities(inputs) == pytest.approx(pooled)
    assert not np.allclose(asked[0], asked[1])


def test_a_member_inside_an_ensemble_is_the_one_outside_it() -> None:
    model = fitted(VotingClassifier)
    data = bar_dataset(SETS)
    train, valid = VotingClassifier(**MEMBERS).split(data.training(last_fold(data)), seed=3)

    alone = CLASSIFIERS["logistic"].load()(**CLASSIFIERS["logistic"].presets["ci"])
    alone.fit_samples(train, valid, seed=model.members["logistic"].seed)

    inputs = inputs_of(model)
    assert np.array_equal(alone.probabilities(inputs), model.members["logistic"].probabilities(inputs))


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_saved_ensemble_loads_with_its_members_and_what_it_learnt(
    ensemble: type[EnsembleClassifier], tmp_path: Path
) -> None:
    model = fitted(ensemble)
    model.save(tmp_path)

    loaded = ensemble.load(tmp_path)

    assert list(loaded.members) == list(MEMBERS["members"])
    assert loaded.predict(decisions()).frame.equals(model.predict(decisions()).frame)
    assert loaded.importance() == model.importance()
    for name in ("weights", "stacks"):
        assert np.array_equal(getattr(loaded, name, 0), getattr(model, name, 0))


def test_a_bundle_with_other_members_than_its_parameters_say_is_refused(tmp_path: Path) -> None:
    fitted(VotingClassifier).save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    facts["state"]["members"].reverse()
    (tmp_path / "model.json").write_text(json.dumps(facts))

    with pytest.raises(RegistryError, match="holds the members lightgbm, logistic"):
        VotingClassifier.load(tmp_path)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_window_is_the_longest_of_the_members_and_no_bar_before_it_is_read(
    ensemble: type[EnsembleClassifier],
) -> None:
    model = ensemble(members=("logistic", "gru"), member_params={"gru": GRU})
    assert model.window == 16
    data = bar_dataset(SETS, bars=(400, 420))
    view = data.training(last_fold(data))
    model.fit(view, seed=3)

    test = next(data.tests(last_fold(data)))
    plain = model.predict(test).frame.select(CLASS_PROBS).to_numpy()
    first = int(test.rows[0])
    base = test.base.copy()
    base[: first - 15] = 7.0
    changed = model.predict(replace(test, base=base)).frame.select(CLASS_PROBS).to_numpy()

    assert np.isfinite(plain).all()
    assert np.array_equal(changed[:2], plain[:2]), "the first decision reads its 16 bars alone"
    base[first - 15] = -7.0
    assert not np.array_equal(
        model.predict(replace(test, base=base)).frame.select(CLASS_PROBS).to_numpy()[:2], plain[:2]
    )


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"members": ("voting", "logistic")}, "cannot take 'voting', of the family 'ensemble'"),
        ({"members": ("climatology", "logistic")}, "cannot take 'climatology', of the family 'baseline'"),
        ({"members": ("logistic", "logistic")}, "different members, not logistic, logistic"),
        ({"members": ("logistic",)}, "members"),
        ({"members": ("logistic", "oracle")}, "unknown model 'oracle'"),
        ({"member_params": {"logistic": {"wibble": 1}}}, "wibble"),
        ({"member_params": {"logistik": {"strength": 1}}}, "logistik"),
    ],
)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_wrong_members_are_refused_by_name(
    ensemble: type[EnsembleClassifier], params: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        ensemble(**params)

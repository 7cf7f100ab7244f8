"""The label game has the posterior it says, the scores that follow from it, and views any classifier can be fed."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from nightcast.contracts.bars import BarDataset
from nightcast.contracts.errors import ConfigError
from nightcast.sources.market import LabelGame, label_game
from nightcast.sources.market.label_game import SETS, game_posterior
from nightcast.sources.market.oracle import best_weights, decide, direction_auc, macro_f1, random_f1


@pytest.fixture(scope="module")
def game() -> LabelGame:
    return label_game(0.7, 6_000, seed=3, n_test=6_000)


@pytest.mark.parametrize(
    ("a", "argmax", "weighted"), [(0.0, 0.200, 0.200), (0.35, 0.348, 0.401), (0.7, 0.477, 0.477), (1.2, 0.552, 0.559)]
)
def test_the_oracle_scores_what_is_known_of_the_game(a: float, argmax: float, weighted: float) -> None:
    """Reference values from 20 000 draws; one standard error of such a macro-F1 is about 0.004."""
    game = label_game(a, 1_000, seed=1, n_test=20_000)

    assert game.oracle_f1 == pytest.approx(argmax, abs=0.011)
    assert game.oracle_weighted_f1 == pytest.approx(weighted, abs=0.015)
    # a guess by the prior is right about a class as often as the class occurs: F1 = share, whose mean is 1 / 3
    assert game.random_f1 == pytest.approx(1 / 3, abs=0.008)


def test_the_posterior_is_the_softmax_of_the_driver(game: LabelGame) -> None:
    x = game.driver[:5]
    logits = np.stack([-0.7 * x, np.full(5, 0.4), 0.7 * x], axis=1)

    np.testing.assert_allclose(game.posterior[:5], np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    assert np.isfinite(game_posterior(99.0, np.array([50.0]))).all()


def test_labels_are_drawn_from_the_posterior(game: LabelGame) -> None:
    for k in range(3):
        p = game.posterior[:, k]
        for part in np.array_split(np.argsort(p), 5):
            spread = np.sqrt((p[part] * (1 - p[part])).sum()) / len(part)
            assert abs((game.y[part] == k).mean() - p[part].mean()) < 4 * spread


def test_the_driver_is_student_of_variance_one() -> None:
    from scipy.stats import kstest, t

    x = label_game(0.7, 100, seed=5, n_test=20_000).driver

    assert kstest(x * np.sqrt(5 / 3), t(5).cdf).pvalue > 0.01
    assert x.var() == pytest.approx(1.0, abs=0.08)


def test_a_linear_model_of_one_row_learns_level_one() -> None:
    from sklearn.linear_model import LogisticRegression

    game = label_game(0.7, 12_000, seed=7)
    train = game.train
    assert train.labels is not None
    model = LogisticRegression().fit(train.base[train.rows], train.labels.y[:, 0])

    assert game.reached(model.predict_proba(game.test.base[game.test.rows])) > 0.9


def test_level_two_needs_a_product_and_level_three_a_long_memory() -> None:
    from sklearn.linear_model import LogisticRegression

    two, three = label_game(1.2, 6_000, level=2, seed=7), label_game(1.2, 6_000, level=3, seed=7)

    def learnt(game: LabelGame, add: np.ndarray) -> float:
        assert game.train.labels is not None
        model = LogisticRegression().fit(add[game.train.rows], game.train.labels.y[:, 0])
        return game.reached(model.predict_proba(add[game.test.rows]))

    lags = two.test.base
    assert learnt(two, lags) < 0.2
    assert learnt(two, (lags[:, 3] * lags[:, 7])[:, None]) > 0.9
    now = three.test.base
    assert learnt(three, now) < 0.2
    assert learnt(three, np.roll(now[:, 0], 40)[:, None]) > 0.9


def test_the_driver_can_be_found_in_the_columns() -> None:
    one, two, three = (label_game(0.7, 200, level=level, seed=2) for level in (1, 2, 3))  # type: ignore[arg-type]

    row = one.test.rows
    assert np.std(one.test.base[row, 0] - one.driver) == pytest.approx(0.15, abs=0.01)
    assert np.std(one.test.base[row, 5] - one.test.base[row - 5, 0]) == pytest.approx(0.15 * np.sqrt(2), abs=0.015)
    np.testing.assert_allclose(two.test.base[row, 3] * two.test.base[row, 7], two.driver, rtol=1e-5)
    np.testing.assert_allclose(three.test.base[row - 40, 0], three.driver, rtol=1e-6)
    np.testing.assert_allclose(three.test.base[row - 33, 7], three.driver, rtol=1e-6)


def test_training_and_test_views_are_those_of_the_dataset(game: LabelGame) -> None:
    data = game.dataset()
    train = data.training(game.fold)
    [test] = data.tests(game.fold)

    assert isinstance(data, BarDataset)
    np.testing.assert_array_equal(train.rows, game.train.rows)
    np.testing.assert_array_equal(test.rows, game.test.rows)
    assert test.labels is None
    assert game.train.labels is not None
    assert len(game.train.rows) == len(game.test.rows) == 6_000
    # nothing that ends inside the test span is trained on
    assert game.train.rows[-1] + game.train.labels.hold[-1, 0] == game.test.rows[0]
    assert game.train.times[-1] == game.test.times[game.test.rows[0]]


def test_the_truth_of_the_dataset_is_the_test_views_labels(game: LabelGame) -> None:
    truth = game.dataset().truth()
    first = game.fold.cutoffs[0]

    known = truth.filter(truth["ds"] >= first)
    assert known["y"].to_list() == game.y.tolist()
    assert (known["label_end"] - known["ds"]).unique().to_list() == [timedelta(minutes=5)]


def test_every_feature_set_names_the_games_columns(game: LabelGame) -> None:
    assert {"boosting_optimal", "neural_optimal", "plain10", "volatility_time", "label_game"} <= set(SETS)
    for name in SETS:
        assert game.train.columns_of(name) == list(range(8))


def test_bars_are_one_segment_of_five_minutes(game: LabelGame) -> None:
    view = game.test

    assert set(np.diff(view.times)) == {np.timedelta64(5, "m")}
    assert set(view.segment) == set(view.session) == set(view.symbol) == {0}
    assert view.symbols == ("GAME",)
    assert (view.bars[1:, 0] == view.bars[:-1, 3]).all()


def test_several_horizons_share_their_labels() -> None:
    game = label_game(0.7, 300, seed=3, n_test=100, horizons=(1, 5, 20))

    assert game.test.horizons == (1, 5, 20)
    assert game.test.labels is not None
    assert (game.test.labels.y == game.y[:, None]).all()
    assert label_game(0.7, 300, seed=3, n_test=100).posterior == pytest.approx(game.posterior)


def test_the_same_seed_deals_the_same_game_and_another_one_another() -> None:
    one, same, other = (label_game(0.7, 200, seed=seed, n_test=100) for seed in (3, 3, 4))

    assert one.dataset().hash == same.dataset().hash != other.dataset().hash


def test_reached_is_nothing_for_a_guess_and_all_for_the_oracle(game: LabelGame) -> None:
    assert game.reached(game.posterior) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    guesses = np.eye(3)[rng.choice(3, len(game.y), p=np.bincount(game.y) / len(game.y))]
    assert game.reached(guesses) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": -1.0}, "a is -1.0"),
        ({"n": 3}, "n is 3"),
        ({"n_test": 0}, "n_test is 0"),
        ({"window": 0}, "window is 0"),
        ({"features": 0}, "features is 0"),
        ({"level": 4}, "level is 4"),
        ({"horizons": ()}, r"horizons are \[\]"),
        ({"horizons": (5, 1)}, r"horizons are \[5, 1\]"),
    ],
)
def test_an_argument_out_of_range_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        label_game(**{"a": 0.7, "n": 100, "seed": 1, **changes})  # type: ignore[arg-type]


# -- the scores it is judged by ----------------------------------------------------------------------------------------


def test_macro_f1_of_a_tiny_example() -> None:
    # short: P 1/2, R 1; neutral: P 1, R 1/2; long: P 1, R 1
    assert macro_f1(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2])) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert macro_f1(np.array([0, 0]), np.array([0, 0])) == pytest.approx(1 / 3)


def test_neutral_wins_ties_and_two_sides_that_tie_are_no_view() -> None:
    posterior = np.array([[0.4, 0.4, 0.2], [0.4, 0.2, 0.4], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3]])

    assert decide(posterior).tolist() == [1, 1, 2, 0]


def test_direction_auc_counts_pairs_of_long_and_short() -> None:
    posterior = np.array([[0.1, 0.2, 0.7], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6], [0.9, 0.0, 0.1]])

    assert direction_auc(np.array([2, 0, 0, 1]), posterior) == pytest.approx(1.0)
    assert direction_auc(np.array([0, 2, 2, 1]), posterior) == pytest.approx(0.0)
    assert direction_auc(np.array([2, 1, 2, 1]), posterior) == 0.5


def test_a_random_guess_is_scored_as_drawn_guesses_are() -> None:
    rng = np.random.default_rng(1)
    y, prior = rng.choice(3, 500, p=[0.2, 0.7, 0.1]), np.array([0.25, 0.5, 0.25])

    drawn = [macro_f1(y, rng.choice(3, 500, p=prior)) for _ in range(2_000)]

    assert random_f1(y, prior, seed=2, draws=2_000) == pytest.approx(np.mean(drawn), abs=0.002)


def test_weights_never_lower_the_expected_score() -> None:
    rng = np.random.default_rng(2)
    for _ in range(5):
        posterior = rng.dirichlet([2, 6, 3], 3_000)
        y = (rng.random(3_000)[:, None] > posterior.cumsum(axis=1)[:, :2]).sum(axis=1)
        weighted = macro_f1(y, decide(posterior, best_weights(posterior)))
        assert weighted > macro_f1(y, decide(posterior)) - 0.01

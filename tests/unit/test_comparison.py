import json
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import LEVELS, QUANTILES
from nightcast.contracts.decision import Decision
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.recipe import GatePlan
from nightcast.contracts.workload import Comparison
from nightcast.evaluation.comparison import compare, decide, paired_effect

MONTHS = Frequency.parse("MS")
PLAN = GatePlan(draws=400)
GATE: Comparison = compare


def frame(
    loss: float | np.ndarray = 1.0,
    *,
    origins: int = 24,
    series: int = 10,
    first: int = 0,
    shift: float = 0.0,
    spread: float = 20.0,
    segment: str = "steady",
) -> pl.DataFrame:
    """Rows one step ahead; actuals 100 plus a fixed pattern in +-10, quantiles `spread` wide around 100 + shift."""
    keys = [
        (f"s{s}", MONTHS.shift(datetime(2018, 1, 1), first + o + 1), MONTHS.shift(datetime(2018, 1, 1), first + o))
        for o in range(origins)
        for s in range(series)
    ]
    base = pl.DataFrame(
        keys, schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "cutoff": pl.Datetime("us")}, orient="row"
    )
    losses = np.broadcast_to(loss, (origins, series)).ravel()
    return base.with_columns(
        *(
            pl.lit(100 + shift + spread * (level - 0.5)).alias(name)
            for level, name in zip(LEVELS, QUANTILES, strict=True)
        ),
        y=pl.Series([100.0 + 20 * ((i * 7 % 11) / 10 - 0.5) for i in range(len(keys))]),
        loss=pl.Series(losses.astype(float)),
        segment=pl.lit(segment),
    )


def decided(challenger, champion, naive=None, *, same_recipe=False, plan=PLAN) -> Decision:
    return compare(challenger, champion, frame(2.0) if naive is None else naive, plan, same_recipe=same_recipe, seed=1)


def noisy(seed: int, effect: float, *, origins: int = 24, series: int = 10) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Challenger and champion whose losses differ by `effect`, an origin-wide shock and noise of their own."""
    rng = np.random.default_rng(seed)
    base = np.exp(rng.normal(0, 0.4, (origins, series)))
    shock = 0.05 * rng.normal(size=(origins, 1))
    own = base * (1 + effect + shock + 0.2 * rng.normal(size=(origins, series)))
    return frame(own, origins=origins, series=series), frame(base, origins=origins, series=series)


def guard(decision: Decision, name: str):
    return next(item for item in decision.guards if item.name == name)


def test_the_first_challenger_is_promoted_when_it_passes_the_guards_against_the_naive():
    decision = decided(frame(1.0), None)

    assert (decision.kind, decision.promote) == ("first", True)
    assert [item.name for item in decision.guards] == [
        "loss_vs_naive",
        "shared_rows",
        "bias",
        "coverage80",
        "worst_segment",
    ]
    assert all(item.passed for item in decision.guards)
    assert (decision.rows, decision.cutoffs, decision.effect) == (240, 24, None)


def test_a_first_challenger_worse_than_the_naive_is_not_registered():
    decision = decided(frame(1.1), None, frame(1.0))

    assert (decision.kind, decision.promote) == ("none", False)
    assert guard(decision, "loss_vs_naive").value == pytest.approx(1.1)
    assert "loss_vs_naive is 1.1" in decision.reason


def test_a_challenger_as_good_as_the_naive_passes():
    assert decided(frame(1.0), None, frame(1.0)).kind == "first"


def test_the_yardstick_is_the_best_of_several_naives():
    naives = pl.concat(
        [frame(5.0).with_columns(model=pl.lit("seasonal")), frame(0.5).with_columns(model=pl.lit("last"))]
    )

    decision = decided(frame(1.0), None, naives)

    assert decision.kind == "none"
    assert guard(decision, "loss_vs_naive").value == pytest.approx(2.0)
    assert "last" in guard(decision, "loss_vs_naive").limit


def test_a_clearly_better_recipe_replaces_the_champion():
    challenger, champion = noisy(5, -0.15)

    decision = decided(challenger, champion)

    assert (decision.kind, decision.promote) == ("replace", True)
    assert decision.low < decision.effect < decision.high < 0
    assert (decision.rows, decision.cutoffs) == (240, 24)
    assert "lower than the champion's on 240 rows of 24 origins (90% interval" in decision.reason


def test_a_better_recipe_does_not_replace_when_chance_could_explain_it():
    # 11 % better in the first year, 7 % worse in the second: 2 % better on average, of two episodes.
    unsteady = np.where(np.arange(24) < 12, 0.89, 1.07)[:, None]

    decision = decided(frame(unsteady), frame(1.0))

    assert (decision.kind, decision.promote) == ("keep", False)
    assert decision.effect == pytest.approx(-0.02)
    assert decision.low < 0 < decision.high
    assert "may be chance" in decision.reason


def test_an_improvement_too_small_to_matter_does_not_replace():
    decision = decided(frame(0.999), frame(1.0), plan=GatePlan(min_effect=0.002, draws=200))

    assert decision.high < 0
    assert (decision.kind, decision.promote) == ("keep", False)
    assert "worth a change" in decision.reason


def test_identical_frames_never_replace_and_are_a_refit_of_the_same_recipe():
    other = decided(frame(1.0), frame(1.0))
    same = decided(frame(1.0), frame(1.0), same_recipe=True)

    assert (other.kind, other.promote, other.effect, other.low, other.high) == ("keep", False, 0.0, 0.0, 0.0)
    assert (same.kind, same.promote) == ("refit", True)
    assert "equal to the champion's" in same.reason


def test_a_worse_recipe_is_kept_out_and_an_equally_worse_refit_too():
    challenger, champion = noisy(4, 0.2)

    assert decided(challenger, champion).kind == "keep"
    refit = decided(challenger, champion, same_recipe=True)
    assert (refit.kind, refit.promote) == ("keep", False)
    assert not guard(refit, "loss_vs_champion").passed


def test_a_refit_slightly_worse_by_chance_still_takes_over():
    challenger, champion = noisy(3, 0.005)

    decision = decided(challenger, champion, same_recipe=True)

    assert (decision.kind, decision.promote) == ("refit", True)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"shift": 20.0}, "bias"),
        ({"shift": -20.0}, "bias"),
        ({"spread": 1.0}, "coverage80"),
        ({"spread": 90.0}, "coverage80"),
    ],
)
@pytest.mark.parametrize("same_recipe", [True, False])
def test_a_guard_that_fails_keeps_the_champion_however_low_the_loss(change, name, same_recipe):
    decision = decided(frame(0.5, **change), frame(1.0), same_recipe=same_recipe)

    assert (decision.kind, decision.promote) == ("keep", False)
    assert not guard(decision, name).passed
    assert f"{name} is" in decision.reason


def test_the_bias_guard_shows_a_forecast_that_is_too_high_as_positive():
    assert guard(decided(frame(0.5, shift=20.0), frame(1.0)), "bias").value == pytest.approx(0.2, abs=0.01)


def test_a_fault_that_the_champion_shares_does_not_block_a_refit():
    decision = decided(frame(1.0, shift=29.0), frame(1.0, shift=30.0), same_recipe=True)

    assert decision.kind == "refit"
    assert "or that of the champion" in guard(decision, "bias").limit
    assert decided(frame(1.0, shift=31.0), frame(1.0, shift=30.0), same_recipe=True).kind == "keep"


def test_one_segment_gone_bad_keeps_the_champion():
    mixed = pl.when(pl.col("unique_id") < "s3").then(pl.lit("ramp_up")).otherwise(pl.lit("steady"))
    champion = frame(1.0).with_columns(segment=mixed)
    challenger = champion.with_columns(loss=pl.when(segment="ramp_up").then(1.5).otherwise(0.5))

    decision = decided(challenger, champion)

    worst = guard(decision, "worst_segment")
    assert not worst.passed
    assert worst.value == pytest.approx(1.6 / 1.1)
    assert "worst: ramp_up" in worst.limit
    assert decision.kind == "keep"


def test_a_segment_of_a_few_rows_has_no_say():
    few = pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("new")).otherwise(pl.lit("steady"))
    champion = frame(1.0).with_columns(segment=few)
    challenger = champion.with_columns(loss=pl.when(segment="new").then(5.0).otherwise(0.5))

    assert decided(challenger, champion).kind == "replace"


@pytest.mark.parametrize(("wells", "kind"), [(2, "replace"), (4, "keep")])
def test_a_segment_of_less_than_a_twentieth_of_the_rows_has_no_say(wells: int, kind: str):
    """Of 60 wells two are 3 % of the rows, four are 7 %."""
    few = pl.when(pl.col("unique_id").is_in([f"s{i}" for i in range(wells)])).then(pl.lit("new"))
    champion = frame(1.0, series=60).with_columns(segment=few.otherwise(pl.lit("steady")))
    challenger = champion.with_columns(loss=pl.when(segment="new").then(2.0).otherwise(0.5))

    assert decided(challenger, champion, frame(2.0, series=60)).kind == kind


def test_a_segment_the_champion_forecasts_without_error_does_not_veto():
    shut = pl.when(pl.col("unique_id") < "s3").then(pl.lit("shut_in")).otherwise(pl.lit("steady"))
    champion = (
        frame(1.0).with_columns(segment=shut).with_columns(loss=pl.when(segment="shut_in").then(0.0).otherwise(1.0))
    )
    challenger = champion.with_columns(loss=pl.when(segment="shut_in").then(0.01).otherwise(0.7))

    assert decided(challenger, champion).kind == "replace"


def test_a_challenger_that_skips_most_series_does_not_replace():
    easy = frame(0.5).filter(pl.col("unique_id") < "s3")

    decision = decided(easy, frame(1.0))

    assert decision.kind == "keep"
    assert guard(decision, "shared_rows").value == pytest.approx(0.3)


def test_too_few_common_origins_keep_the_champion_and_say_so():
    decision = decided(frame(0.1, first=21), frame(1.0), frame(2.0, first=21))

    assert (decision.kind, decision.promote, decision.effect) == ("keep", False, None)
    assert "share 3 origins, fewer than 4" in decision.reason


def test_a_refit_with_too_few_common_origins_is_judged_against_the_naive():
    good = decided(frame(1.0, first=21), frame(1.0), frame(2.0, first=21), same_recipe=True)
    bad = decided(frame(3.0, first=21), frame(1.0), frame(2.0, first=21), same_recipe=True)

    assert (good.kind, good.promote) == ("refit", True)
    assert (bad.kind, bad.promote) == ("keep", False)
    assert not guard(bad, "loss_vs_naive").passed


def test_only_rows_that_both_have_are_compared():
    challenger = frame(0.8, first=4)
    champion = frame(1.0).with_columns(
        loss=pl.when(pl.col("cutoff") < datetime(2018, 5, 1)).then(99.0).otherwise("loss")
    )

    decision = decided(challenger, champion)

    assert decision.effect == pytest.approx(-0.2)
    assert (decision.rows, decision.cutoffs) == (200, 20)


def test_a_naive_without_shared_rows_is_a_guard_that_fails_not_a_crash():
    decision = decided(frame(1.0), None, frame(1.0, first=500))

    assert decision.kind == "none"
    assert "naive_rows" in decision.reason


def test_decisions_are_json_even_where_the_reference_is_perfect():
    zero = frame(0.0)
    for decision in (
        decided(frame(1.0), zero, zero),
        decided(zero, zero, zero),
        decided(frame(1.0).with_columns(y=pl.lit(0.0)), None, zero.with_columns(y=pl.lit(0.0))),
    ):
        text = json.dumps(decision.to_json(), allow_nan=False)
        assert Decision.from_json(json.loads(text)).to_json() == json.loads(text) | {
            "guards": decision.to_json()["guards"]
        }


def test_the_same_seed_gives_the_same_decision_and_the_order_of_rows_does_not_matter():
    challenger, champion = noisy(6, -0.03)
    shuffled = challenger.sample(fraction=1, shuffle=True, seed=3)

    assert decided(challenger, champion) == decided(shuffled, champion)
    assert paired_effect(challenger, champion, PLAN, seed=1) != paired_effect(challenger, champion, PLAN, seed=2)


def test_faulty_frames_are_refused_with_the_value():
    good = frame(1.0)
    with pytest.raises(ConfigError, match=r"champion's rows hold series 's0'.* twice"):
        decided(good, pl.concat([good, good.head(1)]))
    with pytest.raises(ConfigError, match=r"challenger's rows lack the columns \['loss'\]"):
        decided(good.drop("loss"), good)
    with pytest.raises(ConfigError, match="240 losses that are not finite"):
        decided(good.with_columns(loss=pl.lit(float("nan"))), good)
    with pytest.raises(ConfigError, match="share no row"):
        paired_effect(good, frame(1.0, first=500), PLAN, seed=1)


def test_other_predictions_bring_guards_of_their_own():
    bare = ["unique_id", "ds", "cutoff", "loss"]

    decision = decide(
        frame(0.5).select(bare),
        frame(1.0).select(bare),
        frame(2.0).select(bare),
        PLAN,
        same_recipe=False,
        seed=1,
        guards=lambda own, other, name, plan: [],
    )

    assert decision.kind == "replace"


def test_two_equal_models_hardly_ever_replace_one_another_over_200_nights():
    promoted = sum(decided(*noisy(1000 + night, 0.0)).promote for night in range(200))

    # Nominal: 5 % a night (upper tail of a two-sided 90 % interval); 200 nights give 10 +- 3.1.
    assert promoted <= 17


def test_a_five_percent_better_model_is_mostly_promoted_given_many_origins():
    promoted = sum(decided(*noisy(2000 + night, -0.05, origins=48)).promote for night in range(60))
    lesser = sum(decided(*noisy(3000 + night, -0.03, origins=96)).promote for night in range(60))

    assert promoted >= 54
    assert lesser >= 48


def test_overlapping_windows_need_blocks_as_long_as_their_overlap():
    def false_promotions(block: int) -> int:
        count = 0
        for night in range(200):
            rng = np.random.default_rng(night)
            shock = np.convolve(rng.normal(size=53), np.ones(6) / np.sqrt(6), mode="valid")[:, None]
            own = 1 + 0.05 * shock + 0.02 * rng.normal(size=(48, 4))
            effect = paired_effect(
                frame(own, origins=48, series=4),
                frame(1.0, origins=48, series=4),
                GatePlan(block=block, draws=200),
                seed=night,
            )
            count += effect.high < 0
        return count

    single, blocked = false_promotions(1), false_promotions(8)

    assert single > 2 * blocked
    assert blocked <= 20

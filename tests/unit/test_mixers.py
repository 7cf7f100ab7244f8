"""The mixer networks: shapes, masks, quantile order, and what attention points at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.nn.mixers import AttentionTSMixerx, MultiScaleTSMixer, carry, spread_out
from models.nn.panel_windows import PanelArrays, PanelWindows, Standard
from models.training.devices import deterministic
from models.training.panel import PanelSettings, fit_panel, pinball, predict_panel
from nightcast.contracts.columns import LEVELS
from nightcast.contracts.errors import ConfigError, TrainingError


def inputs(model: Any, batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of a model's sizes, a fifth of the values unknown."""
    draw = torch.Generator().manual_seed(seed)
    length, ahead, series = model.input_size, model.horizon, model.n_series + model.n_rates
    known = (torch.rand(batch, length, series, generator=draw) > 0.2).float()
    statics = getattr(model, "n_static", 0) or getattr(getattr(model, "base_model", None), "n_static", 0)
    return {
        "y": torch.rand(batch, length, series, generator=draw) + 0.5,
        "known": known,
        "past": torch.randn(batch, length, model.n_past, generator=draw),
        "plan": torch.randn(batch, length + ahead, model.n_plan, generator=draw),
        "static": torch.randn(batch, statics, generator=draw),
    }


def built(attention: bool = False, seed: int = 0, **sizes: Any) -> Any:
    """A network in evaluation mode, small unless told otherwise."""
    given_sizes = {"input_size": 12, "horizon": 3, "hidden_dim": 8, "n_past": 2, "n_plan": 1, "n_static": 2, **sizes}
    with deterministic(seed):
        base = MultiScaleTSMixer(**given_sizes)
        if not attention:
            return base.eval()
        features = base.n_series + base.n_rates + base.n_past + base.n_plan
        return AttentionTSMixerx(base, features, attention_hidden_dim=8, attention_heads=2).eval()


def test_the_specifications_defaults_make_a_network_that_runs_alone() -> None:
    model = MultiScaleTSMixer(
        input_size=48, horizon=6, n_series=1, scales=[1, 2, 4], hidden_dim=64, n_blocks=2, dropout=0.1
    )

    assert model(torch.rand(7, 48)).shape == (7, 6, 9)
    default = MultiScaleTSMixer()
    assert (default.input_size, default.horizon, default.n_series, default.scales) == (48, 6, 1, (1, 2, 4))


def test_several_series_are_forecast_side_by_side() -> None:
    model = MultiScaleTSMixer(input_size=24, horizon=4, n_series=5, scales=(1, 3), hidden_dim=8)

    assert model(torch.rand(3, 24, 5)).shape == (3, 4, 5, 9)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 30),
    horizon=st.integers(1, 8),
    scales=st.sets(st.integers(1, 9), min_size=1, max_size=3),
    features=st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)),
    levels=st.sampled_from([LEVELS, (0.5,), (0.1, 0.9), (0.2, 0.25)]),
    attention=st.booleans(),
)
def test_any_window_horizon_scales_and_features_give_rising_finite_quantiles(
    length: int,
    horizon: int,
    scales: set[int],
    features: tuple[int, int, int, int],
    levels: tuple[float, ...],
    attention: bool,
) -> None:
    past, plan, static, rates = features
    model = built(
        attention,
        input_size=length,
        horizon=horizon,
        scales=[min(scale, length) for scale in scales if scale <= length] or [1],
        n_past=past,
        n_plan=plan,
        n_static=static,
        n_rates=rates,
        levels=levels,
    )

    out = model(**inputs(model))

    assert out.shape == (5, horizon, len(levels))
    assert out.isfinite().all()
    assert (out.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("sizes", [{}, {"scales": (1,)}, {"n_rates": 1}, {"n_series": 2}, {"anchored": False}])
def test_gradients_reach_every_parameter(attention: bool, sizes: dict[str, Any]) -> None:
    model = built(attention, **sizes).train()

    (model(**inputs(model)) ** 2).sum().backward()

    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("attention", [False, True])
def test_windows_do_not_know_their_neighbours_in_the_batch(attention: bool) -> None:
    model = built(attention, n_rates=1)
    x = inputs(model)
    order = torch.tensor([3, 0, 4, 1, 2])

    mixed = model(**{name: value[order] for name, value in x.items()})

    torch.testing.assert_close(mixed, model(**x)[order], rtol=0, atol=1e-5)
    alone = torch.cat([model(**{name: value[i : i + 1] for name, value in x.items()}) for i in range(5)])
    torch.testing.assert_close(alone, model(**x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_what_stands_at_unknown_steps_is_not_read(attention: bool) -> None:
    model = built(attention, n_rates=1)
    x = inputs(model)
    wild = {**x, "y": torch.where(x["known"] > 0, x["y"], torch.tensor(float("nan")))}

    assert torch.equal(model(**wild), model(**x))
    assert not torch.equal(model(**{**x, "y": x["y"] + 1}), model(**x))


@pytest.mark.parametrize("attention", [False, True])
def test_empty_constant_and_zero_windows_give_finite_numbers_and_gradients(attention: bool) -> None:
    model = built(attention, n_rates=1).train()
    x = inputs(model)
    x["known"][0] = 0
    x["known"][1, :-1] = 0
    x["y"][2], x["y"][3] = 1.0, 0.0
    x["past"][2] = 0.0

    out = model(**x)
    out.sum().backward()

    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("attention", [False, True])
def test_dropout_acts_in_training_alone(attention: bool) -> None:
    model = built(attention, dropout=0.5)
    x = inputs(model)

    assert torch.equal(model(**x), model(**x))
    model.train()
    assert not torch.equal(model(**x), model(**x))


def test_each_scale_is_a_mean_over_runs_that_end_at_the_origin() -> None:
    from models.nn.mixers import _pooled

    y = torch.arange(1.0, 8.0).view(1, 7, 1)

    pooled = _pooled(y, torch.ones_like(y), torch.empty(1, 7, 0), 3)

    # 7 steps in runs of 3: the oldest run holds the value 1 alone.
    assert pooled[0, :, 0].tolist() == [1.0, 3.0, 6.0]
    assert pooled[0, :, 1].tolist() == [1.0, 1.0, 1.0]


def test_unknown_steps_carry_the_latest_value_and_the_first_one_backward() -> None:
    y = torch.tensor([[9.0, 9.0, 2.0, 9.0, 4.0, 9.0], [9.0] * 6]).unsqueeze(2)
    known = torch.tensor([[0.0, 0.0, 1.0, 0.0, 1.0, 0.0], [0.0] * 6]).unsqueeze(2)

    assert carry(y, known).squeeze(2).tolist() == [[2.0, 2.0, 2.0, 2.0, 4.0, 4.0], [0.0] * 6]


def test_the_middle_quantile_is_free_and_the_others_are_distances_from_it() -> None:
    raw = torch.tensor([0.0, 1.0, -5.0, 2.0, 3.0])

    out = spread_out(raw, 2)

    step = nn.functional.softplus(raw)
    assert torch.allclose(
        out,
        torch.stack([-5 - step[1] - step[0], -5 - step[1], raw[2], -5 + step[3], -5 + step[3] + step[4]]),
    )


def test_before_training_the_median_is_near_an_exponential_mean_of_the_window() -> None:
    model = built(n_past=0, n_plan=0, n_static=0)
    y = torch.full((1, 12), 2.0)
    y[0, -1] = 3.0

    median = model(y)[0, :, 4]

    share = 1 / sum(2 ** (-lag / 2) for lag in range(12))
    assert torch.allclose(median, torch.full((3,), 2 + share), atol=0.3)


def test_a_planned_stop_takes_the_companions_anchor_with_it() -> None:
    model = built(n_rates=1, n_past=0, n_plan=0, n_static=0)
    with torch.no_grad():
        model.follow.bias.copy_(torch.tensor([-20.0, 20.0]))
    y = torch.full((1, 12, 2), 1.0)

    on = model(y, exposure=torch.tensor([[1.0, 1.0, 1.0]]))
    off = model(y, exposure=torch.tensor([[1.0, 0.0, 0.5]]))

    assert torch.allclose((on - off)[0, :, 4], torch.tensor([0.0, 1.0, 0.5]), atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (1, 13)}, "13"),
        ({"scales": (2, 2)}, "scales"),
        ({"horizon": 0}, "horizon=0"),
        ({"n_past": -1}, "n_past=-1"),
        ({"levels": (0.9, 0.1)}, "levels"),
        ({"n_rates": 1, "n_series": 2}, "companion"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(sizes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        built(**sizes)


@pytest.mark.parametrize("name", ["y", "past", "plan", "static"])
@pytest.mark.parametrize("attention", [False, True])
def test_an_input_of_another_shape_is_refused_by_name(name: str, attention: bool) -> None:
    model = built(attention)
    x = inputs(model)

    with pytest.raises(ConfigError, match=f"got {name} of shape"):
        model(**{**x, name: x[name][:, :-1]})


def test_attention_refuses_sizes_that_do_not_fit() -> None:
    base = MultiScaleTSMixer(12, 3, n_past=2, hidden_dim=8)

    with pytest.raises(ConfigError, match="38 features"):
        AttentionTSMixerx(base, n_features=38)
    with pytest.raises(ConfigError, match="10 units and 4 heads"):
        AttentionTSMixerx(base, n_features=3, attention_hidden_dim=10)
    with pytest.raises(ConfigError, match="feature names"):
        AttentionTSMixerx(base, n_features=3, feature_names=("a", "a", "b"))
    with pytest.raises(ConfigError, match="no attention weights yet"):
        _ = AttentionTSMixerx(base, n_features=3).latest_attention_weights


def test_attention_wraps_any_module_of_the_same_forward() -> None:
    class LastValue(nn.Module):
        input_size, horizon, n_series, n_rates, n_past, n_plan = 6, 2, 1, 0, 3, 0

        def forward(self, y: Tensor, known: Any, past: Tensor, *rest: Any) -> Tensor:
            last = y.reshape(len(y), 6)[:, -1]
            return last[:, None, None].expand(-1, 2, 9) + past.sum(dim=(1, 2))[:, None, None]

    model = AttentionTSMixerx(LastValue(), n_features=4)

    assert model(torch.rand(5, 6), past=torch.randn(5, 6, 3)).shape == (5, 2, 9)
    assert (model.value.shape, model.heads) == ((4, 32), 4), "the specification's defaults"


def test_attention_weights_are_named_detached_and_sum_to_one() -> None:
    model = built(attention=True, n_rates=1)
    x = inputs(model)
    x["known"][0, :7] = 0
    x["known"][1] = 0

    model(**x)
    weights = model.latest_attention_weights

    assert weights.features.shape == (5, 5)
    assert weights.steps.shape == (5, 12)
    assert torch.allclose(weights.features.sum(dim=1), torch.ones(5))
    assert torch.allclose(weights.steps.sum(dim=1), torch.ones(5))
    assert not weights.features.requires_grad
    assert not weights.steps.requires_grad
    assert weights.lags == tuple(range(11, -1, -1))
    assert math.isclose(sum(weights.by_feature.values()), 1, rel_tol=1e-5)
    assert math.isclose(sum(weights.by_lag.values()), 1, rel_tol=1e-5)
    assert weights.steps[0, :7].sum() == 0, "the time before a series begins gets no attention"
    assert weights.steps[1].std() < 0.2, "a window without any value is attended to all the same"


PLANTED_FEATURE, PLANTED_LAG = 2, 3


def planted(seed: int, *, driven: bool) -> PanelWindows:
    """Twenty series of noise, whose next value follows covariate 1 (feature 2) three steps back, or nothing."""
    draw = np.random.default_rng(seed)
    n, steps, length = 20, 80, 8
    past = draw.normal(size=(n, steps, 4))
    noise = draw.normal(size=(n, steps))
    y = 1 + 0.02 * noise
    driver = past[:, :, PLANTED_FEATURE - 1] if driven else draw.normal(size=(n, steps))
    y[:, PLANTED_LAG + 1 :] += 0.2 * driver[:, : steps - PLANTED_LAG - 1]
    plain = Standard(np.zeros(4, dtype=bool), np.zeros(4, dtype=np.float32), np.ones(4, dtype=np.float32))
    none = Standard(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.float32), np.ones(0, dtype=np.float32))
    arrays = PanelArrays(
        y=y,
        rates=np.empty((n, steps, 0)),
        past=past,
        plan=np.empty((n, steps + 1, 0)),
        static=np.empty((n, 0)),
        exposure=None,
        level=np.ones((n, steps)),
        past_scale=plain,
        plan_scale=none,
    )
    series, origin = np.meshgrid(np.arange(n), np.arange(length, steps - 1), indexing="ij")
    return PanelWindows(arrays, length, series.ravel(), origin.ravel())


def attended(seed: int, *, driven: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean weights of the five features and eight lags (lag 0 first) after training."""
    with deterministic(seed):
        base = MultiScaleTSMixer(8, 1, scales=(1,), hidden_dim=8, n_blocks=1, n_past=4)
        model = AttentionTSMixerx(base, n_features=5, attention_hidden_dim=16, attention_heads=2)
    fit_panel(
        model,
        planted(seed, driven=driven),
        PanelSettings(epochs=12, batch_size=64, lr=1e-2, seed=seed),
        penalty=lambda: 2e-3 * model.latest_entropy,
    )
    predict_panel(model, planted(seed + 100, driven=driven), batch_size=10_000)
    weights = model.latest_attention_weights
    return weights.features.mean(dim=0).numpy(), weights.steps.mean(dim=0).flip(0).numpy()


@pytest.mark.parametrize("seed", [1, 2])
def test_attention_points_at_the_feature_and_the_lag_that_drive_the_target_and_at_none_where_none_does(
    seed: int,
) -> None:
    features, lags = attended(seed, driven=True)
    idle_features, idle_lags = attended(seed, driven=False)

    assert features.argmax() == PLANTED_FEATURE
    assert lags.argmax() == PLANTED_LAG
    assert features[PLANTED_FEATURE] > 2 * np.delete(features, PLANTED_FEATURE).max()
    assert lags[PLANTED_LAG] > 2 * np.delete(lags, PLANTED_LAG).max()
    assert idle_features.max() < 0.7 * features.max()
    assert idle_features[PLANTED_FEATURE] < 0.6 * features[PLANTED_FEATURE]
    assert idle_lags[PLANTED_LAG] < 0.6 * lags[PLANTED_LAG]


def test_a_planted_rule_is_learned_better_than_the_last_value() -> None:
    with deterministic(0):
        model = MultiScaleTSMixer(8, 1, scales=(1, 2), hidden_dim=8, n_blocks=1, n_past=4)
    fit_panel(model, planted(1, driven=True), PanelSettings(epochs=6, batch_size=64, lr=1e-2))
    test = planted(2, driven=True)
    batch = test.batch(np.arange(len(test)))

    error = (predict_panel(model, test)[:, 0, 4] - batch.target[:, 0]).abs().mean()

    last = (batch.y[:, -1, 0] - batch.target[:, 0]).abs().mean()
    mean = (1 - batch.target[:, 0]).abs().mean()
    assert error < 0.4 * min(last, mean)


def test_the_pinball_loss_is_the_one_worked_out_by_hand() -> None:
    batch = planted(1, driven=False).batch(np.arange(2))
    known = torch.tensor([[1.0], [0.0]])
    batch = type(batch)(
        **{
            **batch.__dict__,
            "target": torch.tensor([[3.0], [float("inf")]]),
            "target_known": known,
            "weight": torch.tensor([[2.0], [5.0]]),
        }
    )
    quantiles = torch.tensor([[[1.0, 2.0, 5.0]], [[0.0, 0.0, 0.0]]], requires_grad=True)

    loss = pinball(quantiles, batch, (0.1, 0.5, 0.9))
    loss.backward()

    assert loss.item() == pytest.approx((0.1 * 2 + 0.5 * 1 + 0.1 * 2) / 3)
    assert quantiles.grad is not None
    assert quantiles.grad.isfinite().all()
    assert (quantiles.grad[1] == 0).all(), "an unknown target teaches nothing"


def fit_small(**changes: Any) -> tuple[Any, Any]:
    with deterministic(0):
        model = MultiScaleTSMixer(8, 1, scales=(1,), hidden_dim=4, n_blocks=1, n_past=4)
    clock = changes.pop("clock", None)
    more = {"clock": clock} if clock else {}
    valid = changes.pop("valid", None)
    settings_of_fit = PanelSettings(**{"epochs": 2, "batch_size": 256, **changes})
    return model, fit_panel(model, planted(1, driven=True), settings_of_fit, valid=valid, **more)


def test_the_same_seed_trains_the_same_bits_and_another_seed_others() -> None:
    (one, first), (two, second), (other, _) = fit_small(seed=3), fit_small(seed=3), fit_small(seed=4)

    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_budget_that_is_not_reached_changes_nothing_and_one_that_is_says_so() -> None:
    free, unlimited = fit_small()
    ample, within = fit_small(max_seconds=1e6)
    ticks = iter(range(1000))
    _, cut = fit_small(max_seconds=3.0, clock=lambda: float(next(ticks)))

    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), ample.parameters(), strict=True))
    assert (unlimited.stopped, within.stopped) == ("epochs", "epochs")
    assert (cut.stopped, cut.steps) == ("budget", 3)


def test_steps_end_a_fit_and_epochs_do_otherwise() -> None:
    _, short = fit_small(max_steps=3)
    _, whole = fit_small()

    assert (short.steps, short.stopped) == (3, "max_steps")
    assert (whole.epochs, whole.stopped) == (2, "epochs")
    assert whole.steps == 2 * math.ceil(len(planted(1, driven=True)) / 256)


def test_patience_keeps_the_weights_of_the_best_epoch() -> None:
    # No rule holds for these windows, so a network that learns the planted one gets worse on them.
    model, report = fit_small(epochs=30, lr=3e-2, patience=2, ema=None, valid=planted(9, driven=False))

    assert report.stopped == "patience"
    assert report.best_epoch == int(np.argmin(report.valid_loss)) + 1
    assert report.epochs == report.best_epoch + 2
    test = planted(9, driven=False)
    batch = test.batch(np.arange(len(test)))
    assert pinball(model(*batch.inputs), batch).item() == pytest.approx(min(report.valid_loss), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_fit_with_a_remedy() -> None:
    with pytest.raises(TrainingError, match="lower `lr`"):
        fit_small(lr=1e30, epochs=10, clip=1e30)


def test_windows_are_what_a_loop_over_the_panel_cuts_out() -> None:
    draw = np.random.default_rng(5)
    n, steps, length, horizon = 3, 20, 6, 2
    y = draw.uniform(10, 20, (n, steps))
    y[1, :9] = np.nan
    y[0, 12] = np.nan
    past, plan = draw.normal(size=(n, steps, 2)), draw.normal(size=(n, steps + horizon, 1))
    level = draw.uniform(5, 8, (n, steps))
    arrays = PanelArrays(
        y=y,
        rates=np.empty((n, steps, 0)),
        past=past,
        plan=plan,
        static=np.arange(3.0).reshape(3, 1),
        exposure=None,
        level=level,
        past_scale=Standard(np.array([True, False]), np.array([0.1, 0.2], "f4"), np.array([2.0, 3.0], "f4")),
        plan_scale=Standard(np.array([False]), np.array([0.0], "f4"), np.array([1.0], "f4")),
    )
    places = [(0, 13), (1, 10), (2, 2), (0, 19)]
    series, origin = (np.array(column) for column in zip(*places, strict=True))

    batch = PanelWindows(arrays, length, series, origin).batch(np.arange(4))

    for b, (i, t) in enumerate(places):
        for k, step in enumerate(range(t - length + 1, t + 1)):
            there = step >= 0 and np.isfinite(y[i, step])
            assert batch.known[b, k, 0] == there
            assert batch.y[b, k, 0] == pytest.approx(y[i, step] / level[i, t] if there else 0.0, rel=1e-5)
            begun = step >= np.flatnonzero(np.isfinite(y[i]))[0]
            wanted = [(past[i, step, 0] / level[i, t] - 0.1) / 2, (past[i, step, 1] - 0.2) / 3] if begun else [0, 0]
            assert batch.past[b, k].tolist() == pytest.approx(wanted, abs=1e-5)
        for h in range(horizon):
            there = t + 1 + h < steps and np.isfinite(y[i, t + 1 + h])
            assert batch.target_known[b, h] == there
            assert batch.target[b, h] == pytest.approx(y[i, t + 1 + h] / level[i, t] if there else 0.0, rel=1e-5)
            assert batch.plan[b, length + h, 0] == pytest.approx(plan[i, t + 1 + h, 0], abs=1e-5)
        assert batch.static[b, 0] == i


def test_windows_share_the_panels_memory() -> None:
    windows = planted(1, driven=True)

    assert windows.base.nbytes < 0.3 * len(windows) * 9 * windows.base.shape[2] * 4
    assert np.shares_memory(windows.subset(np.arange(5)).base, windows.base)


def test_an_origin_outside_the_panel_is_refused() -> None:
    windows = planted(1, driven=True)

    with pytest.raises(ConfigError, match="steps 80 to 80 of a panel of 80"):
        PanelWindows(windows.arrays, 8, np.array([0]), np.array([80]))

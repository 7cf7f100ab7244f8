"""Bar features beside TA-Lib, PyWavelets and plain loops over the same bars.

TA-Lib's smoothers look back to the first bar, ours over a finite window; they meet up to the weight that is cut off.
Everything else must agree to rounding.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import pywt
import talib
from numpy.typing import NDArray

from nightcast.contracts.schema import BarsSchema
from nightcast.features.bars import expressions as x
from nightcast.features.bars.catalog import build_bar_features
from nightcast.features.bars.recursions import BARS, WIDTH

Floats = NDArray[np.float64]
COUNT = 1500
FROM = 400
"""Bars after which TA-Lib's seeds weigh nothing: more than 10 n for every n here."""


def _bars() -> dict[str, Floats]:
    rng = np.random.default_rng(23)
    volatility = 2e-3 * np.exp(0.5 * np.sin(np.arange(COUNT) / 90))
    close = 60 * np.exp(np.cumsum(volatility * rng.standard_t(4, size=COUNT)))
    open_ = np.append(60.0, close[:-1]) * np.exp(rng.normal(scale=2e-4, size=COUNT))
    # rounded to a tick, so that prices tie now and then
    high = np.maximum(open_, close) * (1 + np.abs(rng.normal(scale=1e-3, size=COUNT)))
    low = np.minimum(open_, close) * (1 - np.abs(rng.normal(scale=1e-3, size=COUNT)))
    prices = {"open": open_, "high": high, "low": low, "close": close}
    return {name: np.round(its, 2) for name, its in prices.items()} | {
        "volume": np.round(np.exp(rng.normal(size=COUNT)) * 500)
    }


BARS_OF = _bars()
O, H, L, C, V = (BARS_OF[name] for name in ("open", "high", "low", "close", "volume"))  # noqa: E741
R = np.append(np.nan, np.diff(np.log(C)))


@pytest.fixture(scope="module")
def made() -> dict[str, Floats]:
    frame = pl.DataFrame(
        {
            "unique_id": "AAA",
            "ds": np.datetime64("2024-01-01", "us") + np.arange(COUNT) * np.timedelta64(5, "m"),
            "segment": 0,
            "session": 0,
            **BARS_OF,
        }
    )
    built, columns, _ = build_bar_features(frame, ["boosting_optimal"], BarsSchema(freq="5min"))
    return {name: built[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in columns}


def windows(values: Floats, bars: int) -> Floats:
    """`[COUNT, bars]` trailing windows, nan where incomplete."""
    out = np.full((len(values), bars), np.nan)
    out[bars - 1 :] = np.lib.stride_tricks.sliding_window_view(values, bars)
    return out


def same(ours: Floats, theirs: Floats, *, atol: float = 1e-9, rtol: float = 1e-8, start: int = FROM) -> None:
    assert np.isfinite(theirs[start:]).all()
    np.testing.assert_allclose(ours[start:], theirs[start:], atol=atol, rtol=rtol)


# --- to rounding -----------------------------------------------------------------------------------------------------


def test_rates_of_change_are_talibs(made: dict[str, Floats]) -> None:
    for n in (5, 10, 20):
        same(made[f"roc_{n}"], talib.ROC(C, n))
        same(made[f"return_{n}"], talib.ROCP(C, n))


@pytest.mark.parametrize("n", [14, 28])
def test_the_stochastic_oscillator_is_talibs(made: dict[str, Floats], n: int) -> None:
    k, d = talib.STOCHF(H, L, C, fastk_period=n, fastd_period=3)

    same(made[f"stoch_k_{n}"], k, atol=1e-7)
    same(made[f"stoch_d_{n}"], d, atol=1e-7)
    same(made[f"williams_{n}"], talib.WILLR(H, L, C, n), atol=1e-7)


@pytest.mark.parametrize("n", [14, 20])
def test_the_commodity_channel_index_is_talibs(made: dict[str, Floats], n: int) -> None:
    same(made[f"cci_{n}"], talib.CCI(H, L, C, n), atol=1e-5)


def test_the_money_flow_index_is_talibs(made: dict[str, Floats]) -> None:
    theirs = talib.MFI(H, L, C, V, 14)
    # rounding decides which way TA-Lib takes a typical price that ties with the one before
    ties = windows((np.append(1.0, np.abs(np.diff(H + L + C))) < 1e-9).astype(float), 14).sum(axis=1) > 0
    assert ties[FROM:].mean() < 0.5
    np.testing.assert_allclose(made["mfi_14"][FROM:][~ties[FROM:]], theirs[FROM:][~ties[FROM:]], atol=1e-6)


def test_bollingers_bands_are_talibs(made: dict[str, Floats]) -> None:
    upper, middle, lower = talib.BBANDS(C, 20, 2, 2)

    same(made["bb_position"], (C - lower) / (upper - lower), atol=1e-6)
    same(made["bb_width"], (upper - lower) / middle, atol=1e-8)


@pytest.mark.parametrize("n", [10, 20])
def test_on_balance_volume_is_talibs_gain_over_the_window(made: dict[str, Floats], n: int) -> None:
    gain = np.append(np.full(n, np.nan), talib.OBV(C, V)[n:] - talib.OBV(C, V)[:-n])

    same(made[f"obv_{n}"], gain / windows(V, n).sum(axis=1))


@pytest.mark.parametrize("n", [10, 20, 60])
def test_the_slope_is_talibs_regression_of_log_prices(made: dict[str, Floats], n: int) -> None:
    theirs = talib.LINEARREG_SLOPE(np.log(C), n) / windows(R, n).std(axis=1, ddof=1)

    same(made[f"slope_{n}"], np.clip(theirs, -3, 3), atol=1e-7)


def test_volatilities_are_those_of_the_textbook(made: dict[str, Floats]) -> None:
    span, body = np.log(H / L) ** 2, np.log(C / O) ** 2
    for n in (10, 20):
        same(made[f"hvol_{n}"], windows(R, n).std(axis=1, ddof=1))
        same(made[f"parkinson_{n}"], np.sqrt(windows(span, n).mean(axis=1) / (4 * math.log(2))))
        klass = windows(0.5 * span - (2 * math.log(2) - 1) * body, n).mean(axis=1)
        same(made[f"garman_{n}"], np.sqrt(np.maximum(klass, 0)))


def test_volume_scores_are_those_of_a_plain_window(made: dict[str, Floats]) -> None:
    log = windows(np.log1p(V), 20)

    same(made["volume_ratio_20"], np.minimum(V / windows(V, 20).mean(axis=1), 20))
    same(made["volume_zscore_20"], (log[:, -1] - log.mean(axis=1)) / log.std(axis=1, ddof=1), atol=1e-7)
    same(made["volume_zscore_50_lag_7"][7:], made["volume_zscore_50"][:-7], atol=0, rtol=0)


@pytest.mark.parametrize("n", [10, 20, 60])
def test_the_slope_is_that_of_numpys_polynomial(made: dict[str, Floats], n: int) -> None:
    for t in range(FROM, COUNT, 97):
        line = np.polyfit(np.arange(n), np.log(C[t - n + 1 : t + 1]), 1)
        steep = line[0] / R[t - n + 1 : t + 1].std(ddof=1)
        assert made[f"slope_{n}"][t] == pytest.approx(np.clip(steep, -3, 3), abs=1e-7)


# --- a few bars, by hand ---------------------------------------------------------------------------------------------


def by_hand(expression: pl.Expr, **columns: list[float]) -> list[float | None]:
    """An expression over prepared columns given as `o, h, l, c, v, r`."""
    frame = pl.DataFrame({f"_{name}": its for name, its in columns.items()})
    return frame.select(expression.alias("value"))["value"].to_list()


def test_parkinson_of_two_bars_by_hand() -> None:
    # ln(H/L) is 1 and 2: ((1 + 4) / 2) / (4 ln 2) = 0.901684, root 0.949571
    assert by_hand(x.parkinson(2), h=[math.e, math.e**2], l=[1, 1])[1] == pytest.approx(0.9495708, abs=1e-6)


def test_garman_klass_of_two_bars_by_hand() -> None:
    # 0.5 (1, 4) less 0.386294 (0.25, 1): 0.403426 and 1.613706, mean 1.008566, root 1.004274
    made = by_hand(x.garman_klass(2), h=[math.e, math.e**2], l=[1, 1], o=[1, 1], c=[math.e**0.5, math.e])
    assert made[1] == pytest.approx(1.0042739, abs=1e-6)


def test_the_roll_spread_of_a_bouncing_price_by_hand() -> None:
    # Returns +1 % and -1 % in turn: neighbours multiply to -0.0001, both means over four are 0: 2 root(0.0001) = 0.02.
    bounce = [0.01, -0.01, 0.01, -0.01, 0.01]
    assert by_hand(x.roll_spread(4), r=bounce)[4] == pytest.approx(0.02)
    # Returns that repeat have a covariance of 0, and rising ones a positive one: no spread.
    assert by_hand(x.roll_spread(4), r=[0.01] * 5)[4] == pytest.approx(0.0, abs=1e-9)
    assert by_hand(x.roll_spread(4), r=[0.01, 0.02, 0.03, 0.04, 0.05])[4] == 0.0


def test_the_corwin_schultz_spread_of_two_equal_bars_by_hand() -> None:
    # Equal bars with ln(H/L) = a: beta = 2 a^2, gamma = a^2, so alpha = ((2 - root 2) - root(3 - 2 root 2)) a /
    # (3 - 2 root 2) = a, and the spread is 2 (e^a - 1) / (1 + e^a): all of the range is bid and ask.
    made = by_hand(x.corwin_schultz(1), h=[math.exp(0.02)] * 2, l=[1.0] * 2)
    assert made[1] == pytest.approx(2 * (math.exp(0.02) - 1) / (1 + math.exp(0.02)))
    # Two bars that only touch have twice the range together: alpha = (0.585786 a - 2 * 0.414214 a) / 0.171573 < 0.
    assert by_hand(x.corwin_schultz(1), h=[math.exp(0.02), math.exp(0.04)], l=[1.0, math.exp(0.02)])[1] == 0.0


def test_haar_details_of_four_bars_by_hand() -> None:
    # Log prices 0, 1, 3, 7: means of two end at 5, of four at 2.75; details 7 - 5 and 5 - 2.75.
    prices = [math.exp(v) for v in (0, 1, 3, 7)]
    assert by_hand(x.detail(1), c=prices)[3] == pytest.approx(2.0)
    assert by_hand(x.detail(2), c=prices)[3] == pytest.approx(2.25)


# --- microstructure, by plain loops ----------------------------------------------------------------------------------


def test_the_roll_spread_is_that_of_the_windows_autocovariance(made: dict[str, Floats]) -> None:
    now, before = windows(R, 20), windows(np.append(np.nan, R[:-1]), 20)
    covariance = (now * before).mean(axis=1) - now.mean(axis=1) * before.mean(axis=1)

    same(made["micro_roll_20"], 2 * np.sqrt(np.maximum(-covariance, 0)), atol=1e-8)


def test_the_corwin_schultz_spread_is_that_of_two_bars_ranges(made: dict[str, Floats]) -> None:
    root = 3 - 2 * math.sqrt(2)
    spread = np.full(COUNT, np.nan)
    for t in range(1, COUNT):
        beta = math.log(H[t] / L[t]) ** 2 + math.log(H[t - 1] / L[t - 1]) ** 2
        gamma = math.log(max(H[t], H[t - 1]) / min(L[t], L[t - 1])) ** 2
        alpha = (math.sqrt(2 * beta) - math.sqrt(beta)) / root - math.sqrt(gamma / root)
        spread[t] = max(0.0, 2 * (math.exp(alpha) - 1) / (1 + math.exp(alpha)))

    same(made["micro_corwin_schultz_20"], windows(spread, 20).mean(axis=1))


def test_the_kyle_proxy_is_the_correlation_of_returns_with_signed_volume(made: dict[str, Floats]) -> None:
    returns, signed = windows(R, 20), windows(np.sign(R) * V, 20)
    theirs = np.array(
        [np.nan if np.isnan(a).any() else np.corrcoef(a, b)[0, 1] for a, b in zip(returns, signed, strict=True)]
    )

    same(made["micro_kyle_20"], theirs, atol=1e-6)


def test_the_amihud_ratio_is_a_bars_illiquidity_over_the_usual(made: dict[str, Floats]) -> None:
    each = np.abs(R) / V
    usual = windows(each, 20).mean(axis=1)
    theirs = np.where(each > 0, np.log(np.where(each > 0, each, 1) / usual), 0)

    same(made["micro_amihud_20"], np.clip(theirs, -5, 5), atol=1e-7)


def test_the_close_location_is_that_of_the_bar(made: dict[str, Floats]) -> None:
    same(made["micro_clv"], np.where(H > L, ((C - L) - (H - C)) / np.where(H > L, H - L, 1), 0), start=0, atol=1e-7)


# --- wavelets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3])
def test_details_are_pywavelets_haar_coefficients_of_each_bars_own_window(made: dict[str, Floats], level: int) -> None:
    # Of exactly 2 ** level values Haar has one coefficient: older half less newer half, over the root of their number.
    size = 2**level
    for t in range(size - 1, COUNT, 7):
        coefficient = pywt.wavedec(np.log(C[t - size + 1 : t + 1]), "haar", level=level)[1][0]
        assert made[f"wavelet_close_d{level}"][t] == pytest.approx(-coefficient / math.sqrt(size), abs=1e-10)


def test_the_approximation_is_pywavelets_beside_the_close(made: dict[str, Floats]) -> None:
    for t in range(7, COUNT, 7):
        coefficient = pywt.wavedec(np.log(C[t - 7 : t + 1]), "haar", level=3)[0][0]
        assert made["wavelet_close_approx"][t] == pytest.approx(math.log(C[t]) - coefficient / math.sqrt(8), abs=1e-10)


def test_energies_are_the_details_shares_of_their_squares(made: dict[str, Floats]) -> None:
    squares = [windows(made[f"wavelet_close_d{j}"] ** 2, 32).sum(axis=1) for j in (1, 2, 3)]

    for j, its in enumerate(squares, start=1):
        same(made[f"wavelet_close_energy_d{j}"], its / np.sum(squares, axis=0), atol=1e-7)


# --- smoothers: up to the weight that is cut off ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [7, 14, 28])
def test_wilders_average_is_the_exact_mean_over_its_window(n: int) -> None:
    window = x.wilder_window(n)
    weights = (1 - 1 / n) ** np.arange(window)[::-1]
    ours = pl.DataFrame({"c": C}).select(x.wilder(pl.col("c"), n)).to_series().to_numpy()

    same(ours, windows(C, window) @ weights / weights.sum(), start=window)
    assert (1 - 1 / n) ** window < 5e-4


@pytest.mark.parametrize("n", [7, 14, 21])
def test_the_relative_strength_index_is_talibs(made: dict[str, Floats], n: int) -> None:
    same(made[f"rsi_{n}"], talib.RSI(C, n), atol=0.05, rtol=0)


@pytest.mark.parametrize("n", [7, 14, 28])
def test_the_average_true_range_is_talibs(made: dict[str, Floats], n: int) -> None:
    same(made[f"atr_ratio_{n}"] * C, talib.ATR(H, L, C, n), atol=0, rtol=1e-3)


def test_directional_movement_is_talibs(made: dict[str, Floats]) -> None:
    # Where highs rise as far as lows fall, rounding decides in TA-Lib: leave out what such a bar weighs in.
    up, down = np.diff(H, prepend=np.nan), -np.diff(L, prepend=np.nan)
    ties = (np.abs(up - down) < 1e-9) & (up > 0)
    clear = (windows(ties.astype(float), 8 * 14).sum(axis=1) == 0) & (np.arange(COUNT) >= FROM)
    assert clear.sum() > 100
    for name, theirs in (("adx_plus_14", talib.PLUS_DI), ("adx_minus_14", talib.MINUS_DI)):
        np.testing.assert_allclose(made[name][clear], theirs(H, L, C, 14)[clear], atol=0.05)
    longer = clear & (windows(ties.astype(float), 16 * 14).sum(axis=1) == 0)
    assert longer.sum() > 20
    np.testing.assert_allclose(made["adx_14"][longer], talib.ADX(H, L, C, 14)[longer], atol=0.05)


def test_moving_average_convergence_is_talibs(made: dict[str, Floats]) -> None:
    # within a hundredth of an average range
    near = 0.01 * float(np.nanmean(talib.ATR(H, L, C, 14)))
    for part, theirs in zip(("line", "signal", "hist"), talib.MACD(C, 12, 26, 9), strict=True):
        same(made[f"macd_{part}"] * C, theirs, atol=near, rtol=0)


def test_keltners_channel_is_that_of_talibs_average_and_range(made: dict[str, Floats]) -> None:
    middle, spread = talib.EMA(C, 20), talib.ATR(H, L, C, 20)

    same(made["kc_position"], np.clip((C - middle + 2 * spread) / (4 * spread), -1, 2), atol=2e-3, rtol=0)


def test_the_supertrend_is_nearly_always_on_the_side_of_the_endless_recursion(made: dict[str, Floats]) -> None:
    middle, spread = (H + L) / 2, WIDTH * talib.ATR(H, L, C, BARS)
    side = np.zeros(COUNT)
    upper, lower, up = middle[BARS] + spread[BARS], middle[BARS] - spread[BARS], True
    for t in range(BARS + 1, COUNT):
        high, low = middle[t] + spread[t], middle[t] - spread[t]
        upper = high if high < upper or C[t - 1] > upper else upper
        lower = low if low > lower or C[t - 1] < lower else lower
        up = C[t] >= lower if up else C[t] > upper
        side[t] = 1 if up else -1

    assert (made["supertrend_side"][FROM:] == side[FROM:]).mean() > 0.97
    assert set(np.unique(side[FROM:])) == {-1, 1}

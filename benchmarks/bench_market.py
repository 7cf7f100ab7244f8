"""Time to generate a market, beside a plain Python loop over bars that does the same from the same random numbers.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_market [--bars 50000] [--repeats 5] [--oracle]

Both are timed in turn within one run and their bars are compared; ratios are taken within a repeat and the median over
repeats is printed with the range. The random numbers are drawn inside both timings. `--oracle` also prints the oracle's
scores for several kappas, the table of the documentation.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from nightcast.sources.market import Instrument, MarketConfig, label_game, oracle_scores, simulate_market
from nightcast.sources.market.simulate import LEAVE_REGIME, simulate_paths


def by_loop(config: MarketConfig) -> np.ndarray:
    """`[n, 5]` bars of the first symbol, one bar after the other, for the linear signal."""
    instrument, n, m = config.symbols[0], config.bars, config.substeps
    name, before = instrument.name, 41
    mixture = config.stream("mixture").chisquare(config.df, n).tolist()
    common = config.stream("common").standard_normal((n, m)).tolist()
    own = config.stream("own", name).standard_normal((n, m)).tolist()
    signal = config.stream("signal", name).standard_normal(n + before).tolist()
    noise = config.stream("observation", name).standard_normal(n + before).tolist()
    leaves, whither = config.stream("regime", name).random((n, 2)).T.tolist()
    sides = config.stream("bounce", name).integers(0, 2, size=(n, m + 1), dtype=np.int8).tolist()
    volumes = config.stream("volume", name).standard_normal(n).tolist()

    states, base, per_session = len(config.regimes), config.sigma_bps / 1e4, config.session_bars
    alpha, beta = config.garch
    tick, s = instrument.tick, 0.0
    for t in range(before):
        s = config.rho * s + signal[t] * (math.sqrt(1 - config.rho**2) if t else 1.0)
    log_mid, h, state, eps = math.log(instrument.price), 1.0, int(whither[0] * states), 0.0
    bars = []

    def quote(log_price: float, side: int) -> float:
        price = math.exp(log_price) + (side - 0.5) * tick
        return max(round(round(price / tick) * tick, instrument.decimals), tick)

    for t in range(n):
        if t:
            h = 1 - alpha - beta + (alpha * eps**2 + beta) * h
            if leaves[t] < LEAVE_REGIME:
                state = (state + 1 + int(whither[t] * (states - 1))) % states
        season = math.exp(config.season * math.cos(2 * math.pi * (t % per_session) / per_session))
        sigma = base * season * config.regimes[state] * math.sqrt(h)
        scale = math.sqrt((config.df - 2) / mixture[t] / m)
        prices, eps = [quote(log_mid, sides[t][0])], 0.0
        for j in range(m):
            shock = scale * (
                math.sqrt(config.correlation) * common[t][j] + math.sqrt(1 - config.correlation) * own[t][j]
            )
            eps += shock
            log_mid += sigma * (shock + config.kappa * s / m)
            prices.append(quote(log_mid, sides[t][j + 1]))
        s = config.rho * s + math.sqrt(1 - config.rho**2) * signal[before + t]
        feature = s + config.tau * noise[before + t]
        logs = math.log(instrument.volume) + math.log(sigma / base) + config.volume_noise * volumes[t]
        volume = max(1.0, float(round(math.exp(logs + config.gain * feature))))
        bars.append((prices[0], max(prices), min(prices), prices[-1], volume))
    return np.array(bars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--oracle", action="store_true")
    options = parser.parse_args()

    config = MarketConfig(symbols=("MES",), bars=options.bars)  # type: ignore[arg-type]
    simulate_market(config.with_(bars=1_000))  # imports do not count
    fast, slow, ratio = [], [], []
    for _ in range(options.repeats):
        started = time.perf_counter()
        [path] = simulate_paths(config)
        middle = time.perf_counter()
        looped = by_loop(config)
        ended = time.perf_counter()
        ours = np.column_stack([path.prices, path.volume])
        differs = (np.abs(ours - looped).max(axis=1) > 1e-6).mean()
        if differs > 1e-4:  # a price halfway between two ticks may round either way
            raise SystemExit(f"the two disagree in {differs:.2%} of the bars")
        fast.append(middle - started)
        slow.append(ended - middle)
        ratio.append((ended - middle) / (middle - started))
    print(f"{options.bars} bars of one symbol, {options.repeats} repeats, the same bars from both")
    print(f"  arrays  {statistics.median(fast):.3f} s ({options.bars / statistics.median(fast) / 1e6:.2f} M bars/s)")
    print(f"  loop    {statistics.median(slow):.3f} s")
    print(f"  ratio   {statistics.median(ratio):.1f} (range {min(ratio):.1f} to {max(ratio):.1f})")

    for title, market in (
        ("two symbols, clean, with truth", MarketConfig(bars=140_530)),
        ("two symbols, dirt 1", MarketConfig(bars=140_530, dirt=1.0)),
    ):
        started = time.perf_counter()
        rows = simulate_market(market).bars.height
        print(f"  {title}: {rows} bars in {time.perf_counter() - started:.2f} s")
    started = time.perf_counter()
    label_game(0.7, 12_000, seed=1)
    print(f"  label game, 12 000 + 6 000 decisions: {time.perf_counter() - started:.2f} s")
    if options.oracle:
        oracle_table()


def oracle_table() -> None:
    """Means over six markets of 50 000 bars each; five bars, barriers at two sigmas, constant volatility."""
    with tempfile.TemporaryDirectory() as folder:
        for instrument in (Instrument("X", price=900.0, tick=0.25), Instrument("MES", price=5000.0, tick=0.25)):
            print(f"  tick {instrument.tick / instrument.price * 1e4:.1f} bp")
            print("  | kappa | IC | F1 argmax / weighted | direction AUC | gross SR, sign / argmax | neutral |")
            for kappa in (0.0, 0.02, 0.05, 0.1, 0.2):
                law = MarketConfig(
                    symbols=(instrument,), kappa=kappa, volatility="flat", bars=50_000, calendar="globex"
                )
                all_scores = [
                    oracle_scores(simulate_market(law.with_(seed=seed)), 5, cache=Path(folder)) for seed in range(6)
                ]
                ic, f1, weighted, auc, sr, sr_argmax = (
                    float(np.mean([getattr(s, name) for s in all_scores]))
                    for name in (
                        "ic",
                        "f1_argmax",
                        "f1_weighted",
                        "direction_auc",
                        "gross_sharpe",
                        "gross_sharpe_argmax",
                    )
                )
                neutral = float(np.mean([s.shares[1] for s in all_scores]))
                print(
                    f"  | {kappa:g} | {ic:.3f} | {f1:.3f} / {weighted:.3f} | {auc:.3f} | {sr:.1f} / {sr_argmax:.1f} "
                    f"| {neutral:.3f} |"
                )


if __name__ == "__main__":
    main()

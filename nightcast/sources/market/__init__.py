"""A synthetic market of intraday bars with a planted signal, known truth and known optimum."""

from nightcast.sources.market.config import DIRT_KINDS, INSTRUMENTS, SIZES, Instrument, MarketConfig
from nightcast.sources.market.label_game import LabelGame, label_game
from nightcast.sources.market.oracle import OracleScores, oracle_posterior, oracle_scores
from nightcast.sources.market.simulate import Market, simulate_market

__all__ = [
    "DIRT_KINDS",
    "INSTRUMENTS",
    "SIZES",
    "Instrument",
    "LabelGame",
    "Market",
    "MarketConfig",
    "OracleScores",
    "label_game",
    "oracle_posterior",
    "oracle_scores",
    "simulate_market",
]

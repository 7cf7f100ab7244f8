"""A synthetic oil field with known truth: a tank network under water flood, as its people would have measured it."""

from nightcast.sources.generator.config import SIZES, FieldConfig
from nightcast.sources.generator.dirt import CORRUPTIONS, corrupt
from nightcast.sources.generator.field import Field, FieldTruth, simulate_field

__all__ = ["CORRUPTIONS", "SIZES", "Field", "FieldConfig", "FieldTruth", "corrupt", "simulate_field"]

"""The engine of Nightcast: contracts, sources, storage, features, evaluation, reports. It knows no platform."""

__version__ = "0.1.0"

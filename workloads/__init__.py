"""Composition: source, suites, features, models, splitter, metrics, combiner and gate, as one value."""

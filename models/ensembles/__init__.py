"""Ensembles: they learn from out-of-fold predictions only."""

"""Evaluation: folds, the walk-forward loop, scores, league tables, calibration and the promotion gate's arithmetic."""

"""Train one classifier on its own: container, trainer, run directory, comparison of runs."""

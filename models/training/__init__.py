"""The training loop of the sequence classifiers: engine, schedules, callbacks, checkpoints."""

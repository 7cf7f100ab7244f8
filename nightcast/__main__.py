"""`python -m nightcast`: the command line, as the console script `nightcast` starts it."""

from __future__ import annotations

from importlib import import_module

if __name__ == "__main__":
    # by name, at run time: the engine itself imports nothing of the rooms above it
    import_module("flows.cli").main()

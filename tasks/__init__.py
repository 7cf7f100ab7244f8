"""Thin Prefect wrappers, settings, tracking, and the served model's entry file."""

"""Features of bars: polars expressions over segments, in named sets."""

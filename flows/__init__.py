"""Tables of contents: what a night does, in order; and the command line."""

"""Frame -> frame: the regular grid, feature blocks that look back only, and the sentry that proves it."""

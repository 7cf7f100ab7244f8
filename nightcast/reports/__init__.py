"""Pictures and the nightly page: what ran, what it is worth, and what to distrust."""

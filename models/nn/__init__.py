"""Networks and how they are trained; torch is imported inside functions only."""

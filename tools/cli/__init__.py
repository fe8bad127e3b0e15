"""``time-cli``: every method of a running node from a shell, and wallet enough to pay somebody."""

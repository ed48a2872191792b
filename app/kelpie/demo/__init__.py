"""The demo: a real simulation survives the death of its node, and its result is what it would have been."""

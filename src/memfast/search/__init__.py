"""Ranking as pure functions: no await, no I/O."""

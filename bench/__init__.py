"""Benchmarks: what memfast costs beside the floor it stands on, and how well it finds."""

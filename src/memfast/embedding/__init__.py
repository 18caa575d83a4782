"""Adapters of `ports.Embedder`, one file for each provider; importing them loads no model."""

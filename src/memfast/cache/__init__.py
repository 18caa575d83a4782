"""Shared caches: the adapters of `ports.SharedCache`."""

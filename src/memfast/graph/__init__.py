"""Copies of the links in other engines."""

"""The SQL files."""

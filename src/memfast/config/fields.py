"""How a setting says what it is."""

from __future__ import annotations

from typing import Any

from msgspec import Meta

__all__ = ["doc"]


def doc(text: str, unit: str = "", **bounds: Any) -> Meta:
    """A setting's line of documentation, its unit, and what msgspec checks of it."""
    return Meta(description=text, extra={"unit": unit}, **bounds)

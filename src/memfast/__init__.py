"""memfast: a memory service for AI agents. What stands here is its Python client; see docs/python.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memfast.client import AsyncClient, Client, Hit, Hits, Memory, local, local_async

__all__ = ["AsyncClient", "Client", "Hit", "Hits", "Memory", "__version__", "local", "local_async"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The client's names, imported when they are asked for: `import memfast` loads nothing."""
    if name in __all__:
        return getattr(import_module("memfast.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

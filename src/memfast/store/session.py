"""What the sessions of connections to PostgreSQL are set to."""

from __future__ import annotations

from typing import Any

__all__ = ["keep_session", "session_settings"]


async def keep_session(_connection: Any) -> None:
    """Nothing in a pooled session is ever changed, so there is nothing to reset: saves a round trip per use."""


def session_settings(command_timeout_s: float) -> dict[str, str]:
    """Settings of a session whose statements may take so long, in seconds."""
    statement_ms = str(int(command_timeout_s * 1000))
    return {
        "application_name": "memfast",
        "timezone": "UTC",
        "jit": "off",
        "random_page_cost": "1.1",
        "effective_cache_size": "4GB",
        "statement_timeout": statement_ms,
        "lock_timeout": statement_ms,
        "idle_in_transaction_session_timeout": "30000",
        "client_connection_check_interval": "1000",
        "synchronous_commit": "on",
    }

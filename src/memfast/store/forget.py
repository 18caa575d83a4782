"""What forgetting a scope sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from memfast.model import ForgetReceipt, Scope
from memfast.store.outbox import NO_CHANGES
from memfast.store.queries import FORGET, OUTBOX

__all__ = ["OWNED_TABLES", "erase_scope"]

_ANSWERS = "idempotency"

OWNED_TABLES: Mapping[str, str] = MappingProxyType(
    {
        "memories": FORGET.erase_memories,
        "memory_vectors": FORGET.erase_memory_vectors,
        "links": FORGET.erase_links,
        "history": FORGET.erase_history,
        "access_stats": FORGET.erase_access_stats,
        "reembedded": FORGET.erase_reembedded,
        "outbox": FORGET.erase_outbox,
        _ANSWERS: FORGET.erase_answers,
    }
)
"""The statement that empties each table of what a scope owns: every table with a `scope_id` but `scopes` itself."""


async def erase_scope(
    connection: Any,
    scope: Scope,
    began: Callable[[Any], None],
    copies: Mapping[str, int | None],
    *,
    now: datetime,
) -> ForgetReceipt | None:
    """Erase a scope in the open transaction of a connection; see `ports.MemoryStore.forget`.

    One that was forgotten before is erased again where something has come since, other than the answer to that.
    """
    known = await connection.fetchrow(FORGET.lock_named, scope.id)
    if known is None:
        return None
    names = (scope.namespace, scope.user_id)
    live = await connection.fetchval(FORGET.count_live, scope.id)
    rows = {"api_keys": _count(await connection.execute(FORGET.erase_revoked_keys, *names))}
    for table, statement in OWNED_TABLES.items():
        if table == _ANSWERS and not known["named"] and not any(rows.values()):
            return None
        rows[table] = _count(await connection.execute(statement, scope.id))
    row = await connection.fetchrow(FORGET.forget_scope, scope.id, now)
    began(row)
    if row["noted"]:
        await connection.execute(OUTBOX.put_step, scope.id, row["version"], row["version"] - 1, NO_CHANGES, True)
    keys = await connection.fetchval(FORGET.count_keys, *names)
    return ForgetReceipt(memories=live, version=row["version"], at=now, rows=rows, copies=dict(copies), keys=keys)


def _count(status: str) -> int:
    """The rows that a command's status tells, as in `DELETE 5`."""
    return int(status.rpartition(" ")[2])

"""What it costs that mem0's clients name a memory without its user: whose is this id?

    python bench/micro/owners.py [--users 1000,10000,50000] [--memories 20] [--calls 50]

Each line times the statement that finds the users of one id, and of ten, in a namespace of so many users beside as many of
another namespace; the one that verifies a user who was noted; and the read of one memory by its user and its id for
comparison. Printed are the medians in ms.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.harness.service import Service, scratch_dir

from memfast.store.queries import ADMIN, READ

SCOPES = """
INSERT INTO scopes (scope_id, namespace, user_id, version, updated_at, created_at, generation, memories)
SELECT md5('scope ' || n)::uuid, CASE n % 2 WHEN 0 THEN 'default' ELSE 'other' END, 'user ' || n, 1, now(), now(), 1, $2
FROM generate_series(1, 2 * $1::integer) n
"""
MEMORIES = """
INSERT INTO memories (scope_id, id, version, created_at, updated_at, text, kind, tags, entities, importance, metadata)
SELECT md5('scope ' || n)::uuid, md5(n || '/' || k)::uuid, 1, now(), now(), repeat('something that was said ', 5),
       'fact', '{}', '{}', 0.5, '{}'
FROM generate_series(1, 2 * $1::integer) n, generate_series(1, $2::integer) k
"""
CHOSEN = (
    "SELECT scope_id, id FROM memories JOIN scopes USING (scope_id) WHERE namespace = 'default' AND id > $1 LIMIT 10"
)


async def median_ms(connection: Any, calls: int, statement: str, *arguments: Any) -> float:
    """The median time of a prepared statement, once its plan is settled."""
    prepared = await connection.prepare(statement)
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        await prepared.fetch(*arguments)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[calls // 5 :])


async def measure(database: dict[str, Any], users: int, memories: int, calls: int) -> None:
    """Fill the database and time the statements."""
    connection = await asyncpg.connect(**database)
    try:
        await connection.execute("TRUNCATE scopes, memories CASCADE")
        await connection.execute(SCOPES, users, memories)
        await connection.execute(MEMORIES, users, memories)
        await connection.execute("VACUUM ANALYZE scopes, memories")
        rows = await connection.fetch(CHOSEN, "80000000-0000-0000-0000-000000000000")
        ids = [row["id"] for row in rows]
        one = await median_ms(connection, calls, ADMIN.find_owners, "default", ids[:1])
        ten = await median_ms(connection, calls, ADMIN.find_owners, "default", ids)
        noted = await median_ms(connection, calls, ADMIN.find_owner_within, "default", ids[:1], rows[0]["scope_id"])
        now = await connection.fetchval("SELECT now()")
        own = await median_ms(connection, calls, READ.get_memories, rows[0]["scope_id"], ids[:1], now)
        times = f"one id {one:8.2f}   ten ids {ten:8.2f}   noted {noted:6.3f}   by user and id {own:6.3f}"
        print(f"{users:>8} users   {times}")
    finally:
        await connection.close()


def main() -> None:
    """Measure for each number of users."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", default="1000,10000,50000")
    parser.add_argument("--memories", type=int, default=20)
    parser.add_argument("--calls", type=int, default=50)
    asked = parser.parse_args()
    with scratch_dir() as root, Service(root / "data") as service:
        for users in asked.users.split(","):
            asyncio.run(measure(service.database(), int(users), asked.memories, asked.calls))


if __name__ == "__main__":
    main()

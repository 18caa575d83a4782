"""Callers that leave at any moment: no answer ever goes to another, and every connection comes back."""

import asyncio
import os
import random
import re
from datetime import UTC, datetime

from memfast.errors import Overloaded
from memfast.model import Listing, Scope, derive_scope_id

NOW = datetime(2025, 1, 1, tzinfo=UTC)
SOAK = int(os.environ.get("SOAK", "1"))
ANSWERS = 2_000 if SOAK == 1 else 10_000 * SOAK
"""Answers that are looked at; `make soak` takes a hundred thousand."""
USERS = 200
MARK = re.compile(r"<(\d+)>")


async def test_two_hundred_users_three_in_ten_of_whom_leave(open_store, new_create, site):
    """Cancelled in the middle of acquiring, asking, reading and releasing: foreign bytes seen are none."""
    scopes = [
        Scope(derive_scope_id(site.prepared.secret, "default", f"<{number}>"), "default", f"<{number}>")
        for number in range(USERS)
    ]
    async with open_store(size=6, acquire_timeout_s=30.0) as store:
        for scope in scopes:
            await store.apply([new_create(owner=scope, text=f"of {scope.user_id} only") for _ in range(3)], now=NOW)
        own = {scope.user_id: (await store.get(scope, [], now=NOW))[1] for scope in scopes}
        vector = new_create().vector
        seen = foreign = 0

        async def ask(scope, chance):
            kind = chance.randrange(4)
            if kind == 0:
                return [each.text for each in (await store.list(scope, Listing(limit=3), now=NOW)).memories]
            if kind == 1:
                return [each.text for each in (await store.nearest(scope, vector, 3, now=NOW)).memories]
            if kind == 2:
                return [(await store.user(scope)).user_id] * 3
            return [each.text for each in (await store.load(scope)).memories]

        async def user(number):
            nonlocal seen, foreign
            chance, scope = random.Random(number), scopes[number]
            while seen < ANSWERS:
                task = asyncio.create_task(ask(scope, chance))
                if chance.random() < 0.3:
                    for _ in range(chance.randrange(40)):
                        await asyncio.sleep(0)
                    if chance.random() < 0.5:
                        await asyncio.sleep(chance.random() * 0.004)
                    task.cancel()
                await asyncio.wait([task])
                if task.cancelled():
                    continue
                if isinstance(task.exception(), Overloaded):
                    await asyncio.sleep(0.02)
                    continue
                texts = task.result()
                seen += 1
                foreign += len(texts) != 3 or {f"<{mark}>" for mark in MARK.findall("".join(texts))} != {scope.user_id}

        await asyncio.gather(*map(user, range(USERS)))
        assert (foreign, seen >= ANSWERS) == (0, True)
        pool = store._pool
        async with asyncio.timeout(10):
            while pool.idle != pool.size:
                await asyncio.sleep(0.01)
        assert pool.snapshot().waiting == 0
        assert {scope.user_id: (await store.get(scope, [], now=NOW))[1] for scope in scopes} == own

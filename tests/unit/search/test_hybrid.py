"""A search over one shard, at moments that a test chooses."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest

from memfast.index.shard import Shard, ShardIdentity
from memfast.search.hybrid import Question, Ranking, find
from memfast.search.words import words_of
from memory_world import memory_of

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = BEGAN + timedelta(days=1)
TEXTS = ["which colour shall it be", "a pale yellow", "the kitchen is done"]
QUERY = np.array([1.0, 0.0], np.float32)


@pytest.fixture
def shard():
    """One run of three memories; the one in the middle expires. Vectors say the same of all."""
    memories = [
        memory_of(
            BEGAN + timedelta(minutes=number),
            id=UUID(int=number + 1),
            text=text,
            run_id="run",
            expires_at=ENDS if number == 1 else None,
            version=1,
        )
        for number, text in enumerate(TEXTS)
    ]
    identity = ShardIdentity(UUID(int=1), UUID(int=2), 1, 2)
    return Shard.build(memories, np.tile(QUERY, (3, 1)), identity=identity, version=1)


@pytest.mark.parametrize("mode", ["vector", "lexical", "hybrid"])
@pytest.mark.parametrize("neighbors", [False, True])
def test_what_has_expired_is_not_beside_a_hit_either(shard, mode, neighbors):
    """At its end a memory leaves the hits, what comes along with them, and what may lend them a score."""

    def found(moment):
        asked = Question(
            mode=mode,
            text="colour",
            vector=None if mode == "lexical" else QUERY,
            terms=words_of("english").of_query("colour"),
            limit=10,
            min_score=0.0,
            where=None,
            ranking=Ranking(neighbors=neighbors, include_neighbors=1),
        )
        answer = find(shard, asked, now_us=int(moment.timestamp() * 1e6))
        return set(answer.rows.tolist()), {row for row in answer.beside.ravel().tolist() if row >= 0}

    before, after = found(ENDS - timedelta(seconds=1)), found(ENDS)
    assert 1 in before[0] | before[1]
    assert 1 not in after[0] | after[1]
    assert 2 in after[1]

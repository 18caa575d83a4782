"""The plans of the hot statements, generic and custom, over many users: by the index that the SQL file names."""

import json
import re

import numpy as np
import pytest
import pytest_asyncio

from filter_world import read
from memfast.store.conditions import narrowed
from memfast.store.queries import ACCESS, ADMIN, FORGET, LINKS, OUTBOX, READ, REEMBED, WRITE

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCOPES, ROWS, DIMENSIONS = 40, 500, 8
SCOPE = "md5('7')::uuid"
IDS = "ARRAY[md5('7/3')::uuid, md5('7/70')::uuid, md5('none')::uuid]"
KEYS = "ARRAY['\\x03'::bytea, '\\x70', '\\xff']"
MEMORY = f"{SCOPE}, md5('7/3')::uuid"
VECTOR = "'[1,2,3,4,5,6,7,8]'::vector"
FIELDS = (
    "'text', 'fact', ARRAY['t'], ARRAY['e'], 0.5, '{}'::json, NULL, NULL, NULL, now(), now(), NULL, 7, NULL, NULL, NULL"
)
PAGE = f"{SCOPE}, now(), '2024-03-01', md5('7/3')::uuid, 21, 5"
NEAREST = f"{SCOPE}, 1, {VECTOR}, 26, now()"
FILTER = {
    "kind": {"in": ["fact", "event"]},
    "tags": "t",
    "importance": {"gte": 0.5},
    "created_at": {"lt": "2026-01-01T00:00:00Z"},
    "metadata.a.b": {"gt": 5},
    "OR": [{"source": None}, {"metadata.list": {"contains": "x"}}],
}
"""A condition of every kind of field."""


def literal(value):
    """A parameter as SQL, of no type until the text says one."""
    if isinstance(value, list):
        value = "{" + ",".join(json.dumps(str(each)) for each in value) + "}"
    return "'{}'".format(str(value).replace("'", "''"))


def narrowed_by(where, statement, arguments):
    """A statement with a filter, and its arguments."""
    own = statement.count("$") and max(int(number) for number in re.findall(r"\$(\d+)", statement))
    text, *values = narrowed(statement, read(where), *[None] * own)
    return text, ", ".join([arguments, *(literal(value) for value in values[own:])])


STATEMENTS = {
    "get_memories": (READ.get_memories, f"{SCOPE}, {IDS}, now()", None),  # generic: ten ids, as cheap by time
    "nearest": (
        READ.nearest,
        NEAREST,
        {"memory_vectors_pkey", "memories_pkey", "scopes_pkey"},
    ),
    "nearest_by_kind": (*narrowed_by({"kind": "fact"}, READ.nearest_where, NEAREST), None),
    "nearest_filtered": (*narrowed_by(FILTER, READ.nearest_where, NEAREST), None),
    "list_descending": (*narrowed_by(None, READ.list_descending, PAGE), {"memories_by_time", "scopes_pkey"}),
    "list_ascending": (*narrowed_by(None, READ.list_ascending, PAGE), {"memories_by_time", "scopes_pkey"}),
    "list_by_kind": (*narrowed_by({"kind": "x"}, READ.list_descending, PAGE), {"memories_by_time", "scopes_pkey"}),
    "list_filtered": (*narrowed_by(FILTER, READ.list_descending, PAGE), {"memories_by_time", "scopes_pkey"}),
    "matching": (
        *narrowed_by({"kind": "x"}, READ.matching, f"{SCOPE}, now(), md5('7/3')::uuid, 101, 9999"),
        {"memories_pkey", "scopes_pkey"},
    ),
    "count_memories": (*narrowed_by(None, READ.count_memories, f"{SCOPE}, now()"), None),
    "users": (READ.users, "'default', 'user 20', 21", {"scopes_names"}),
    "user": (READ.user, SCOPE, {"scopes_pkey"}),
    "scope_state": (READ.scope_state, f"{SCOPE}, 1", {"scopes_pkey"}),
    "load_scope": (READ.load_scope, f"{SCOPE}, 1", None),
    "changes_since": (
        READ.changes_since,
        f"{SCOPE}, 495, 1",
        {"memories_by_version", "memory_vectors_pkey", "scopes_pkey"},
    ),
    "raise_version": (
        WRITE.raise_version,
        f"{SCOPE}, 'default', 'user 7', 1, 1, 1, now(), now(), false",
        {"scopes_pkey"},
    ),
    "correct_count": (WRITE.correct_count, f"{SCOPE}, 1", {"scopes_pkey"}),
    "existing_memories": (WRITE.existing_memories, f"{SCOPE}, {IDS}", {"memories_pkey"}),
    "replace_memory": (WRITE.replace_memory, f"{MEMORY}, 9, {FIELDS}, true, now()", {"memories_pkey"}),
    "set_vector_expiry": (WRITE.set_vector_expiry, f"{SCOPE}, 1, md5('7/3')::uuid, now()", {"memory_vectors_pkey"}),
    "bury_memories": (
        WRITE.bury_memories,
        f"{SCOPE}, {IDS}, ARRAY[7, 8, 9], ARRAY['k', NULL, NULL], now(), 1, true",
        {"memories_pkey", "memory_vectors_pkey"},
    ),
    "same_texts": (WRITE.same_texts, f"{SCOPE}, ARRAY[70, 71]", {"memories_by_text"}),
    "hidden_memories": (WRITE.hidden_memories, f"{SCOPE}, {IDS}, 1", {"history_pkey"}),
    "expired_memories": (WRITE.expired_memories, f"{SCOPE}, now(), 200", {"memories_expiring"}),
    "erase_old_history": (
        WRITE.erase_old_history,
        f"{SCOPE}, '2024-03-01', 200",
        {"history_superseded", "history_pkey"},
    ),
    "erase_old_tombstones": (
        WRITE.erase_old_tombstones,
        f"{SCOPE}, '2024-03-01', 200",
        {"memories_deleted", "memories_pkey", "scopes_pkey"},
    ),
    "walk_expiring": (ADMIN.walk_expiring, f"{SCOPE}, now(), 1000", {"memories_expiring", "scopes_pkey"}),
    "walk_outdated": (ADMIN.walk_outdated, f"{SCOPE}, now(), 1000", None),
    "erase_history": (WRITE.erase_history, f"{SCOPE}, {IDS}", {"history_pkey", "idempotency_memories"}),
    "kept_answer": (READ.kept_answer, f"{SCOPE}, '\\x03', now()", {"idempotency_pkey"}),
    "kept_answers": (WRITE.kept_answers, f"{SCOPE}, {KEYS}, now()", {"idempotency_pkey"}),
    "erase_lapsed_keys": (
        WRITE.erase_lapsed_keys,
        f"{SCOPE}, now(), 200",
        {"idempotency_expiring", "idempotency_pkey"},
    ),
    "walk_lapsed": (ADMIN.walk_lapsed, f"{SCOPE}, now(), 1000", {"idempotency_expiring", "scopes_pkey"}),
    "memory_history": (
        READ.memory_history,
        f"{MEMORY}, 0, '2024-01-01', 21",
        {"history_pkey", "memories_pkey", "scopes_pkey"},
    ),
    "behind": (
        REEMBED.behind,
        f"2, {SCOPE}, 200, 256",
        {"scopes_pkey", "reembedded_pkey", "memories_by_version"},
    ),
    "put_new_vector": (REEMBED.put_vector, f"{MEMORY}, 3, 2, {VECTOR}", {"memories_by_version"}),
    "erase_vectors": (REEMBED.erase_vectors, f"1, {MEMORY}, 1000", {"memory_vectors_pkey"}),
    "related": (
        LINKS.related,
        f"{MEMORY}, now(), 4, 10, NULL, 0.0, 256, 500, true",
        {"links_from", "links_to", "memories_pkey", "scopes_pkey"},
    ),
    "standing": (LINKS.standing, SCOPE, {"scopes_pkey"}),
    "walked": (LINKS.walked, f"{SCOPE}, {IDS}, now()", {"memories_pkey", "scopes_pkey"}),
    "spread": (
        LINKS.spread,
        f"{SCOPE}, {IDS}, '{{0.9,0.5,0.1}}', now(), 4, 256, 500",
        {"links_from", "links_to", "memories_pkey", "scopes_pkey"},
    ),
    "automatic_links": (
        LINKS.automatic_links,
        f"{SCOPE}, {IDS}, 'similar_to', '{{}}', 500",
        None,
    ),
    "holders": (LINKS.holders, f"{SCOPE}, ARRAY['e', 'f'], now(), 51", None),
    "entities": (READ.entities, f"{SCOPE}, now(), '', 21", None),
    "links_page": (
        LINKS.list_links,
        f"{SCOPE}, now(), md5('7/3')::uuid, md5('7/3')::uuid, '', NULL, 21",
        None,
    ),
    "links_page_of": (
        LINKS.list_links_of,
        f"{SCOPE}, now(), md5('0')::uuid, md5('0')::uuid, '', NULL, 21, md5('7/3')::uuid",
        None,
    ),
    "existing_links": (LINKS.existing_links, f"{SCOPE}, {IDS}, {IDS}, ARRAY['x', 'y', 'z']", {"links_pkey"}),
    "drop_link": (LINKS.drop_link, f"{MEMORY}, md5('7/4')::uuid, 'x'", {"links_pkey"}),
    "sever_links": (LINKS.sever_links, f"{SCOPE}, {IDS}", None),
    "forget_scope": (FORGET.forget_scope, f"{SCOPE}, now()", {"scopes_pkey"}),
    "erase_memories": (FORGET.erase_memories, SCOPE, {"memories_by_version"}),
    "erase_memory_vectors": (FORGET.erase_memory_vectors, SCOPE, {"memory_vectors_pkey"}),
    "take_steps": (OUTBOX.take_steps, f"{SCOPE}, 50, 64, 200", None),
    "delete_steps": (OUTBOX.delete_steps, f"{IDS}, ARRAY[1, 2, 3]", {"outbox_pkey"}),
    "delete_loaded": (OUTBOX.delete_loaded, f"{SCOPE}, 9", {"outbox_pkey"}),
    "take_load": (OUTBOX.take_load, f"{SCOPE}, 16", {"outbox_loads"}),
    "scope_version": (OUTBOX.scope_version, SCOPE, {"scopes_pkey"}),
    "nodes": (OUTBOX.nodes, f"{MEMORY}, 1000", {"memories_pkey"}),
    "links": (OUTBOX.links, f"{MEMORY}, md5('7/4')::uuid, 'x', 1000", {"links_pkey"}),
    "ask_for_next_loads": (OUTBOX.ask_for_next_loads, "1, 200", {"scopes_pkey"}),
    "erase_outbox": (FORGET.erase_outbox, SCOPE, {"outbox_pkey"}),
    "record_access": (ACCESS.record_access, f"{SCOPE}, 1, now(), '\\x00'", {"scopes_pkey"}),
}
ALTERNATIVES = {
    "scopes_pkey",
    "memories_pkey",
    "memories_by_version",
    "memories_by_time",
    "memories_by_text",
    "memory_vectors_pkey",
    "access_stats_pkey",
    "history_pkey",
    "history_superseded",
    "memories_deleted",
    "memories_expiring",
    "idempotency_expiring",
    "idempotency_memories",
    "idempotency_pkey",
    "links_from",
    "links_pkey",
    "links_to",
    "outbox_loads",
    "outbox_pkey",
}


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


@pytest_asyncio.fixture(loop_scope="module")
async def filled(open_store, site):
    """A connection as the pool makes it, to a database of 3000 users, 40 of whom have 500 memories each."""
    async with open_store() as store, store._pool.connection() as connection:
        if not await connection.fetchval("SELECT count(*) FROM scopes"):
            for statement in (
                f"""INSERT INTO scopes (scope_id, namespace, user_id, generation, version, memories, created_at, updated_at)
                    SELECT md5(s::text)::uuid, 'default', 'user ' || s, 1, {ROWS}, {ROWS}, now(), now()
                    FROM generate_series(1, 3000) s""",
                f"""INSERT INTO memories (scope_id, id, version, text, kind, tags, entities, importance, metadata,
                                          created_at, updated_at, text_hash)
                    SELECT md5(s::text)::uuid, md5(s || '/' || m)::uuid, m, repeat('some text ', 20), 'fact', '{{t}}', '{{}}', 0.5, '{{}}',
                           timestamptz '2024-01-01' + m * interval '1 day', now(), m
                    FROM generate_series(1, {SCOPES}) s, generate_series(1, {ROWS}) m""",
                f"""INSERT INTO memory_vectors (scope_id, generation, id, embedding)
                    SELECT scope_id, 1, id, (SELECT array_agg(random()) FROM generate_series(1, {DIMENSIONS})
                                             WHERE scope_id IS NOT NULL)::vector
                    FROM memories""",
                """INSERT INTO history (scope_id, id, version, event, at, superseded_at, text, created_at, updated_at)
                   SELECT scope_id, id, 1000 + version, 'created', created_at, created_at, text, created_at, created_at
                   FROM memories""",
                """INSERT INTO idempotency (scope_id, key, request, memory_id, expires_at, answer)
                   SELECT scope_id, decode(md5(id::text), 'hex'), 'request', id, now() + (version - 50) * interval '1 min',
                          decode(repeat('00', 300), 'hex')
                   FROM memories""",
                """INSERT INTO links (scope_id, from_id, to_id, type, weight, directed, metadata, created_at, version)
                   SELECT m.scope_id, m.id, o.id, 'relates_to', random(), true, '{}', now(), m.version
                   FROM memories m JOIN memories o ON o.scope_id = m.scope_id
                        AND o.version BETWEEN m.version + 1 AND m.version + 3""",
                """INSERT INTO outbox (scope_id, version, base, changes)
                   SELECT scope_id, version, version - 1, ''::bytea FROM memories
                   UNION ALL SELECT scope_id, 0, 0, '' FROM scopes WHERE scope_id NOT IN (SELECT scope_id FROM memories)""",
                "ANALYZE scopes, memories, memory_vectors, history, idempotency, links, outbox",
            ):
                await connection.execute(statement)
        yield connection


async def plan_of(connection, statement, arguments, mode):
    """The nodes of a statement's plan, as dictionaries, but for the few rows of embedders."""
    await connection.execute(f"SET plan_cache_mode = {mode}; PREPARE probe AS {statement}")
    (text,) = await connection.fetchrow(f"EXPLAIN (FORMAT JSON) EXECUTE probe({arguments})")
    await connection.execute("DEALLOCATE probe; RESET plan_cache_mode")
    pending, nodes = [json.loads(bytes(text))[0]["Plan"]], []
    while pending:
        node = pending.pop()
        pending.extend(node.get("Plans", ()))
        if node.get("Relation Name") != "embedders":
            nodes.append(node)
    return nodes


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_hot_statement_uses_its_index(filled, name, mode):
    """No table is read from end to end, and the index is the one that the SQL file names."""
    statement, arguments, indexes = STATEMENTS[name]
    nodes = await plan_of(filled, statement, arguments, mode)
    scanned = [node for node in nodes if node["Node Type"] == "Seq Scan"]
    assert not [
        node
        for node in scanned
        if node["Relation Name"]
        in {"memories", "memory_vectors", "scopes", "history", "idempotency", "links", "outbox"}
    ]
    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    if indexes is None:
        assert used <= ALTERNATIVES
        assert len(used) >= (1 if name in {"count_memories", "holders"} else 2)  # those read a single table
    else:
        assert used == indexes
    conditions = [str(node.get("Index Cond", "")) for node in nodes if "Index Name" in node]
    assert all("scope_id" in each for each in conditions) or name in {"users", "behind"}
    if name.startswith("list"):
        assert not [node for node in nodes if "Sort" in node["Node Type"]]  # the index gives the order
    if name == "links_page":
        assert "links_pkey" in used


async def test_an_index_that_knows_distances_does_not_make_search_approximate(filled):
    """Somebody gives the column a length and an HNSW index: the plan and the answer stay as they were."""
    statement, arguments, indexes = STATEMENTS["nearest"]
    query = f"SET enable_sort = off; SET hnsw.ef_search = 1; PREPARE n AS {statement}"

    async def answer():
        await filled.execute(query)
        rows = await filled.fetch(f"EXECUTE n({arguments})")
        await filled.execute("DEALLOCATE n; RESET enable_sort; RESET hnsw.ef_search")
        return [row["id"] for row in rows]

    exact = await answer()
    assert len(exact) == 26
    await filled.execute(f"ALTER TABLE memory_vectors ALTER COLUMN embedding TYPE vector({DIMENSIONS})")
    await filled.execute(
        "CREATE INDEX hnsw ON memory_vectors USING hnsw (embedding vector_ip_ops) WITH (m = 4, ef_construction = 8)"
    )
    try:
        await filled.execute("ANALYZE memory_vectors")
        approximate = f"SELECT id FROM memory_vectors ORDER BY embedding <#> {VECTOR} LIMIT 5"
        nodes = json.loads(bytes((await filled.fetchrow(f"EXPLAIN (FORMAT JSON) {approximate}"))[0]))
        assert "hnsw" in json.dumps(nodes)  # the index is there and wanted by others
        for mode in ("force_generic_plan", "force_custom_plan"):
            nodes = await plan_of(filled, statement, arguments, mode)
            assert {node["Index Name"] for node in nodes if "Index Name" in node} == indexes
        assert await answer() == exact
    finally:
        await filled.execute("DROP INDEX hnsw")


async def test_nearest_is_the_same_as_a_comparison_with_every_vector(filled):
    """The candidates of one user, against NumPy."""
    statement, arguments, _ = STATEMENTS["nearest"]
    await filled.execute(f"PREPARE n AS {statement}")
    rows = await filled.fetch(f"EXECUTE n({arguments})")
    await filled.execute("DEALLOCATE n")
    everything = await filled.fetch(f"SELECT id, embedding::text FROM memory_vectors WHERE scope_id = {SCOPE}")
    query = np.arange(1, DIMENSIONS + 1, dtype=np.float32)
    scored = sorted((-float(np.float32(json.loads(row["embedding"])) @ query), row["id"]) for row in everything)
    assert {row["id"] for row in rows} == {memory_id for _, memory_id in scored[:26]}

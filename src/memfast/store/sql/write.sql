-- Statements of one write transaction. The rows of its scopes are locked first, in the order of their keys; they order
-- the writers of a scope. Each statement speaks of one scope, and is sent for all of a flush's scopes in one round trip.

-- name: raise_version
-- Raises the version by $5, expecting $6 more memories, and locks the row. Writes that may create the scope ($9) make
-- the row; for others it must be there and bear a name: else no row is the answer. One statement for both, because a
-- flush locks its scopes in the order of their keys. Where generation $4 is not the current one the row has none, which
-- is refused: the lock on the table, which comes before the snapshot, makes sure that it stays so until the COMMIT.
-- `noted` says whether a copy of the links is to be told; see outbox.sql.
INSERT INTO scopes AS s (scope_id, namespace, user_id, generation, version, memories, created_at, updated_at)
SELECT $1, $2, $3, (SELECT generation FROM embedders WHERE generation = $4 AND state = 'current'), $5, $6, $7, $8
WHERE $9 OR EXISTS (SELECT FROM scopes e WHERE e.scope_id = $1 AND e.user_id IS NOT NULL)
ON CONFLICT (scope_id) DO UPDATE SET
    version = s.version + EXCLUDED.version,
    memories = s.memories + EXCLUDED.memories,
    user_id = EXCLUDED.user_id,
    created_at = COALESCE(s.created_at, EXCLUDED.created_at),
    updated_at = EXCLUDED.updated_at
WHERE $9 OR s.user_id IS NOT NULL
RETURNING scope_id, version, pg_current_xact_id()::text AS transaction_id,
          (SELECT stats_reset FROM pg_stat_wal) AS server_life,
          (SELECT state = 'on' FROM projection) AS noted;

-- name: correct_count
-- Where a write turned out not to add or remove the memories that were expected.
UPDATE scopes SET memories = memories + $2 WHERE scope_id = $1;

-- name: existing_memories
-- Rows that changes speak of, as they are before them, tombstones included. The scope's lock keeps them so.
SELECT id, text, kind, tags, entities, importance, metadata, agent_id, run_id, source,
       created_at, updated_at, expires_at, version, deleted_at, scope_id
FROM memories WHERE scope_id = $1 AND id = ANY ($2);

-- name: same_texts
-- Rows that may say what changes ask for, by the texts' hashes, and those of which nobody has computed it yet.
-- Plan: memories_by_text.
SELECT id, text, kind, tags, entities, importance, metadata, agent_id, run_id, source,
       created_at, updated_at, expires_at, version, deleted_at, scope_id, text_hash
FROM memories WHERE scope_id = $1 AND deleted_at IS NULL AND (text_hash = ANY ($2) OR text_hash IS NULL);

-- name: set_text_hashes
UPDATE memories m SET text_hash = h.text_hash
FROM unnest($2::uuid[], $3::integer[]) AS h (id, text_hash)
WHERE m.scope_id = $1 AND m.id = h.id;

-- name: hidden_memories
-- What tombstones hide: the last thing that each memory said, with its vector if that is of generation $3.
-- Plan: history by primary key.
SELECT DISTINCT ON (id) id, text, kind, tags, entities, importance, metadata, agent_id, run_id, source,
       created_at, updated_at, expires_at, version, scope_id, CASE WHEN generation = $3 THEN embedding END
FROM history WHERE scope_id = $1 AND id = ANY ($2) AND text IS NOT NULL
ORDER BY id, version DESC;

-- name: insert_memory
-- A memory and its vector under an id that has no row yet.
WITH vector AS (
    INSERT INTO memory_vectors (scope_id, generation, id, expires_at, embedding) VALUES ($1, $20, $2, $15, $21)
)
INSERT INTO memories (scope_id, id, version, text, kind, tags, entities, importance, metadata, agent_id, run_id,
                      source, created_at, updated_at, expires_at, text_hash, actor, event, event_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19);

-- name: insert_tombstone
-- Of a memory that was made and deleted in one transaction.
INSERT INTO memories (scope_id, id, version, created_at, updated_at, deleted_at, actor)
VALUES ($1, $2, $3, $4, $4, $4, $5);

-- name: replace_memory
-- The row of a memory, whatever it was before. That enters history unless it was purged (NOT $20).
WITH passed AS (
    INSERT INTO history (scope_id, id, version, event, at, superseded_at, actor, text, kind, tags, entities, importance,
                         metadata, agent_id, run_id, source, created_at, updated_at, expires_at)
    SELECT scope_id, id, version, CASE WHEN deleted_at IS NULL THEN COALESCE(event, 'created') ELSE 'deleted' END,
           COALESCE(event_at, updated_at), $21, actor, text, kind, tags, entities, importance, metadata, agent_id,
           run_id, source, created_at, updated_at, expires_at
    FROM memories WHERE scope_id = $1 AND id = $2 AND $20
)
UPDATE memories SET
    version = $3, text = $4, kind = $5, tags = $6, entities = $7, importance = $8, metadata = $9, agent_id = $10,
    run_id = $11, source = $12, created_at = $13, updated_at = $14, expires_at = $15, text_hash = $16, actor = $17,
    event = $18, event_at = $19, deleted_at = NULL
WHERE scope_id = $1 AND id = $2;

-- name: put_vector
-- The vector of a memory, new or replaced.
INSERT INTO memory_vectors (scope_id, generation, id, expires_at, embedding)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (scope_id, generation, id) DO UPDATE SET
    expires_at = EXCLUDED.expires_at, embedding = EXCLUDED.embedding;

-- name: set_vector_expiry
UPDATE memory_vectors SET expires_at = $4 WHERE scope_id = $1 AND generation = $2 AND id = $3;

-- name: bury_memories
-- Leaves tombstones: id, version, times and actor, nothing that was said. That enters history, with its vector of
-- generation $6, unless it was purged (NOT $7).
WITH vectors AS (
    DELETE FROM memory_vectors
    WHERE scope_id = $1 AND generation = ANY (ARRAY (SELECT generation FROM embedders)) AND id = ANY ($2)
    RETURNING id, generation, embedding
), passed AS (
    INSERT INTO history (scope_id, id, version, event, at, superseded_at, actor, text, kind, tags, entities, importance,
                         metadata, agent_id, run_id, source, created_at, updated_at, expires_at, generation, embedding)
    SELECT m.scope_id, m.id, m.version, CASE WHEN m.deleted_at IS NULL THEN COALESCE(m.event, 'created') ELSE 'deleted' END,
           COALESCE(m.event_at, m.updated_at), $5, m.actor, m.text, m.kind, m.tags, m.entities, m.importance, m.metadata,
           m.agent_id, m.run_id, m.source, m.created_at, m.updated_at, m.expires_at, v.generation, v.embedding
    FROM memories m LEFT JOIN vectors v ON v.id = m.id AND v.generation = $6
    WHERE m.scope_id = $1 AND m.id = ANY ($2) AND $7
)
UPDATE memories m SET
    version = d.version, deleted_at = $5, updated_at = $5, actor = d.actor, event = NULL, event_at = NULL,
    text = NULL, kind = NULL, tags = NULL, entities = NULL, importance = NULL, metadata = NULL, agent_id = NULL,
    run_id = NULL, source = NULL, expires_at = NULL, text_hash = NULL
FROM unnest($2::uuid[], $3::bigint[], $4::text[]) AS d (id, version, actor)
WHERE m.scope_id = $1 AND m.id = d.id;

-- name: record_passed
-- A row that came and went within this transaction. $21 says that its vector (of generation $20) is to be kept; where
-- it brought none of its own ($22), it had the stored one.
INSERT INTO history (scope_id, id, version, event, at, superseded_at, actor, text, kind, tags, entities, importance,
                     metadata, agent_id, run_id, source, created_at, updated_at, expires_at, generation, embedding)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        CASE WHEN $21 THEN COALESCE($22, (
            SELECT embedding FROM memory_vectors WHERE scope_id = $1 AND generation = $20 AND id = $2
        )) END);

-- name: erase_history
-- And what answers showed of the memories; their keys stay taken.
-- Plan: history by primary key, idempotency_memories.
WITH answers AS (
    UPDATE idempotency SET request = NULL, answer = NULL WHERE scope_id = $1 AND memory_id = ANY ($2)
)
DELETE FROM history WHERE scope_id = $1 AND id = ANY ($2);

-- name: kept_answers
-- What is kept under keys. Those that are taken no longer become free.
-- Plan: idempotency by primary key.
WITH lapsed AS (
    DELETE FROM idempotency WHERE scope_id = $1 AND key = ANY ($2) AND expires_at <= $3
)
SELECT scope_id, key, request, answer FROM idempotency WHERE scope_id = $1 AND key = ANY ($2) AND expires_at > $3;

-- name: keep_answer
-- The scope's lock is held and the key was free: where another change of the transaction has it too, both fail.
INSERT INTO idempotency (scope_id, key, request, memory_id, expires_at, answer) VALUES ($1, $2, $3, $4, $5, $6);

-- name: expired_memories
-- Plan: memories_expiring.
SELECT id FROM memories WHERE scope_id = $1 AND expires_at <= $2 ORDER BY expires_at LIMIT $3;

-- name: lock_scope
SELECT FROM scopes WHERE scope_id = $1 FOR UPDATE;

-- name: erase_old_history
-- The $3 oldest rows that were superseded up to $2; returns how many.
-- Plan: history_superseded, history by primary key.
WITH old AS (
    SELECT id, version FROM history WHERE scope_id = $1 AND superseded_at <= $2 ORDER BY superseded_at LIMIT $3
), gone AS (
    DELETE FROM history h USING old WHERE h.scope_id = $1 AND h.id = old.id AND h.version = old.version RETURNING 1
)
SELECT count(*) FROM gone;

-- name: erase_old_tombstones
-- The $3 oldest of those up to $2; copies that may not have learned of them reload. Returns how many, or no row.
-- Plan: memories_deleted, memories by primary key.
WITH old AS (
    SELECT id FROM memories WHERE scope_id = $1 AND deleted_at <= $2 ORDER BY deleted_at LIMIT $3
), gone AS (
    DELETE FROM memories m USING old WHERE m.scope_id = $1 AND m.id = old.id RETURNING m.version
)
UPDATE scopes SET purged_to = GREATEST(purged_to, (SELECT max(version) FROM gone))
WHERE scope_id = $1 AND EXISTS (SELECT FROM gone)
RETURNING (SELECT count(*) FROM gone);

-- name: erase_lapsed_keys
-- The $3 that lapsed first of those up to $2; returns how many.
-- Plan: idempotency_expiring, idempotency by primary key.
WITH lapsed AS (
    SELECT key FROM idempotency WHERE scope_id = $1 AND expires_at <= $2 ORDER BY expires_at LIMIT $3
), gone AS (
    DELETE FROM idempotency i USING lapsed WHERE i.scope_id = $1 AND i.key = lapsed.key RETURNING 1
)
SELECT count(*) FROM gone;

-- name: vector_schema
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';

-- name: transaction_status
-- The fate of a transaction, and whether the server has not crashed since: after a crash, numbers of transactions that
-- never reached the disk are given out again. A crash resets the statistics, a clean restart keeps them.
SELECT pg_xact_status($1::text::xid8) AS status, (SELECT stats_reset FROM pg_stat_wal) IS NOT DISTINCT FROM $2 AS same_life;

-- name: touch_database
-- Health: a commit that really writes, and changes nothing.
UPDATE database SET singleton = singleton;

-- name: server_facts
-- What a server must be: new enough, with pgvector, writable, and durable.
SELECT current_setting('server_version_num')::int AS version_number,
       current_setting('server_version') AS server_version,
       current_setting('server_encoding') AS encoding,
       current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int AS connections,
       pg_is_in_recovery() AS replica,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector_installed,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS pgvector_available;

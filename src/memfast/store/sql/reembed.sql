-- Moving to another model: of all scopes, page by page, from one connection, beside a running service.

-- name: claim
-- One move at a time; let go with the connection.
SELECT pg_try_advisory_lock(7020427251365);

-- name: generations
SELECT generation, model, dimensions, state FROM embedders ORDER BY generation;

-- name: register
INSERT INTO embedders (generation, model, dimensions, state, settings)
SELECT max(generation) + 1, $1, $2, 'building', $3 FROM embedders
RETURNING generation;

-- name: change_settings
-- Of the generation that is built: its model is the same, its address may have changed.
UPDATE embedders SET settings = $2 WHERE generation = $1;

-- name: memories
SELECT COALESCE(sum(memories), 0)::bigint FROM scopes;

-- name: vectors
-- Plan: a scan of all vectors' keys.
SELECT count(*) FROM memory_vectors WHERE generation = $1;

-- name: behind
-- The next $4 memories without a vector of generation $1, or with one of before their last change, of the next $3 scopes
-- after $2; a row without a memory tells of a scope that has only come further. Text and versions are of one snapshot.
-- Forgotten scopes have nothing, not even that.
-- Plan: scopes and reembedded by primary key, memories_by_version.
SELECT s.scope_id, s.user_id, s.version AS scope_version, m.id, m.version, m.text
FROM (
    SELECT s.scope_id, s.user_id, s.version, COALESCE(r.version, 0) AS done
    FROM scopes s LEFT JOIN reembedded r ON r.scope_id = s.scope_id AND r.generation = $1
    WHERE s.scope_id > $2 AND s.version > COALESCE(r.version, 0) AND s.user_id IS NOT NULL
    ORDER BY s.scope_id LIMIT $3
) s
LEFT JOIN LATERAL (
    SELECT id, version, text FROM memories m
    WHERE m.scope_id = s.scope_id AND m.version > s.done AND m.deleted_at IS NULL
    ORDER BY m.version LIMIT $4
) m ON true
ORDER BY s.scope_id, m.version LIMIT $4;

-- name: put_vector
-- The vector of a memory that still is what was read; else a later page has it. Its scope is locked.
-- Plan: memories by primary key or memories_by_version.
INSERT INTO memory_vectors (scope_id, generation, id, expires_at, embedding)
SELECT scope_id, $4, id, expires_at, $5 FROM memories
WHERE scope_id = $1 AND id = $2 AND version = $3 AND deleted_at IS NULL
ON CONFLICT (scope_id, generation, id) DO UPDATE SET
    expires_at = EXCLUDED.expires_at, embedding = EXCLUDED.embedding;

-- name: note_progress
-- Unless the scope was forgotten meanwhile.
INSERT INTO reembedded AS r (scope_id, generation, version)
SELECT scope_id, $2, $3 FROM scopes WHERE scope_id = $1 AND user_id IS NOT NULL
ON CONFLICT (scope_id, generation) DO UPDATE SET version = EXCLUDED.version;

-- name: bound
-- What this transaction may wait and take, in milliseconds: it stops all writers, and a process that hangs must not.
SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $1, true),
       set_config('idle_in_transaction_session_timeout', $1, true);

-- name: stop_writers
-- Every write locks its scope's row first, some FOR UPDATE, which only this mode and the strictest wait for. Reads go on.
LOCK TABLE scopes IN EXCLUSIVE MODE;

-- name: retire
UPDATE embedders SET state = 'retired' WHERE state = 'current';

-- name: promote
UPDATE embedders SET state = 'current' WHERE generation = $1 AND state = 'building' RETURNING generation;

-- name: abort
UPDATE embedders SET state = 'aborted' WHERE state = 'building' RETURNING generation;

-- name: erase_vectors
-- The next $4 vectors of generation $1 after ($2, $3); returns the last one's key. What a writer deletes just now is
-- left to it: nobody waits for this, and this waits for nobody.
-- Plan: memory_vectors by primary key, then by place.
WITH old AS (
    SELECT ctid, scope_id, id FROM memory_vectors
    WHERE (scope_id, generation, id) > ($2, $1, $3) AND generation = $1
    ORDER BY scope_id, generation, id LIMIT $4 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM memory_vectors WHERE ctid = ANY (ARRAY (SELECT ctid FROM old))
)
SELECT scope_id, id FROM old ORDER BY scope_id, id;

-- name: erase_history_vectors
-- The same of what history keeps of deleted memories: an undelete makes the vector anew from the text.
-- Plan: history by primary key or a scan, since few rows keep a vector; then by place.
WITH old AS (
    SELECT ctid, scope_id, id, version FROM history
    WHERE (scope_id, id, version) > ($2, $3, $4) AND generation = $1
    ORDER BY scope_id, id, version LIMIT $5 FOR UPDATE SKIP LOCKED
), gone AS (
    UPDATE history SET generation = NULL, embedding = NULL WHERE ctid = ANY (ARRAY (SELECT ctid FROM old))
)
SELECT scope_id, id, version FROM old ORDER BY scope_id, id, version;

-- name: leftovers
-- Counted, not looked for: where nothing is left, the search for the first one would read every vector.
SELECT (SELECT count(*) FROM memory_vectors WHERE generation = $1)
     + (SELECT count(*) FROM history WHERE generation = $1);

-- name: erase_progress
DELETE FROM reembedded WHERE generation = $1;

-- name: erased
UPDATE embedders SET state = 'erased', settings = NULL WHERE generation = $1 AND state = 'retired';

-- name: withdrawn
DELETE FROM embedders WHERE generation = $1 AND state = 'aborted';

-- Reads of one scope. Each reads the scope's version in the same statement as the rows it labels. Wall time is a
-- parameter: an expired memory is gone at once, whatever the server's clock says. What reads vectors reads in the same
-- statement whether their generation is the current one: another may lack what was written since, or be half erased.

-- name: get_memories
-- Plan: primary key.
SELECT s.version AS scope_version, m.id, m.text, m.kind, m.tags, m.entities, m.importance, m.metadata, m.agent_id,
       m.run_id, m.source, m.created_at, m.updated_at, m.expires_at, m.version
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN memories m ON m.scope_id = $1 AND m.id = ANY ($2) AND m.deleted_at IS NULL
                    AND (m.expires_at IS NULL OR m.expires_at > $3);

-- name: nearest
-- The exact neighbours in one scope. LEAST keeps any index that knows distances out of the plan, for ever, and makes
-- ties of all that points away: their score is 0, and among equals the id decides. So it does among scores that are
-- equal when rounded, as the answer shows them.
-- Plan: memory_vectors by primary key, top-N sort, memories by primary key.
SELECT s.version AS scope_version, n.embedding, m.id, m.text, m.kind, m.tags, m.entities, m.importance, m.metadata,
       m.agent_id, m.run_id, m.source, m.created_at, m.updated_at, m.expires_at, m.version, s.current
FROM (
    SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version,
           (SELECT state = 'current' FROM embedders WHERE generation = $2) AS current
) s
LEFT JOIN (
    SELECT v.id, v.embedding FROM memory_vectors v
    WHERE v.scope_id = $1 AND v.generation = $2 AND (v.expires_at IS NULL OR v.expires_at > $5)
    ORDER BY round(LEAST(v.embedding <#> $3, 0) * 1e6), v.id
    LIMIT $4
) n ON true
LEFT JOIN memories m ON m.scope_id = $1 AND m.id = n.id
ORDER BY n.id;

-- name: nearest_where
-- The same among the memories that pass a filter, all of which are compared: where k pass, k are found.
-- Plan: memory_vectors and memories by an index that begins with the scope, top-N sort, memories by primary key.
SELECT s.version AS scope_version, n.embedding, m.id, m.text, m.kind, m.tags, m.entities, m.importance, m.metadata,
       m.agent_id, m.run_id, m.source, m.created_at, m.updated_at, m.expires_at, m.version, s.current
FROM (
    SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version,
           (SELECT state = 'current' FROM embedders WHERE generation = $2) AS current
) s
LEFT JOIN (
    SELECT v.id, v.embedding FROM memory_vectors v JOIN memories m ON m.scope_id = v.scope_id AND m.id = v.id
    WHERE v.scope_id = $1 AND v.generation = $2 AND (v.expires_at IS NULL OR v.expires_at > $5)
          AND m.scope_id = $1 AND m.deleted_at IS NULL AND {where}
    ORDER BY round(LEAST(v.embedding <#> $3, 0) * 1e6), v.id
    LIMIT $4
) n ON true
LEFT JOIN memories m ON m.scope_id = $1 AND m.id = n.id
ORDER BY n.id;

-- name: list_descending
-- A filter never chooses the plan: no index knows its fields.
-- Plan: memories_by_time backwards.
SELECT s.version AS scope_version, m.*
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN LATERAL (
    SELECT id, text, kind, tags, entities, importance, metadata, agent_id, run_id, source, created_at, updated_at,
           expires_at, version
    FROM memories m
    WHERE scope_id = $1 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
          AND (created_at, id) < ($3, $4) AND {where}
    ORDER BY created_at DESC, id DESC LIMIT $5 OFFSET $6
) m ON true;

-- name: list_ascending
-- Plan: memories_by_time.
SELECT s.version AS scope_version, m.*
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN LATERAL (
    SELECT id, text, kind, tags, entities, importance, metadata, agent_id, run_id, source, created_at, updated_at,
           expires_at, version
    FROM memories m
    WHERE scope_id = $1 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
          AND (created_at, id) > ($3, $4) AND {where}
    ORDER BY created_at, id LIMIT $5 OFFSET $6
) m ON true;

-- name: count_memories
-- How many live memories pass a filter, and when the first of them expires.
-- Plan: memories by primary key.
SELECT count(*), min(expires_at)
FROM memories m
WHERE scope_id = $1 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $2) AND {where};

-- name: matching
-- Ids and versions of live memories from $3 on that pass a filter, none of them changed after version $5.
-- Plan: memories by primary key.
SELECT s.version AS scope_version, m.id, m.version
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN LATERAL (
    SELECT id, version FROM memories m
    WHERE scope_id = $1 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
          AND id >= $3 AND version <= $5 AND {where}
    ORDER BY id LIMIT $4
) m ON true
ORDER BY m.id;

-- name: memory_history
-- What happened to a memory from version $3 on, oldest first: rows of history that history still keeps (superseded
-- after $4), then the present row. One statement, one snapshot: a row that moves from one to the other is seen once.
-- Plan: history and memories by primary key.
SELECT s.version AS scope_version, e.*
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN LATERAL (
    (SELECT version, event, at, actor, text FROM history
     WHERE scope_id = $1 AND id = $2 AND version >= $3 AND superseded_at > $4
     ORDER BY version LIMIT $5)
    UNION ALL
    (SELECT version, CASE WHEN deleted_at IS NULL THEN COALESCE(event, 'created') ELSE 'deleted' END,
            COALESCE(event_at, updated_at), actor, text
     FROM memories
     WHERE scope_id = $1 AND id = $2 AND version >= $3 AND (deleted_at IS NULL OR deleted_at > $4))
    ORDER BY version LIMIT $5
) e ON true
ORDER BY e.version;

-- name: entities
-- How many live memories have each entity, from the names after $3 on. No index knows entities: an index of their arrays
-- cannot begin with the user without an extension, and a row for each would cost every write. All that the user has is
-- read once, as for a filter.
-- Plan: memories by an index that begins with the scope.
SELECT s.version AS scope_version, e.entity, e.memories
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN (
    SELECT u.entity, count(*) AS memories
    FROM memories m CROSS JOIN LATERAL unnest(m.entities) AS u (entity)
    WHERE m.scope_id = $1 AND m.deleted_at IS NULL AND (m.expires_at IS NULL OR m.expires_at > $2) AND u.entity > $3
    GROUP BY u.entity ORDER BY u.entity LIMIT $4
) e ON true
ORDER BY e.entity;

-- name: users
-- Plan: scopes_names.
SELECT user_id, memories, version, created_at, updated_at FROM scopes
WHERE namespace = $1 AND user_id > $2
ORDER BY user_id LIMIT $3;

-- name: user
SELECT user_id, memories, version, created_at, updated_at FROM scopes
WHERE scope_id = $1 AND user_id IS NOT NULL;

-- name: scope_state
-- The version and the purge mark of a scope, for a load in the same snapshot, and whether generation $2 is current.
SELECT s.version, s.purged_to, e.current
FROM (SELECT (SELECT state = 'current' FROM embedders WHERE generation = $2) AS current) e
LEFT JOIN scopes s ON s.scope_id = $1;

-- name: load_scope
-- Every live memory with its vector, in order of id.
-- Plan: memories by primary key beside memory_vectors by primary key.
SELECT v.embedding, m.id, m.text, m.kind, m.tags, m.entities, m.importance, m.metadata, m.agent_id, m.run_id, m.source,
       m.created_at, m.updated_at, m.expires_at, m.version
FROM memories m JOIN memory_vectors v ON v.scope_id = m.scope_id AND v.generation = $2 AND v.id = m.id
WHERE m.scope_id = $1 AND m.deleted_at IS NULL
ORDER BY m.id;

-- name: changes_since
-- What happened after a version, tombstones included (they have no text).
-- Plan: memories_by_version, memory_vectors by primary key.
SELECT s.version AS scope_version, s.purged_to, v.embedding, m.id, m.text, m.kind, m.tags, m.entities, m.importance,
       m.metadata, m.agent_id, m.run_id, m.source, m.created_at, m.updated_at, m.expires_at, m.version, s.current
FROM (
    SELECT version, purged_to, (SELECT state = 'current' FROM embedders WHERE generation = $3) AS current
    FROM scopes WHERE scope_id = $1
) s
LEFT JOIN memories m ON m.scope_id = $1 AND m.version > $2
LEFT JOIN memory_vectors v ON v.scope_id = m.scope_id AND v.generation = $3 AND v.id = m.id;

-- name: kept_answer
-- Plan: idempotency by primary key.
SELECT request, answer FROM idempotency WHERE scope_id = $1 AND key = $2 AND expires_at > $3;

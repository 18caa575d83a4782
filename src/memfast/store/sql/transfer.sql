-- Export and import.

-- name: export_memories
-- A page of everything that a scope holds and that is not gone for its readers, in order of version, so that an import
-- can keep the versions: those that live at $5, and tombstones that history speaks of (deleted after $6).
-- Plan: memories_by_version, memory_vectors by primary key.
SELECT v.embedding, m.id, m.text, m.kind, m.tags, m.entities, m.importance, m.metadata, m.agent_id, m.run_id, m.source,
       m.created_at, m.updated_at, m.expires_at, m.version, m.event, m.event_at, m.actor
FROM memories m LEFT JOIN memory_vectors v ON v.scope_id = m.scope_id AND v.generation = $2 AND v.id = m.id
WHERE m.scope_id = $1 AND m.version > $3
      AND (m.expires_at IS NULL OR m.expires_at > $5) AND (m.deleted_at IS NULL OR m.deleted_at > $6)
ORDER BY m.version LIMIT $4;

-- name: export_history
-- What history keeps (superseded after $3) of the memories $2, in their order, oldest first, with the vectors of
-- generation $4.
-- Plan: history by primary key.
SELECT CASE WHEN h.generation = $4 THEN h.embedding END, h.id, h.text, h.kind, h.tags, h.entities, h.importance,
       h.metadata, h.agent_id, h.run_id, h.source, h.created_at, h.updated_at, h.expires_at, h.version, h.event, h.at,
       h.actor, h.superseded_at
FROM unnest($2::uuid[]) WITH ORDINALITY AS p (id, position)
JOIN history h ON h.scope_id = $1 AND h.id = p.id AND h.superseded_at > $3
ORDER BY p.position, h.version;

-- name: export_links
-- A page of the links of what lives at $5, in the order of their keys.
SELECT from_id, to_id, type, weight, directed, metadata, created_at, version FROM links l
WHERE scope_id = $1 AND (from_id, to_id, type) > ($2, $3, $4)
      AND NOT EXISTS (SELECT FROM memories m WHERE m.scope_id = $1 AND m.id = l.from_id AND m.expires_at <= $5)
      AND NOT EXISTS (SELECT FROM memories m WHERE m.scope_id = $1 AND m.id = l.to_id AND m.expires_at <= $5)
ORDER BY from_id, to_id, type LIMIT $6;

-- name: lock_scope
-- Locks the row of a scope that is to take memories in, made or named again where it must be. Its version stays. As with
-- `raise_version` a generation that is not the current one is refused.
INSERT INTO scopes AS s (scope_id, namespace, user_id, generation, version, memories, created_at, updated_at)
VALUES ($1, $2, $3, (SELECT generation FROM embedders WHERE generation = $4 AND state = 'current'), 0, 0, $5, $5)
ON CONFLICT (scope_id) DO UPDATE SET
    user_id = EXCLUDED.user_id, created_at = COALESCE(s.created_at, EXCLUDED.created_at)
RETURNING scope_id, version, pg_current_xact_id()::text AS transaction_id,
          (SELECT stats_reset FROM pg_stat_wal) AS server_life,
          (SELECT state = 'on' FROM projection) AS noted;

-- name: advance_scope
-- The version that the last memory taken in has, and how many more memories live.
UPDATE scopes SET version = $2, memories = memories + $3, updated_at = $4 WHERE scope_id = $1;

-- name: remembered
-- Those of the ids $2 that history speaks of.
SELECT DISTINCT scope_id, id FROM history WHERE scope_id = $1 AND id = ANY ($2);

-- name: add_tombstone
-- Of a memory that was deleted in another store.
INSERT INTO memories (scope_id, id, version, created_at, updated_at, deleted_at, actor)
VALUES ($1, $2, $3, $4, $5, $5, $6);

-- name: add_history
-- An event that history may know already.
INSERT INTO history (scope_id, id, version, event, at, superseded_at, actor, text, kind, tags, entities, importance,
                     metadata, agent_id, run_id, source, created_at, updated_at, expires_at, generation, embedding)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
ON CONFLICT (scope_id, id, version) DO NOTHING;

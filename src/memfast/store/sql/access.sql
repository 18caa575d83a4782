-- Access statistics: all of it in the background.

-- name: known_access
SELECT scope_id, queries FROM access_stats WHERE scope_id = ANY ($1);

-- name: record_access
-- Of a scope that bears a name: what is forgotten while this runs is not counted any more.
INSERT INTO access_stats AS a (scope_id, reads, last_at, queries)
SELECT s.scope_id, $2::bigint, $3::timestamptz, $4::bytea FROM scopes s
WHERE s.scope_id = $1 AND s.user_id IS NOT NULL FOR KEY SHARE OF s
ON CONFLICT (scope_id) DO UPDATE SET
    reads = a.reads + EXCLUDED.reads, last_at = EXCLUDED.last_at, queries = EXCLUDED.queries;

-- name: hottest
-- The most read scopes that still have memories. A scan of a small table, at start or on demand.
SELECT s.scope_id, s.namespace, s.user_id, s.memories, s.version, a.reads, a.queries
FROM access_stats a JOIN scopes s USING (scope_id)
WHERE s.user_id IS NOT NULL AND s.memories > 0
ORDER BY a.reads DESC, s.scope_id LIMIT $1;

-- name: every_scope
-- Every scope, the most read first, those never read last.
SELECT s.scope_id, s.namespace, s.user_id, s.memories, s.version, COALESCE(a.reads, 0) AS reads, a.queries
FROM scopes s LEFT JOIN access_stats a USING (scope_id)
WHERE s.user_id IS NOT NULL AND s.memories > 0
ORDER BY COALESCE(a.reads, 0) DESC, s.scope_id LIMIT $1;

-- name: named_scopes
SELECT s.scope_id, s.namespace, s.user_id, s.memories, s.version, COALESCE(a.reads, 0) AS reads, a.queries
FROM scopes s LEFT JOIN access_stats a USING (scope_id)
WHERE s.namespace = $1 AND s.user_id = ANY ($2);

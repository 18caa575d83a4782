-- Links of one scope. Wall time is a parameter: a link to a memory that has expired is gone at once.

-- name: existing_links
-- Those that changes speak of, as they are before them; $2, $3 and $4 are their keys. The scope's lock keeps them so.
-- Plan: links_pkey.
SELECT l.from_id, l.to_id, l.type, l.weight, l.directed, l.metadata, l.created_at, l.version, l.scope_id
FROM unnest($2::uuid[], $3::uuid[], $4::text[]) AS k (from_id, to_id, type)
CROSS JOIN LATERAL (
    SELECT * FROM links
    WHERE scope_id = $1 AND from_id = k.from_id AND to_id = k.to_id AND type = k.type
    LIMIT 1
) l;

-- name: sever_links
-- All links of memories that are no more.
-- Plan: links_from (or links_pkey), links_to.
DELETE FROM links WHERE scope_id = $1 AND (from_id = ANY ($2) OR to_id = ANY ($2));

-- name: drop_link
-- Plan: links_pkey.
DELETE FROM links WHERE scope_id = $1 AND from_id = $2 AND to_id = $3 AND type = $4;

-- name: put_link
INSERT INTO links (scope_id, from_id, to_id, type, weight, directed, metadata, created_at, version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (scope_id, from_id, to_id, type) DO UPDATE SET
    weight = EXCLUDED.weight, directed = EXCLUDED.directed, metadata = EXCLUDED.metadata,
    created_at = EXCLUDED.created_at, version = EXCLUDED.version;

-- name: list_links
-- A page in the order of the keys, without links of what has expired. With a type ($6) the others are passed over.
-- Plan: links_pkey, memories by primary key or memories_expiring.
SELECT s.version AS scope_version, true AS found, l.*
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN LATERAL (
    SELECT from_id, to_id, type, weight, directed, metadata, created_at, version FROM links l
    WHERE scope_id = $1 AND (from_id, to_id, type) > ($3, $4, $5) AND ($6::text IS NULL OR type = $6)
          AND NOT EXISTS (SELECT FROM memories m WHERE m.scope_id = $1 AND m.id = l.from_id AND m.expires_at <= $2)
          AND NOT EXISTS (SELECT FROM memories m WHERE m.scope_id = $1 AND m.id = l.to_id AND m.expires_at <= $2)
    ORDER BY from_id, to_id, type LIMIT $7
) l ON true;

-- name: list_links_of
-- Those of the memory $8, whichever end it is.
-- Plan: links_pkey or links_from, links_to, memories by primary key or memories_expiring.
SELECT s.version AS scope_version, s.found, l.*
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version,
             EXISTS (SELECT FROM memories WHERE scope_id = $1 AND id = $8 AND deleted_at IS NULL
                     AND (expires_at IS NULL OR expires_at > $2)) AS found) s
LEFT JOIN LATERAL (
    (SELECT from_id, to_id, type, weight, directed, metadata, created_at, version FROM links l
     WHERE scope_id = $1 AND from_id = $8 AND (from_id, to_id, type) > ($3, $4, $5)
           AND ($6::text IS NULL OR type = $6)
           AND NOT EXISTS (SELECT FROM memories m WHERE m.scope_id = $1 AND m.id = l.to_id AND m.expires_at <= $2)
     ORDER BY from_id, to_id, type LIMIT $7)
    UNION ALL
    (SELECT from_id, to_id, type, weight, directed, metadata, created_at, version FROM links l
     WHERE scope_id = $1 AND to_id = $8 AND (from_id, to_id, type) > ($3, $4, $5)
           AND ($6::text IS NULL OR type = $6)
           AND NOT EXISTS (SELECT FROM memories m WHERE m.scope_id = $1 AND m.id = l.from_id AND m.expires_at <= $2)
     ORDER BY from_id, to_id, type LIMIT $7)
    ORDER BY from_id, to_id, type LIMIT $7
) l ON s.found;

-- name: related
-- The memories around $2, breadth first, $4 links away at most: a row of `walk` is a level. It takes the $8 strongest
-- links of each memory in either direction, and keeps the $9 memories with the greatest weight, the product of the
-- links' weights on the best of the shortest paths. It goes no further than to find $5 memories. Without $10 only ids.
-- Plan: links_from, links_to, memories by primary key.
WITH RECURSIVE walk AS (
    SELECT 0 AS depth, ARRAY[id] AS ids, ARRAY[1::double precision] AS weights, ARRAY[id] AS seen, expires_at
    FROM memories
    WHERE scope_id = $1 AND id = $2 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $3)
    UNION ALL
    SELECT w.depth + 1, n.ids, n.weights, w.seen || n.ids, n.expires_at
    FROM walk w CROSS JOIN LATERAL (
        SELECT array_agg(b.id ORDER BY b.weight DESC, b.created_at DESC, b.id) AS ids,
               array_agg(b.weight ORDER BY b.weight DESC, b.created_at DESC, b.id) AS weights,
               min(b.expires_at) AS expires_at
        FROM (
            SELECT r.id, r.weight, m.created_at, m.expires_at
            FROM (
                SELECT e.id, max(f.weight * e.weight) AS weight
                FROM unnest(w.ids, w.weights) AS f (id, weight)
                CROSS JOIN LATERAL (
                    (SELECT to_id AS id, weight FROM links
                     WHERE scope_id = $1 AND from_id = f.id AND weight >= $7 AND ($6::text IS NULL OR type = $6)
                     ORDER BY weight DESC, to_id LIMIT $8)
                    UNION ALL
                    (SELECT from_id, weight FROM links
                     WHERE scope_id = $1 AND to_id = f.id AND NOT directed AND weight >= $7
                           AND ($6::text IS NULL OR type = $6)
                     ORDER BY weight DESC, from_id LIMIT $8)
                ) e
                WHERE NOT EXISTS (SELECT FROM unnest(w.seen) AS k (id) WHERE k.id = e.id)
                GROUP BY e.id
            ) r
            CROSS JOIN LATERAL (
                SELECT created_at, expires_at FROM memories
                WHERE scope_id = $1 AND id = r.id AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $3)
                LIMIT 1
            ) m
            ORDER BY r.weight DESC, m.created_at DESC, r.id LIMIT $9
        ) b
    ) n
    WHERE w.depth < $4 AND cardinality(w.seen) <= $5 AND n.ids IS NOT NULL
)
SELECT s.version AS scope_version, s.found, s.holds_until, r.depth, r.weight, r.id, m.text, m.kind, m.tags, m.entities,
       m.importance, m.metadata, m.agent_id, m.run_id, m.source, m.created_at, m.updated_at, m.expires_at, m.version
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version, EXISTS (SELECT FROM walk) AS found,
             (SELECT min(expires_at) FROM walk) AS holds_until) s
LEFT JOIN (
    SELECT w.depth, f.id, f.weight, f.place
    FROM walk w CROSS JOIN LATERAL unnest(w.ids, w.weights) WITH ORDINALITY AS f (id, weight, place)
    WHERE w.depth > 0
    ORDER BY w.depth, f.place LIMIT $5
) r ON true
LEFT JOIN LATERAL (SELECT * FROM memories WHERE $10::boolean AND scope_id = $1 AND id = r.id LIMIT 1) m ON true
ORDER BY r.depth, r.place;

-- name: walked
-- The memories $2 that somebody else has found, in this order, with what says whether he had seen all that is here.
-- Plan: memories by primary key.
SELECT s.version AS scope_version, s.lineage, m.id, m.text, m.kind, m.tags, m.entities, m.importance, m.metadata,
       m.agent_id, m.run_id, m.source, m.created_at, m.updated_at, m.expires_at, m.version
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version, (SELECT lineage FROM database) AS lineage) s
LEFT JOIN unnest($2::uuid[]) WITH ORDINALITY AS f (id, place) ON true
LEFT JOIN LATERAL (
    SELECT * FROM memories
    WHERE scope_id = $1 AND id = f.id AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $3)
    LIMIT 1
) m ON true
ORDER BY f.place;

-- name: standing
-- What says whether somebody else has seen all that is here.
SELECT (SELECT version FROM scopes WHERE scope_id = $1), (SELECT lineage FROM database);

-- name: spread
-- What arrives at memories around those of $2, which have the scores $3, over $5 links at most. A row of `walk` is a
-- step: the memories at which more arrived than before, with the start that it came from. It takes the $6 strongest
-- links of each memory in either direction, and keeps the $7 memories with the highest scores.
-- Plan: links_from, links_to, memories by primary key.
WITH RECURSIVE walk AS (
    SELECT 0 AS depth, array_agg(s.id) AS ids, array_agg(s.score) AS scores, array_agg(s.id) AS starts,
           array_agg(s.id) AS seen, array_agg(s.score) AS best
    FROM unnest($2::uuid[], $3::double precision[]) AS s (id, score)
    UNION ALL
    SELECT w.depth + 1, n.ids, n.scores, n.starts, w.seen || n.ids, w.best || n.scores
    FROM walk w CROSS JOIN LATERAL (
        SELECT array_agg(b.id) AS ids, array_agg(b.score) AS scores, array_agg(b.start) AS starts
        FROM (
            SELECT r.id, r.score, r.start
            FROM (
                SELECT DISTINCT ON (e.id) e.id, f.score * e.weight AS score, f.start
                FROM unnest(w.ids, w.scores, w.starts) AS f (id, score, start)
                CROSS JOIN LATERAL (
                    (SELECT to_id AS id, weight FROM links
                     WHERE scope_id = $1 AND from_id = f.id AND weight > 0
                     ORDER BY weight DESC, to_id LIMIT $6)
                    UNION ALL
                    (SELECT from_id, weight FROM links
                     WHERE scope_id = $1 AND to_id = f.id AND NOT directed AND weight > 0
                     ORDER BY weight DESC, from_id LIMIT $6)
                ) e
                ORDER BY e.id, f.score * e.weight DESC, f.start
            ) r
            WHERE NOT EXISTS (
                SELECT FROM unnest(w.seen, w.best) AS k (id, score) WHERE k.id = r.id AND k.score >= r.score
            ) AND EXISTS (
                SELECT FROM memories
                WHERE scope_id = $1 AND id = r.id AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $4)
            )
            ORDER BY r.score DESC, r.id LIMIT $7
        ) b
    ) n
    WHERE w.depth < $5 AND n.ids IS NOT NULL
)
SELECT s.version AS scope_version, r.id, r.score, r.start, r.depth
FROM (SELECT (SELECT version FROM scopes WHERE scope_id = $1) AS version) s
LEFT JOIN (
    SELECT DISTINCT ON (f.id) f.id, f.score, f.start, w.depth
    FROM walk w CROSS JOIN LATERAL unnest(w.ids, w.scores, w.starts) AS f (id, score, start)
    WHERE w.depth > 0
    ORDER BY f.id, f.score DESC
) r ON true;

-- name: automatic_links
-- Links of the type $3 from or to the memories $2 that have the metadata of links which nobody asked for.
-- Plan: links_from or links_pkey, links_to.
SELECT from_id, to_id, type FROM links
WHERE scope_id = $1 AND (from_id = ANY ($2) OR to_id = ANY ($2)) AND type = $3 AND metadata::text = $4
LIMIT $5;

-- name: holders
-- Of each of the entities $2 the newest $4 live memories that have it. No index knows entities: all that the user has is
-- read once, which is what a filter costs too.
-- Plan: memories by an index that begins with the scope.
SELECT r.entity, r.id, r.entities, r.created_at
FROM (
    SELECT e.entity, m.id, m.entities, m.created_at,
           row_number() OVER (PARTITION BY e.entity ORDER BY m.created_at DESC, m.id) AS place
    FROM memories m
    CROSS JOIN LATERAL (SELECT u.entity FROM unnest(m.entities) AS u (entity) WHERE u.entity = ANY ($2)) e
    WHERE m.scope_id = $1 AND m.deleted_at IS NULL AND (m.expires_at IS NULL OR m.expires_at > $3)
          AND m.entities && $2
) r
WHERE r.place <= $4
ORDER BY r.entity, r.place;

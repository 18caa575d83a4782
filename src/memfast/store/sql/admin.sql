-- The database about itself: schema, life, models, keys.

-- name: create_migrations_table
CREATE TABLE IF NOT EXISTS schema_migrations (
    applied_at timestamptz NOT NULL DEFAULT now(),
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL
);

-- name: lock_migrations
-- One migration at a time in this database; released at the end of the transaction.
SELECT pg_advisory_xact_lock(7020427251364);

-- name: migrations_applied
SELECT number, name, checksum FROM schema_migrations ORDER BY number;

-- name: migrations_table_exists
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: record_migration
INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3);

-- name: database_facts
-- Read by every worker twice a second: the life, the schema, whether the keys changed, whether copies are still wanted,
-- the generation of vectors that is current, and the versions of scopes.
SELECT d.lineage, d.keys_generation, d.copies_era, (SELECT max(number) FROM schema_migrations) AS schema,
       (SELECT generation FROM embedders WHERE state = 'current') AS generation,
       (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS wal, s.scope_ids, s.versions
FROM database d, (
    SELECT array_agg(scope_id) AS scope_ids, array_agg(version) AS versions FROM scopes WHERE scope_id = ANY ($1)
) s;

-- name: claim_sweep
-- Whoever moves the time forward makes the sweep. A time that lies ahead was a wrong clock's.
INSERT INTO sweeps AS s (name, at) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET at = EXCLUDED.at WHERE s.at <= $3 OR s.at > $2
RETURNING name;

-- name: walk_expiring
-- The next $3 scopes with memories that ever expire, and whether one has: a step of the index each, whatever lies
-- between.
-- Plan: memories_expiring.
WITH RECURSIVE walk AS (
    (SELECT scope_id, expires_at, 1 AS step FROM memories
     WHERE scope_id > $1 AND expires_at IS NOT NULL ORDER BY scope_id, expires_at LIMIT 1)
    UNION ALL
    SELECT n.scope_id, n.expires_at, w.step + 1
    FROM walk w CROSS JOIN LATERAL (
        SELECT scope_id, expires_at FROM memories
        WHERE scope_id > w.scope_id AND expires_at IS NOT NULL ORDER BY scope_id, expires_at LIMIT 1
    ) n
    WHERE w.step < $3
)
SELECT scope_id, s.namespace, s.user_id, w.expires_at <= $2 AS due
FROM walk w JOIN scopes s USING (scope_id) ORDER BY scope_id;

-- name: walk_outdated
-- The next $3 scopes with tombstones or history, and whether any of it is from before $2.
-- Plan: memories_deleted, history_superseded.
WITH RECURSIVE walk AS (
    SELECT n.scope_id, 1 AS step FROM (
        SELECT LEAST(
            (SELECT scope_id FROM memories WHERE scope_id > $1 AND deleted_at IS NOT NULL ORDER BY scope_id LIMIT 1),
            (SELECT scope_id FROM history WHERE scope_id > $1 ORDER BY scope_id LIMIT 1)
        ) AS scope_id
    ) n WHERE n.scope_id IS NOT NULL
    UNION ALL
    SELECT n.scope_id, w.step + 1
    FROM walk w CROSS JOIN LATERAL (
        SELECT LEAST(
            (SELECT scope_id FROM memories
             WHERE scope_id > w.scope_id AND deleted_at IS NOT NULL ORDER BY scope_id LIMIT 1),
            (SELECT scope_id FROM history WHERE scope_id > w.scope_id ORDER BY scope_id LIMIT 1)
        ) AS scope_id
    ) n
    WHERE w.step < $3 AND n.scope_id IS NOT NULL
)
SELECT scope_id, s.namespace, s.user_id,
       LEAST((SELECT min(m.deleted_at) FROM memories m WHERE m.scope_id = w.scope_id),
             (SELECT min(h.superseded_at) FROM history h WHERE h.scope_id = w.scope_id)) <= $2 AS due
FROM walk w JOIN scopes s USING (scope_id) ORDER BY scope_id;

-- name: walk_lapsed
-- The next $3 scopes with idempotency keys, and whether one of them is taken no longer.
-- Plan: idempotency_expiring.
WITH RECURSIVE walk AS (
    (SELECT scope_id, expires_at, 1 AS step FROM idempotency
     WHERE scope_id > $1 ORDER BY scope_id, expires_at LIMIT 1)
    UNION ALL
    SELECT n.scope_id, n.expires_at, w.step + 1
    FROM walk w CROSS JOIN LATERAL (
        SELECT scope_id, expires_at FROM idempotency
        WHERE scope_id > w.scope_id ORDER BY scope_id, expires_at LIMIT 1
    ) n
    WHERE w.step < $3
)
SELECT scope_id, s.namespace, s.user_id, w.expires_at <= $2 AS due
FROM walk w JOIN scopes s USING (scope_id) ORDER BY scope_id;

-- name: find_owners
-- Which users of a namespace have memories of these ids, or had them. No index leads from an id to its user: one step of
-- the primary key for every user, or everything is read (bench/micro/owners.py).
SELECT m.id, s.user_id, m.deleted_at IS NULL AS lives
FROM scopes s JOIN memories m ON m.scope_id = s.scope_id AND m.id = ANY ($2)
WHERE s.namespace = $1 AND s.user_id IS NOT NULL;

-- name: find_owner_within
-- The same of one scope ($3), by its primary key: what a worker has noted is never taken for true without this.
SELECT m.id, s.user_id, m.deleted_at IS NULL AS lives
FROM scopes s JOIN memories m ON m.scope_id = s.scope_id AND m.id = ANY ($2)
WHERE s.namespace = $1 AND s.user_id IS NOT NULL AND s.scope_id = $3;

-- name: database_secret
SELECT secret FROM database;

-- name: new_lineage
UPDATE database SET lineage = gen_random_uuid() RETURNING lineage;

-- name: begin_life
-- The same, once, however many workers notice that the old life ($1) is over.
UPDATE database SET lineage = gen_random_uuid() WHERE lineage = $1;

-- name: begin_era
UPDATE database SET copies_era = copies_era + 1 RETURNING copies_era;

-- name: raise_version
-- A scope's version without a change: copies of the version before, on every host and in Redis, are void. A copy of the
-- links is told a step without changes ($2).
WITH raised AS (
    UPDATE scopes SET version = version + 1 WHERE scope_id = $1 RETURNING version
), told AS (
    INSERT INTO outbox (scope_id, version, base, changes)
    SELECT $1, version, version - 1, $2 FROM raised WHERE (SELECT state = 'on' FROM projection)
)
SELECT version FROM raised;

-- name: server_life
-- A restored or replaced server has another system id, another timeline, or an older log.
SELECT s.system_identifier::text AS system, c.timeline_id AS timeline,
       (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS wal
FROM pg_control_system() s, pg_control_checkpoint() c;

-- name: current_embedder
SELECT generation, model, dimensions, settings FROM embedders WHERE state = 'current';

-- name: former_embedder
-- Whether the vectors here were made by a model before those of the one that they were moved to.
SELECT EXISTS (SELECT FROM embedders WHERE model = $1 AND dimensions = $2 AND state IN ('retired', 'erased'));

-- name: any_vector
SELECT EXISTS (SELECT FROM memory_vectors);

-- name: dismiss_embedder
UPDATE embedders SET state = 'erased', settings = NULL WHERE state = 'current';

-- name: add_embedder
INSERT INTO embedders (generation, model, dimensions, state)
SELECT COALESCE(max(generation), 0) + 1, $1, $2, 'current' FROM embedders;

-- name: find_key
SELECT id, namespace, user_id, role, created_at, revoked_at FROM api_keys WHERE digest = $1 AND revoked_at IS NULL;

-- name: create_key
WITH changed AS (UPDATE database SET keys_generation = keys_generation + 1)
INSERT INTO api_keys (id, digest, namespace, user_id, role, created_at) VALUES ($1, $2, $3, $4, $5, $6);

-- name: all_keys
SELECT id, namespace, user_id, role, created_at, revoked_at FROM api_keys ORDER BY created_at, id;

-- name: revoke_key
WITH changed AS (UPDATE database SET keys_generation = keys_generation + 1)
UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id;

-- name: known_start
SELECT start FROM starts WHERE service = $1;

-- name: record_start
INSERT INTO starts (service, start) VALUES ($1, $2)
ON CONFLICT (service) DO UPDATE SET start = EXCLUDED.start, started_at = now();

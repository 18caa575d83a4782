-- What a copy of the links elsewhere has still to be told, and whether there is such a copy.

-- name: put_step
INSERT INTO outbox (scope_id, version, base, changes, forgotten) VALUES ($1, $2, $3, $4, $5);

-- name: state
SELECT d.lineage, p.epoch, p.state, p.building FROM database d, projection p;

-- name: backlog
-- The same with how much waits, counted up to $1, and the age of what has waited longest, in seconds.
SELECT d.lineage, p.epoch, p.state, p.building, o.pending, o.oldest_s, o.loads
FROM database d, projection p, (
    SELECT count(*) AS pending, count(*) FILTER (WHERE version = 0) AS loads,
           EXTRACT(epoch FROM clock_timestamp() - min(at))::double precision AS oldest_s
    FROM (SELECT version, at FROM outbox LIMIT $1) counted
) o;

-- name: bound
-- What this transaction may wait and take, in milliseconds: it stops writers for a moment.
SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $1, true),
       set_config('idle_in_transaction_session_timeout', $1, true);

-- name: stop_writers
-- Every write locks its scope's row first. Those that began before this are over then, those that come after see what is
-- committed here: so none is left out of the copy.
LOCK TABLE scopes IN EXCLUSIVE MODE;

-- name: switch_on
UPDATE projection SET state = 'on', epoch = epoch + 1, building = true, changed_at = now(),
                      built_to = '00000000-0000-0000-0000-000000000000'
RETURNING epoch;

-- name: switch_off
-- To off or dropped ($1).
UPDATE projection SET state = $1, building = false, changed_at = now();

-- name: empty
-- The next $1 rows of a copy that there is not.
-- Plan: by place.
WITH gone AS (
    DELETE FROM outbox WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM outbox WHERE (SELECT state FROM projection) <> 'on' LIMIT $1
    )) RETURNING 1
)
SELECT count(*) FROM gone;

-- name: claim_building
-- One at a time begins a copy; let go at the end of the transaction, which may take long and does nothing else.
SELECT pg_try_advisory_xact_lock(7020427251366) AS claimed,
       set_config('idle_in_transaction_session_timeout', '0', true);

-- name: take_steps
-- The first steps, at most $2 a scope and $4 in all, of the next $3 scopes after $1 that need no loading and that nobody
-- else works on until the end of this transaction. A lock that another scope has too by chance costs only a turn.
-- Plan: outbox by primary key, outbox_loads.
WITH RECURSIVE walk AS (
    (SELECT scope_id, 1 AS step FROM outbox WHERE scope_id > $1 ORDER BY scope_id LIMIT 1)
    UNION ALL
    SELECT n.scope_id, w.step + 1
    FROM walk w CROSS JOIN LATERAL (
        SELECT scope_id FROM outbox WHERE scope_id > w.scope_id ORDER BY scope_id LIMIT 1
    ) n
    WHERE w.step < $3
), complete AS MATERIALIZED (
    SELECT scope_id FROM walk w
    WHERE NOT EXISTS (SELECT FROM outbox l WHERE l.scope_id = w.scope_id AND l.version = 0)
), free AS MATERIALIZED (
    SELECT scope_id FROM complete
    WHERE pg_try_advisory_xact_lock(hashtextextended(scope_id::text, 7020427251367))
)
SELECT w.scope_id, o.version, o.base, o.changes, o.forgotten,
       EXTRACT(epoch FROM clock_timestamp() - o.at)::double precision AS age_s
FROM walk w
LEFT JOIN free f ON f.scope_id = w.scope_id
LEFT JOIN LATERAL (
    SELECT version, base, changes, forgotten, at FROM outbox
    WHERE scope_id = f.scope_id ORDER BY version LIMIT $2
) o ON true
ORDER BY w.step, o.version LIMIT $4;

-- name: delete_steps
-- Steps that are applied: $1 and $2 are their keys.
-- Plan: outbox by primary key.
DELETE FROM outbox o USING unnest($1::uuid[], $2::bigint[]) AS k (scope_id, version)
WHERE o.scope_id = k.scope_id AND o.version = k.version;

-- name: delete_loaded
-- That a scope is to be loaded, and what was to be done to it up to the version ($2) that it was loaded with.
-- Plan: outbox by primary key.
DELETE FROM outbox WHERE scope_id = $1 AND version <= $2;

-- name: ask_for_load
-- Scopes of which the copy does not have what their next steps rely on.
INSERT INTO outbox (scope_id, version, base, changes) SELECT unnest($1::uuid[]), 0, 0, '' ON CONFLICT DO NOTHING;

-- name: ask_for_next_loads
-- The same of the next $2 scopes of the building $1; says whether there are more.
-- Plan: scopes by primary key.
WITH reached AS (
    SELECT built_to FROM projection WHERE epoch = $1 AND building AND state = 'on' FOR UPDATE SKIP LOCKED
), page AS (
    SELECT s.scope_id FROM reached CROSS JOIN LATERAL (
        SELECT scope_id FROM scopes WHERE scope_id > reached.built_to AND user_id IS NOT NULL
        ORDER BY scope_id LIMIT $2
    ) s
), asked AS (
    INSERT INTO outbox (scope_id, version, base, changes) SELECT scope_id, 0, 0, '' FROM page ON CONFLICT DO NOTHING
)
UPDATE projection SET built_to = COALESCE((SELECT scope_id FROM page ORDER BY scope_id DESC LIMIT 1), built_to),
                      building = (SELECT count(*) FROM page) = $2
WHERE EXISTS (SELECT FROM reached)
RETURNING building;

-- name: take_load
-- The next scope after $1 that is to be loaded and that nobody else works on until the end of this transaction.
-- Plan: outbox_loads.
SELECT scope_id, set_config('idle_in_transaction_session_timeout', '0', true)
FROM (SELECT scope_id FROM outbox WHERE version = 0 AND scope_id > $1 ORDER BY scope_id LIMIT $2) l
WHERE pg_try_advisory_xact_lock(hashtextextended(scope_id::text, 7020427251367))
LIMIT 1;

-- name: scope_version
SELECT version FROM scopes WHERE scope_id = $1;

-- name: nodes
-- A page of the memories of a scope, by id, expired ones included: time alone takes them away from readers.
-- Plan: memories by primary key.
SELECT id, created_at, expires_at FROM memories
WHERE scope_id = $1 AND id > $2 AND deleted_at IS NULL ORDER BY id LIMIT $3;

-- name: links
-- A page of its links, in the order of their keys.
-- Plan: links_pkey.
SELECT from_id, to_id, type, weight, directed, created_at FROM links
WHERE scope_id = $1 AND (from_id, to_id, type) > ($2, $3, $4) ORDER BY from_id, to_id, type LIMIT $5;

-- name: scopes
-- How many scopes there are to copy, and how many of them have not been told to be loaded yet.
SELECT count(*) AS total, count(*) FILTER (WHERE building AND scope_id > built_to) AS to_come
FROM scopes, projection WHERE user_id IS NOT NULL;

-- Forgetting a scope, in one transaction, and looking for what may be left of it.

-- name: lock_named
-- No row: there never was such a scope. FOR UPDATE also stops whoever holds FOR KEY SHARE: see record_access.
SELECT user_id IS NOT NULL AS named FROM scopes WHERE scope_id = $1 FOR UPDATE;

-- name: forget_scope
-- The row stays, nameless: its version must never start again. Copies below purged_to reload.
UPDATE scopes SET version = version + 1, purged_to = version + 1, memories = 0, user_id = NULL, created_at = NULL,
                  updated_at = $2
WHERE scope_id = $1
RETURNING version, pg_current_xact_id()::text AS transaction_id,
          (SELECT stats_reset FROM pg_stat_wal) AS server_life,
          (SELECT state = 'on' FROM projection) AS noted;

-- name: count_live
SELECT count(*) FROM memories WHERE scope_id = $1 AND deleted_at IS NULL;

-- name: erase_memories
-- Tombstones too.
DELETE FROM memories WHERE scope_id = $1;

-- name: erase_memory_vectors
DELETE FROM memory_vectors WHERE scope_id = $1;

-- name: erase_links
DELETE FROM links WHERE scope_id = $1;

-- name: erase_history
DELETE FROM history WHERE scope_id = $1;

-- name: erase_access_stats
DELETE FROM access_stats WHERE scope_id = $1;

-- name: erase_outbox
-- What a copy of the links was to be told, but that the scope is forgotten.
DELETE FROM outbox WHERE scope_id = $1 AND NOT forgotten;

-- name: erase_reembedded
DELETE FROM reembedded WHERE scope_id = $1;

-- name: erase_answers
-- Those that are kept under idempotency keys.
DELETE FROM idempotency WHERE scope_id = $1;

-- name: erase_revoked_keys
-- They open nothing any more, and name the user.
DELETE FROM api_keys WHERE namespace = $1 AND user_id = $2 AND revoked_at IS NOT NULL;

-- name: count_keys
SELECT count(*) FROM api_keys WHERE namespace = $1 AND user_id = $2;

-- name: forgotten
-- Those of some scopes that bear no name.
SELECT scope_id FROM scopes WHERE scope_id = ANY ($1) AND user_id IS NULL;

-- What is left of a scope: every table of every schema that is not PostgreSQL's own, whoever made it. These give a
-- question for each table, with the table's name from the catalog and no value in it.

-- name: questions_of_scope
-- Of the outbox without the order to erase the scope elsewhere.
SELECT c.relname AS name,
       format('SELECT count(*) FROM %s WHERE scope_id = $1', c.oid::regclass)
       || CASE WHEN c.relname = 'outbox' THEN ' AND NOT forgotten' ELSE '' END AS question
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'scope_id' AND NOT a.attisdropped
WHERE c.relkind = 'r' AND c.relname <> 'scopes'
      AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1;

-- name: questions_of_name
SELECT c.relname AS name,
       format('SELECT count(*) FROM %s WHERE namespace = $1 AND user_id = $2', c.oid::regclass) AS question
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'namespace' AND NOT a.attisdropped
JOIN pg_attribute b ON b.attrelid = c.oid AND b.attname = 'user_id' AND NOT b.attisdropped
WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1;

-- name: questions_of_text
-- How many rows say one of these, as the text that a row is written as.
SELECT c.relname AS name,
       format('SELECT count(*) FROM %s t WHERE EXISTS (SELECT FROM unnest($1::text[]) x WHERE strpos(t::text, x) > 0)',
              c.oid::regclass) AS question
FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1;

-- name: statistics_with
-- Samples of columns that say one of the texts ($1), or are the user's id ($2).
SELECT tablename || '.' || attname AS name
FROM pg_stats,
     LATERAL concat_ws(' ', most_common_vals::text, histogram_bounds::text, most_common_elems::text) AS samples
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
      AND (EXISTS (SELECT FROM unnest($1::text[]) x WHERE strpos(samples, x) > 0)
           OR attname = 'user_id' AND ($2 = ANY (most_common_vals::text::text[])
                                       OR $2 = ANY (histogram_bounds::text::text[])))
ORDER BY 1;

-- name: relation_files
-- Where each table, index and TOAST table lies, and to which table it belongs.
SELECT pg_relation_filepath(c.oid) AS path, c.relname AS name,
       COALESCE(i.indrelid, t.oid, c.oid)::regclass::text AS owner
FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.reltoastrelid = c.oid
WHERE pg_relation_filepath(c.oid) IS NOT NULL;

-- name: checkpoint
CHECKPOINT;

-- Rewriting everything, so that no file holds what was deleted.

-- name: now
SELECT clock_timestamp();

-- name: older_snapshots
-- Others that may still see what was deleted before $1: what they see, VACUUM keeps.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL AND xact_start < $1;

-- name: is_superuser
SELECT rolsuper FROM pg_roles WHERE rolname = current_user;

-- name: allow_catalogs
SET allow_system_table_mods = on;

-- name: forbid_catalogs
RESET allow_system_table_mods;

-- name: erase_statistics
-- ANALYZE leaves those of a table that became empty as they are.
DELETE FROM pg_statistic WHERE starelid IN (
    SELECT c.oid FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
);

-- name: analyze
ANALYZE;

-- name: rewrite
-- Tables, their TOAST, their indexes, and PostgreSQL's own: statistics are a table too.
VACUUM (FULL);

-- name: rewriting
SELECT relid::regclass::text AS name, heap_blks_scanned AS done, heap_blks_total AS total FROM pg_stat_progress_cluster
WHERE datname = current_database();

-- name: write_wal
-- Something that is written at once, so that a switch has something to end.
SELECT pg_logical_emit_message(true, 'memfast', '');

-- name: switch_wal
-- The rest of the segment is filled with zeros.
SELECT pg_switch_wal();

-- name: wal_segments
-- The segment that is written now, and the last that there is: those between are old ones that wait to be used again.
SELECT pg_walfile_name(pg_current_wal_insert_lsn()) AS present,
       (SELECT max(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$') AS last;

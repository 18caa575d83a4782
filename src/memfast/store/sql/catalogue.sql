-- What the database says of its indexes, its tables and its statements, for `memfast advise`. Nothing here reads a memory.

-- name: indexes
-- Every index of the schema's tables, and whether queries may use it.
SELECT c.relname::text AS name, t.relname::text AS of_table, i.indisvalid AND i.indisready AS valid
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
WHERE t.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_migrations'));

-- name: tables
-- Counters since pg_stat_reset. A scan of all of a table counts the rows that it came to read.
SELECT s.relname::text AS name, s.n_live_tup AS rows, s.seq_scan AS scans, s.seq_tup_read AS scanned_rows,
       COALESCE(s.idx_scan, 0) AS index_scans, s.n_mod_since_analyze AS changed_rows,
       EXTRACT(epoch FROM clock_timestamp() - s.last_seq_scan)::double precision AS scanned_s
FROM pg_stat_user_tables s
WHERE s.schemaname = (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('schema_migrations'))
ORDER BY s.relname;

-- name: statements_known
-- Whether pg_stat_statements is there and may be read.
SELECT COALESCE(has_table_privilege(to_regclass('pg_stat_statements'), 'SELECT'), false);

-- name: statements
-- The statements of this user in this database that took most time together; their values are not in them.
SELECT left(regexp_replace(query, '\s+', ' ', 'g'), 120) AS text, calls, mean_exec_time AS mean_ms,
       total_exec_time AS total_ms
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND userid = (SELECT oid FROM pg_roles WHERE rolname = current_user)
ORDER BY total_exec_time DESC LIMIT 50;

-- name: sessions
-- Sessions of the service that wait for a lock, and connections that can still be opened.
SELECT count(*) FILTER (WHERE application_name = 'memfast' AND wait_event_type = 'Lock') AS waiting,
       current_setting('max_connections')::integer - count(*) FILTER (WHERE backend_type = 'client backend') AS free
FROM pg_stat_activity;

-- name: rebuilding
-- The statement that makes an index anew beside its use. A name is no value, so it is quoted here.
SELECT format('REINDEX INDEX CONCURRENTLY %s', c.oid::regclass)
FROM pg_class c
WHERE c.relname = $1 AND c.relkind = 'i'
  AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_migrations'));

-- name: analysing
SELECT format('ANALYZE %s', c.oid::regclass)
FROM pg_class c
WHERE c.relname = $1 AND c.relkind = 'r'
  AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_migrations'));

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
          (SELECT stats_reset FROM pg_stat_wal) AS server_life;

-- name: count_live
SELECT count(*) FROM memories WHERE scope_id = $1 AND deleted_at IS NULL;

-- name: erase_memories
-- Tombstones too.
DELETE FROM memories WHERE scope_id = $1;

-- name: erase_memory_vectors
DELETE FROM memory_vectors WHERE scope_id = $1;

-- name: erase_history
DELETE FROM history WHERE scope_id = $1;

-- name: erase_access_stats
DELETE FROM access_stats WHERE scope_id = $1;

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

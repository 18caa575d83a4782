-- A scope's id follows from its names, so the primary key keeps the names unique too. A second unique index, which
-- ON CONFLICT (scope_id) does not watch, made first writes of one user at the same time fail on each other.
DROP INDEX scopes_names;
CREATE INDEX scopes_names ON scopes (namespace, user_id) WHERE user_id IS NOT NULL;

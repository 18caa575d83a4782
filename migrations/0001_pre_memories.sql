-- The store of record: scopes, their memories and vectors, the keys that reach them, and what the database is.
--
-- Every key begins with scope_id, the 128-bit name of (namespace, user_id): one scope's rows lie together in every
-- index, no plan can wander into another's, and the tables can be distributed by it as they are.
-- Columns stand widest alignment first (8, 4, variable, 1) so that rows carry no padding.

CREATE EXTENSION IF NOT EXISTS vector;

-- One row. `lineage` names this life of the database: a restore draws a new one, and every cursor, token and copy of
-- an older life is refused. `keys_generation` rises with each change of api_keys, 0 = no key was ever made.
CREATE TABLE database (
    keys_generation bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    lineage         uuid NOT NULL DEFAULT gen_random_uuid(),
    secret          bytea NOT NULL,
    singleton       boolean PRIMARY KEY DEFAULT true CHECK (singleton)
);
INSERT INTO database (secret)
VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- The models whose vectors lie here. A generation's vectors are comparable with each other and with nothing else.
CREATE TABLE embedders (
    created_at timestamptz NOT NULL DEFAULT now(),
    generation integer PRIMARY KEY,
    dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 16000),
    model      text COLLATE "C" NOT NULL
);

-- One row a user, updated by every write: fillfactor 50 and no index on what changes keep those updates in the page.
-- The row outlives a forgotten scope (user_id and created_at cleared), so that version never starts again.
CREATE TABLE scopes (
    version    bigint NOT NULL,
    purged_to  bigint NOT NULL DEFAULT 0,
    created_at timestamptz,
    updated_at timestamptz NOT NULL,
    scope_id   uuid PRIMARY KEY,
    memories   integer NOT NULL DEFAULT 0,
    generation integer NOT NULL REFERENCES embedders,
    namespace  text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C"
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX scopes_names ON scopes (namespace, user_id) WHERE user_id IS NOT NULL;

-- What was remembered. `version` is the scope's at the row's last change. A deleted memory stays as a tombstone:
-- id, version and deleted_at, with everything that it said set to NULL.
CREATE TABLE memories (
    version    bigint NOT NULL,
    importance double precision,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    expires_at timestamptz,
    deleted_at timestamptz,
    scope_id   uuid NOT NULL,
    id         uuid NOT NULL,
    text       text COLLATE "C",
    kind       text COLLATE "C",
    tags       text[] COLLATE "C",
    entities   text[] COLLATE "C",
    metadata   json,
    agent_id   text COLLATE "C",
    run_id     text COLLATE "C",
    source     text COLLATE "C",
    PRIMARY KEY (scope_id, id),
    CHECK ((deleted_at IS NULL) = (text IS NOT NULL))
);
-- Pages of a listing; tombstones are not listed.
CREATE INDEX memories_by_time ON memories (scope_id, created_at, id) WHERE deleted_at IS NULL;
-- What changed since a version, tombstones included.
CREATE INDEX memories_by_version ON memories (scope_id, version);

-- The vectors, apart and narrow: an exact search reads nothing else. PLAIN keeps them out of TOAST, which would make
-- the scan seven times slower; no length in the type, since generations may differ. Deliberately without an
-- approximate index: over vectors shared by many users it loses most of a user's neighbours.
CREATE TABLE memory_vectors (
    expires_at timestamptz,
    scope_id   uuid NOT NULL,
    id         uuid NOT NULL,
    generation integer NOT NULL,
    embedding  vector NOT NULL,
    PRIMARY KEY (scope_id, generation, id)
);
ALTER TABLE memory_vectors ALTER COLUMN embedding SET STORAGE PLAIN;

-- Keys by digest; the secret itself is shown once and never stored.
CREATE TABLE api_keys (
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    id         text COLLATE "C" PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,
    namespace  text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C",
    role       text COLLATE "C" NOT NULL CHECK (role IN ('user', 'admin'))
);

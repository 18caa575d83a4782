-- What memories said before, and what finds equal texts, expired memories and old tombstones.
--
-- A row of `memories` tells of its own last event: `event` (NULL: created, or by deleted_at deleted), `event_at` (NULL:
-- updated_at) and `actor` (the API key's id; NULL: none was asked for). So a create writes nothing here.
-- `text_hash` is the CRC-32 of the normalised text; NULL on rows of before, until a write asks for equal texts.
ALTER TABLE memories
    ADD COLUMN event_at  timestamptz,
    ADD COLUMN text_hash integer,
    ADD COLUMN event     text COLLATE "C" CHECK (event IN ('updated', 'undeleted')),
    ADD COLUMN actor     text COLLATE "C";
CREATE INDEX memories_by_text ON memories (scope_id, text_hash) WHERE deleted_at IS NULL;
-- For the sweeps. Few rows are in these, and a write of any other costs nothing for them.
CREATE INDEX memories_expiring ON memories (scope_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_deleted ON memories (scope_id, deleted_at) WHERE deleted_at IS NOT NULL;

-- Rows of `memories` as they were until `superseded_at`, tombstones included: written by the change that replaced them,
-- never updated, deleted after the retention. `at` is when `event` happened. The vector is kept of what was deleted.
CREATE TABLE history (
    version       bigint NOT NULL,
    importance    double precision,
    at            timestamptz NOT NULL,
    superseded_at timestamptz NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    expires_at    timestamptz,
    scope_id      uuid NOT NULL,
    id            uuid NOT NULL,
    generation    integer,
    event         text COLLATE "C" NOT NULL CHECK (event IN ('created', 'updated', 'deleted', 'undeleted')),
    actor         text COLLATE "C",
    text          text COLLATE "C",
    kind          text COLLATE "C",
    tags          text[] COLLATE "C",
    entities      text[] COLLATE "C",
    metadata      json,
    agent_id      text COLLATE "C",
    run_id        text COLLATE "C",
    source        text COLLATE "C",
    embedding     vector,
    PRIMARY KEY (scope_id, id, version),
    CHECK ((event = 'deleted') = (text IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX history_superseded ON history (scope_id, superseded_at);

-- When each sweep was last begun, or went on: whoever moves the time forward does it.
CREATE TABLE sweeps (
    at   timestamptz NOT NULL,
    name text COLLATE "C" PRIMARY KEY
);

-- What a copy of the links in another engine has still to be told. PostgreSQL is the truth; the copy may be late or lost.
--
-- One row says whether there is such a copy. `state`: off (none: writers write nothing), on, dropped (it was away for so
-- long that nothing is kept for it any more; it is built anew when it is back). `epoch` numbers the buildings of the
-- copy. While `building`, scopes up to `built_to` have been told to be loaded.
CREATE TABLE projection (
    epoch      bigint NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL DEFAULT now(),
    built_to   uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    state      text COLLATE "C" NOT NULL DEFAULT 'off' CHECK (state IN ('off', 'on', 'dropped')),
    building   boolean NOT NULL DEFAULT false,
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton)
);
INSERT INTO projection DEFAULT VALUES;

-- A step: what one transaction did to one scope, which had version `base` before and has `version` since. It is written
-- by that transaction under the lock on the scope's row, also where `changes` is empty, and deleted once it is applied.
-- Ids, times, types and weights stand in it, in msgpack. Version 0 says that the whole scope is to be loaded.
CREATE TABLE outbox (
    version   bigint NOT NULL,
    base      bigint NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    scope_id  uuid NOT NULL,
    changes   bytea NOT NULL,
    forgotten boolean NOT NULL DEFAULT false,
    PRIMARY KEY (scope_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX outbox_loads ON outbox (scope_id) WHERE version = 0;

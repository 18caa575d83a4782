-- Moving to another model beside a running service: a generation is built, becomes current in one transaction, and the
-- one before it is erased.
--
-- `state`: building (beside the current one), current (the one that is read and written), retired or aborted (its
-- vectors are being erased), erased. `settings` is what makes its vectors, without secrets; NULL where only the
-- configuration knows. The generations of before had no vectors when they were replaced.
ALTER TABLE embedders
    ADD COLUMN settings json,
    ADD COLUMN state    text COLLATE "C" NOT NULL DEFAULT 'erased'
        CHECK (state IN ('building', 'current', 'retired', 'aborted', 'erased'));
ALTER TABLE embedders ALTER COLUMN state DROP DEFAULT;
UPDATE embedders SET state = 'current' WHERE generation = (SELECT max(generation) FROM embedders);
CREATE UNIQUE INDEX embedders_in_use ON embedders (state) WHERE state IN ('building', 'current');

-- How far each scope is in a generation that is built: every memory up to this version has its vector there. One of a
-- higher version was written since, and is found by the index on (scope_id, version).
CREATE TABLE reembedded (
    version    bigint NOT NULL,
    scope_id   uuid NOT NULL,
    generation integer NOT NULL,
    PRIMARY KEY (scope_id, generation)
) WITH (fillfactor = 70);

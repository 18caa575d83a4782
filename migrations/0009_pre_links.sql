-- What memories have to do with each other. A row lives as long as both of its memories: whatever deletes, purges or
-- expires one of them deletes the row in the same transaction.
--
-- An undirected link has the lower id first, so that it is one row however it was sent. Between two memories there is
-- one undirected link of a type, or one in each direction; the lock on the scope's row keeps it so.
-- `version` is the scope's at the row's last change.
CREATE TABLE links (
    version    bigint NOT NULL,
    weight     double precision NOT NULL CHECK (weight BETWEEN 0 AND 1),
    created_at timestamptz NOT NULL,
    scope_id   uuid NOT NULL,
    from_id    uuid NOT NULL,
    to_id      uuid NOT NULL,
    type       text COLLATE "C" NOT NULL,
    metadata   json NOT NULL,
    directed   boolean NOT NULL,
    CHECK (from_id <> to_id AND (directed OR from_id < to_id))
);
-- A walk takes the strongest links of a memory, from either side, and reads no others.
CREATE INDEX links_from ON links (scope_id, from_id, weight DESC, to_id);
CREATE INDEX links_to ON links (scope_id, to_id, directed, weight DESC, from_id);
-- Made last: where memories have few links all three look as good for finding one link, the planner takes the newest,
-- and either of the others would read every link of one that has many.
ALTER TABLE links ADD PRIMARY KEY (scope_id, from_id, to_id, type);

-- Which start of each service (each data directory) was the last one. A service notes the same beside its copies: where
-- the two differ, the database is an older one than it left, and its copies are of a life that is over.
CREATE TABLE starts (
    started_at timestamptz NOT NULL DEFAULT now(),
    service    uuid PRIMARY KEY,
    start      uuid NOT NULL
);

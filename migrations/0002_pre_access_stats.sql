-- How often each scope is read and by which questions: what `memfast warm` and a starting worker load first.
-- Written in the background, a row a scope at most every few seconds; losing it costs nothing but warmth.
-- `queries` is msgpack: the most frequent questions with their counts.
CREATE TABLE access_stats (
    reads    bigint NOT NULL,
    last_at  timestamptz NOT NULL,
    scope_id uuid PRIMARY KEY,
    queries  bytea NOT NULL
) WITH (fillfactor = 70);

-- A user has many links and a memory several, whatever ANALYZE found: by the statistics of a moment when each had one,
-- the planner takes any index that begins with the scope for as good, and a walk reads all links of a user at each step.
-- Negative: distinct values for each row. Frequent values are known besides.
ALTER TABLE links
    ALTER COLUMN scope_id SET (n_distinct = -0.01),
    ALTER COLUMN from_id SET (n_distinct = -0.05),
    ALTER COLUMN to_id SET (n_distinct = -0.05);

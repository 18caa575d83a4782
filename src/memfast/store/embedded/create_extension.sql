-- Run once, in single-user mode, in the new database.
CREATE EXTENSION vector;


-- Run once, in single-user mode, by a database that nobody else sees yet.
CREATE DATABASE memfast;


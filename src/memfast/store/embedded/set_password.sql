-- Run in single-user mode; the placeholder is replaced by URL-safe random characters, which need no quoting.
ALTER ROLE memfast PASSWORD '{password}';


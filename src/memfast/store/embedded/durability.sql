-- What this connection really has, after postgresql.auto.conf, ALTER DATABASE and ALTER ROLE.
SELECT name, setting
  FROM pg_settings
 WHERE name IN ('data_checksums', 'fsync', 'full_page_writes', 'synchronous_commit');

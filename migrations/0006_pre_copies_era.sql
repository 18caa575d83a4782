-- Raised by whoever wants every copy of everything dropped, wherever it lies: services compare it with what they saw
-- last, and the names of what they share in Redis hold it.
ALTER TABLE database ADD COLUMN copies_era bigint NOT NULL DEFAULT 0;

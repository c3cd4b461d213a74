-- The tasks of an Idempotency-Key as JSON, whatever the layout of the body that brought them: the same
-- tasks sent again by a client that writes JSON otherwise are a repetition. A manager of an earlier version
-- compares bytes, and leaves it null.
alter table idempotency add column json_hash bytea;

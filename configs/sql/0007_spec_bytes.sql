-- How large a specification is need not be found out by reading it. A script of its own: its lock, which
-- keeps out readers too, is short.
alter table task add column spec_bytes int; -- null: of a row from before

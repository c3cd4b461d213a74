-- What people ask for by a filter, among millions of rows, has an index; how large a specification is
-- need not be found out by reading it. The indexes are built while writes wait, about a second for each
-- million of rows.
alter table task add column spec_bytes int; -- null: of a row from before
create index task_live on task (id) where state in (1, 2, 3);
create index task_type on task (job_type, id);

-- Safety is data: who holds a grant, for how long, and what a task takes (docs/protocol.md, Identity,
-- Leases). Columns with a constant default, so that no table is written anew.

-- The work directory of the worker that has the name.
alter table worker add column uuid uuid;

-- `worker_uuid` and `lease_ms` belong to the grant with the token `grant_token`. A manager of an earlier
-- version, which does not know them, grants without changing them: then they count for nothing.
alter table task add column worker_uuid uuid;
alter table task add column lease_ms bigint not null default 0;
alter table task add column grant_token bigint not null default 0;
-- Attempts that a node gave back because of a fault of its own; no failures of the task.
alter table task add column returns int not null default 0;
-- As asked for; 0: not asked.
alter table task add column cpus_milli int not null default 0;
alter table task add column memory_mb int not null default 0;

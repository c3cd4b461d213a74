-- Tasks accepted before there were columns for it ask for as much as their specification says: a worker
-- goes by that. Of those that have not ended, which have indexes; of the others nobody asks. It is no
-- event: the guard that asks for one (seq) is off meanwhile, and nobody else writes.
alter table task disable trigger task_seq;
update task
set cpus_milli = case when (spec #>> '{resources,cpus}')::float8 > 0
        then greatest(floor((spec #>> '{resources,cpus}')::float8 * 1000 + 0.5)::int, 1) else 0 end,
    memory_mb = coalesce((spec #>> '{resources,memoryMb}')::float8::int, 0)
where (state in (1, 2, 3) or state = 4) and cpus_milli = 0 and memory_mb = 0
  and spec #>> '{resources}' is not null;
alter table task enable trigger task_seq;

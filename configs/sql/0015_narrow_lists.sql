-- A task has one row version in each state, and each is in every index that has its state. What runs is
-- few and has an index: those for lists by job and by type leave it out. What has succeeded has one of
-- its own: it may be little beside a backlog. They are built while writes wait, about 3 s for each million
-- of rows; reads go on: what needs their lock comes last. A manager of an earlier version lists by job or
-- type slowly until it is replaced.
create index task_job_narrow on task (job_id, id) where job_id is not null and state <> 4;
create index task_type_narrow on task (job_type, id) where state <> 4;
create index task_succeeded on task (id) where state = 5;
-- What became ready again got its needs from its specification, whatever had accepted it: rows of this
-- version, which are known by their size, have theirs.
create trigger task_find_needs_of_old before update on task for each row
when (new.state = 2 and old.state <> 2 and new.cpus_milli = 0 and new.memory_mb = 0 and new.spec_bytes is null)
execute function sje_find_needs();
drop trigger task_find_needs on task;
drop index task_job;
alter index task_job_narrow rename to task_job;
drop index task_type;
alter index task_type_narrow rename to task_type;
alter trigger task_find_needs_of_old on task rename to task_find_needs;

-- A task has one row version in each state, and each is in every index that has its state. What runs is
-- few and has an index: those for lists by job and by type leave it out. They are built while writes wait,
-- about a second for each million of rows. A manager of an earlier version lists by job or type slowly
-- until it is replaced.
drop index task_job;
create index task_job on task (job_id, id) where job_id is not null and state <> 4;
drop index task_type;
create index task_type on task (job_type, id) where state <> 4;

-- What people ask for by a filter, among millions of rows, has an index. They are built while writes wait,
-- about a second for each million of rows; whoever reads goes on.
create index task_live on task (id) where state in (1, 2, 3);
create index task_type on task (job_type, id) where job_type is not null;

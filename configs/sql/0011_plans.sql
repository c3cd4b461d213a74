-- Plans that hold whatever the statistics say (the comment at write_sql() in store.c).

-- What runs is read in the order of its ids.
drop index task_running;
create index task_running on task (id) where state = 4;

-- As in 0002_retention: by `any` and subqueries of one row nothing but a look at each of `looked` is left.
create or replace function sje_forget_events(leads bigint, after uuid, before timestamptz, many int)
returns table (gone bigint, seen bigint, last text) language plpgsql as $$
begin
    perform set_config('sje.retention', 'on', true);
    return query with looked as materialized (select e.task_id from event e
        where e.task_id > after and e.task_id < sje_first_id(before) order by e.task_id limit many),
    old as materialized (select distinct l.task_id from looked l
        where (select count(*) from task t where t.id = l.task_id) = 0
        and (select count(*) from event e where e.task_id = l.task_id and e.at >= before) = 0),
    gone as (delete from event e using old where e.task_id = any(array[old.task_id])
        and exists (select 1 from leader where epoch = leads) returning 1)
    select (select count(*) from gone), (select count(*) from looked),
        (select l.task_id::text from looked l order by l.task_id desc limit 1);
    perform set_config('sje.retention', '', true);
end $$;

-- What is older than it has to be kept is removed in steps (docs/protocol.md, Retention).

-- A key goes with the first task that it stands for.
create index idempotency_first_task on idempotency ((tasks[1]));

-- No task that was submitted before that time has a higher id (UUIDv7).
create function sje_first_id(at timestamptz) returns uuid language sql stable as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Each looks at so many rows behind `after`, while the leader of that epoch leads. Nothing else may
-- delete from the audit.
create function sje_forget_events(leads bigint, after uuid, before timestamptz, many int)
returns table (gone bigint, seen bigint, last text) language plpgsql as $$
begin
    perform set_config('sje.retention', 'on', true);
    return query with looked as materialized (select e.task_id from event e
        where e.task_id > after and e.task_id < sje_first_id(before) order by e.task_id limit many),
    old as materialized (select distinct l.task_id from looked l
        where not exists (select 1 from task t where t.id = l.task_id)
        and not exists (select 1 from event e where e.task_id = l.task_id and e.at >= before)),
    gone as (delete from event e using old where e.task_id = old.task_id
        and exists (select 1 from leader where epoch = leads) returning 1)
    select (select count(*) from gone), (select count(*) from looked),
        (select l.task_id::text from looked l order by l.task_id desc limit 1);
    perform set_config('sje.retention', '', true);
end $$;
create function sje_forget_cluster_events(leads bigint, after bigint, before timestamptz, many int)
returns table (gone bigint, seen bigint, last text) language plpgsql as $$
begin
    perform set_config('sje.retention', 'on', true);
    return query with looked as materialized (select c.seq, c.at from cluster_event c
        where c.seq > after order by c.seq limit many),
    gone as (delete from cluster_event c using looked l where c.seq = l.seq and l.at < before
        and exists (select 1 from leader where epoch = leads) returning 1)
    select (select count(*) from gone), (select count(*) from looked where at < before),
        (select max(seq)::text from looked);
    perform set_config('sje.retention', '', true);
end $$;

-- The truth and the audit. States are numbers (docs/states.md); every change of a task raises its
-- seq by the number of events it writes, and event (task_id, seq) is unique: no gap, no branch.

create table task (
    id               uuid primary key,
    seq              int not null,
    state            smallint not null,
    attempt          int not null,
    failures         int not null,
    losses           int not null,
    requeues         int not null,
    stale            int not null,
    priority         smallint not null,
    max_attempts     int not null,
    backoff_s        int not null,
    slots            int not null,
    lease_s          int not null,
    queue_timeout_s  int not null,
    claim_beat       int not null,
    cancel_requested boolean not null,
    rank             bigint not null,
    incarnation      bigint not null,
    token            bigint not null,
    submitted_at     timestamptz not null,
    run_after        timestamptz not null,
    queue_deadline   timestamptz,
    started_at       timestamptz,
    finished_at      timestamptz,
    pool             text not null,
    job_type         text not null,
    job_id           text,
    worker_id        text,
    application_id   text,
    loss_signature   text,
    progress         json,
    output           json,
    error            json,
    spec             json not null
) with (fillfactor = 80);

create index task_ready on task (pool, rank, id) where state = 2;
create index task_scheduled on task (run_after) where state = 1;
create index task_queue_deadline on task (queue_deadline) where state in (1, 2, 3) and queue_deadline is not null;
create index task_fed on task (pool, rank, id) where state = 3;
create index task_running on task (worker_id) where state = 4;
create index task_job on task (job_id, id) where job_id is not null;
create index task_troubled on task (id) where state in (6, 7, 8);

create table event (
    task_id    uuid not null,
    seq        int not null,
    at         timestamptz not null,
    attempt    int not null,
    from_state smallint, -- null for the first
    to_state   smallint not null,
    event      text not null,
    worker_id  text,
    detail     json,
    primary key (task_id, seq)
);

-- An Idempotency-Key and the first answer to it.
create table idempotency (
    key        text primary key,
    body_hash  bytea not null,
    tasks      uuid[] not null,
    created_at timestamptz not null
);

-- The fence of the leader: whoever raised the epoch last. An advisory lock alone cannot stop a
-- manager that was paused; every statement of a leader names its epoch.
create table leader (
    one        boolean primary key default true check (one),
    epoch      bigint not null,
    manager_id text not null,
    since      timestamptz not null
);
insert into leader (epoch, manager_id, since) values (0, '', now());

create table pool (
    name       text primary key,
    paused     boolean not null,
    changed_at timestamptz not null
);

create table worker (
    id           text primary key,
    host         text not null,
    incarnation  bigint not null,
    state        text not null, -- UP, DRAINING, SUSPECT, DEAD, STOPPED
    draining     boolean not null,
    slots        int not null,
    last_seen_at timestamptz not null
);

-- The audit of the cluster itself: workers, leaders, settings.
create table cluster_event (
    seq        bigserial primary key,
    at         timestamptz not null,
    manager_id text not null,
    event      text not null,
    subject    text,
    detail     json
);
create index cluster_event_subject on cluster_event (subject, seq);

create function sje_refuse_move() returns trigger language plpgsql as $$
begin
    raise exception 'task %: state % to % (seq % to %) is not a legal move',
        old.id, old.state, new.state, old.seq, new.seq using errcode = 'check_violation';
end $$;

-- The legal moves, as generated from the transition table in pkg/task/step.h.
create trigger task_moves before update of state on task for each row
    when (old.state is distinct from new.state and not (
(old.state = 1 and new.state in (2, 6, 7)) or (old.state = 2 and new.state in (3, 4, 6, 7)) or (old.state = 3 and new.state in (2, 4, 6, 7)) or (old.state = 4 and new.state in (1, 5, 6, 7, 8)) or (old.state = 6 and new.state in (2)) or (old.state = 7 and new.state in (2)) or (old.state = 8 and new.state in (2))
    ))
    execute function sje_refuse_move();
-- No change without its event; no final task runs again but by a requeue.
create trigger task_seq before update on task for each row
    when (new.seq <= old.seq or (old.state in (6, 7, 8) and new.state = 2 and new.requeues <> old.requeues + 1))
    execute function sje_refuse_move();

create function sje_refuse_rewrite() returns trigger language plpgsql as $$
begin
    if current_setting('sje.retention', true) is distinct from 'on' or tg_op = 'UPDATE' then
        raise exception 'the audit is append-only' using errcode = 'check_violation';
    end if;
    return null;
end $$;
create trigger event_append_only before update or delete on event for each statement
    execute function sje_refuse_rewrite();
create trigger cluster_event_append_only before update or delete on cluster_event for each statement
    execute function sje_refuse_rewrite();

-- For people with psql.
create function sje_state(s smallint) returns text language sql immutable as $$
    select (array['SCHEDULED', 'READY', 'FED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'DEAD'])[s]
$$;
create view task_view as
    select id, sje_state(state) as state, attempt, job_type, job_id, pool, priority, submitted_at, started_at,
           finished_at, worker_id, application_id, error ->> 'message' as error
    from task;

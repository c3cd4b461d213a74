-- Tasks that a version before 0009 accepted, and that had ended or were accepted after it, have no needs
-- beside their specification. Whatever becomes ready again gets them.
create function sje_find_needs() returns trigger language plpgsql as $$
begin
    new.cpus_milli := case when (new.spec #>> '{resources,cpus}')::float8 > 0
        then greatest(floor((new.spec #>> '{resources,cpus}')::float8 * 1000 + 0.5)::int, 1) else 0 end;
    new.memory_mb := coalesce((new.spec #>> '{resources,memoryMb}')::float8::int, 0);
    return new;
end $$;
create trigger task_find_needs before update on task for each row
when (new.state = 2 and old.state <> 2 and new.cpus_milli = 0 and new.memory_mb = 0)
execute function sje_find_needs();

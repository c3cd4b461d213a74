-- What asks for CPUs or memory is read apart from what asks for slots only, of which there may be millions.
create index task_ready_scarce on task (pool, rank, id) where state = 2 and (cpus_milli > 0 or memory_mb > 0);

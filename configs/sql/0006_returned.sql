-- RUNNING to READY: a node gives back what it could not start (docs/protocol.md, Result). A change of
-- the guard alone: its lock is short, no row is read.
drop trigger task_moves on task;
-- The legal moves, as generated from the transition table in pkg/task/step.h.
create trigger task_moves before update of state on task for each row
    when (old.state is distinct from new.state and not (
(old.state = 1 and new.state in (2, 6, 7)) or (old.state = 2 and new.state in (3, 4, 6, 7)) or (old.state = 3 and new.state in (2, 4, 6, 7)) or (old.state = 4 and new.state in (1, 2, 5, 6, 7, 8)) or (old.state = 6 and new.state in (2)) or (old.state = 7 and new.state in (2)) or (old.state = 8 and new.state in (2))
    ))
    execute function sje_refuse_move();

-- What a worker says that it cannot do now: so the audit has a line where that begins and ends.
alter table worker add column hold_off text;

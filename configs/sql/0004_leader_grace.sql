-- So long after this epoch's end, in seconds, beats may still be answered by whoever led then or before
-- (docs/protocol.md, Leadership).
alter table leader add column grace_s int not null default 0;

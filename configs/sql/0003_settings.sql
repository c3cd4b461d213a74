-- Settings that were changed at run time, by section and key, for all managers (docs/protocol.md,
-- Orders of operators). The version goes up with each change.
create table setting (
    one        boolean primary key default true check (one),
    version    bigint not null,
    value      json not null,
    changed_at timestamptz not null
);
insert into setting (version, value, changed_at) values (0, '{}', now());

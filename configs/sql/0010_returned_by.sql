-- Which nodes gave a task back, so that it goes to the others.
alter table task add column returned_by text;

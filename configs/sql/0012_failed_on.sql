-- On which nodes attempts of a task failed, so that the next one goes to the others first.
alter table task add column failed_on text;

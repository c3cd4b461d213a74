/* view.h: tasks and events as JSON, appended to a buffer. All keys are always present. */
#ifndef SJE_API_VIEW_H
#define SJE_API_VIEW_H

#include "internal/buf.h"
#include "pkg/manager/manager.h"

/* `waiting` NULL: nothing keeps it from running. */
void view_task(struct buf *b, const struct task *t, const struct waiting_for *waiting);
void view_event(struct buf *b, const struct task_event_row *e);
/* {"taskId","jobId","state","href"}, and "replayed":true. */
void view_handle(struct buf *b, const struct id *id, const char *job_id, const char *state,
                 bool replayed);
/* {"kind","message","exitCode","signal"} or null. */
void view_error(struct buf *b, const char *error_json);

#endif

/* redact.h: what is not shown of settings and specifications: passwords, keys and tokens.
 *
 * By its name: all of the value. By its form: the password in a URL, and the value behind a name
 * that tells a secret, as in "AccountKey=…;" or "?password=…". Display only: what is stored and
 * what a task gets stays whole. It is better to hide too much than too little.
 */
#ifndef SJE_REDACT_H
#define SJE_REDACT_H

#include "internal/json.h"

#define REDACTED "***"

/* A variable, a key of conf, the name in front of a '='. */
bool redact_is_secret(struct str name);
/* Masks strings in place, in objects and arrays at any depth: members by their name, all by their
 * form. The member `except` of `j` stays as it is. True where something was masked. */
bool redact(json_t *j, const char *except);
/* The text without what its form tells to be a secret; NULL where there is nothing to hide; owned.
 */
char *redact_text(const char *text);

#endif

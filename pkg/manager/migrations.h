/* migrations.h: the scripts of configs/sql/, sorted by name, as tools/embed-sql.sh puts them into
 * the program. For db_migrate(). A script that was released is never changed; a change is a new
 * script. */
#ifndef SJE_MANAGER_MIGRATIONS_H
#define SJE_MANAGER_MIGRATIONS_H

#include "internal/db.h"

extern const struct db_migration sje_migrations[];
extern const size_t sje_migrations_count;

#endif

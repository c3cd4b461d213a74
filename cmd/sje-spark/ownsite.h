/* ownsite.h: the settings of a task's own SPARK_CONF_DIR. */
#ifndef SJE_SPARK_OWNSITE_H
#define SJE_SPARK_OWNSITE_H

/* Becomes spark-submit; returns an exit status where that fails. */
int own_site(int argc, char **argv);

#endif

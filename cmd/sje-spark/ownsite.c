/* sje-spark --own-site DIR SITE KEY... -- SPARK-SUBMIT ARGUMENT...
 *
 * A task that names a SPARK_CONF_DIR brings a site of its own. The attempt in DIR gets its settings
 * where the task may write: the site's come first, the weakest, and a KEY is a list: what the site
 * has of it comes in front of the worker's. Then this process becomes spark-submit. */
#include "cmd/sje-spark/ownsite.h"

#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkdeps.h"
#include "pkg/executors/sparkprops.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char list_separator(const char *key)
{
    for (size_t i = 0; i < SPARK_LISTS; i++) {
        if (streq(key, spark_lists[i].key)) {
            return spark_lists[i].sep;
        }
    }
    return ',';
}

static void add_list(struct buf *all, struct str site, struct str own, const char *key)
{
    char *first CLEANUP(freep) = spark_props_get(site, key);
    char *behind CLEANUP(freep) = spark_props_get(own, key);
    struct str before = str_trim(str_of(first));

    if (before.len && behind && *behind) {
        char *both CLEANUP(freep) =
            xasprintf("%.*s%c%s", (int)before.len, before.p, list_separator(key), behind);
        spark_props_add(all, key, both);
    }
}

static int complete(const char *dir, const char *site_dir, char **keys, size_t n,
                    struct err *reterr)
{
    struct buf all CLEANUP(buf_free) = {0};
    struct buf own CLEANUP(buf_free) = {0};

    buf_init(&all, SPARK_PROPERTIES_MAX);
    buf_init(&own, SPARK_PROPERTIES_MAX);
    spark_props_read(site_dir, &all);
    struct str site = {all.data ? all.data : "", all.len};
    char *site_text CLEANUP(freep) = xstrndup(site.p, site.len);
    int rc = shimdir_read_file(dir, SPARK_PROPERTIES, &own, reterr);
    if (rc < 0) {
        return rc;
    }
    buf_add(&all, own.data, own.len);
    for (size_t i = 0; i < n; i++) {
        add_list(&all, str_of(site_text), (struct str){own.data, own.len}, keys[i]);
    }
    if (all.failed) {
        return err_set(reterr, ERR_TOO_LARGE,
                       "the settings in SPARK_CONF_DIR %.150s are over %u bytes", site_dir,
                       SPARK_PROPERTIES_MAX);
    }
    char *out CLEANUP(freep) = shimdir_out(dir);
    return shimdir_write_file(out, SPARK_PROPERTIES, all.data, all.len, reterr);
}

int own_site(int argc, char **argv)
{
    struct err e = {0};
    int at = 4;

    while (at < argc && strcmp(argv[at], "--") != 0) {
        at++;
    }
    if (argc < 4 || at + 1 >= argc) {
        fprintf(stderr, "usage: sje-spark --own-site DIR SITE KEY... -- PROGRAM...\n");
        return 2;
    }
    if (complete(argv[2], argv[3], argv + 4, (size_t)at - 4, &e) < 0) {
        fprintf(stderr, "sje-spark: %s\n", e.text);
        return 1;
    }
    execv(argv[at + 1], argv + at + 1);
    fprintf(stderr, "sje-spark: %s: %s\n", argv[at + 1], strerror(errno));
    return 127;
}

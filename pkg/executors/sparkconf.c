#include "pkg/executors/sparkconf.h"

#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"
#include "pkg/executors/sparkwatch.h"

#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROPERTIES_MAX (4u << 20)

/* ---- the site's ---- */

static void site_read(const char *home, struct buf *b)
{
    const char *conf = getenv("SPARK_CONF_DIR");
    char *path CLEANUP(freep) = conf ? xasprintf("%s/spark-defaults.conf", conf)
                                     : xasprintf("%s/conf/spark-defaults.conf", home);
    FILE *f = fopen(path, "re");

    if (!f) {
        return;
    }
    char part[4096];
    size_t n;
    while ((n = fread(part, 1, sizeof(part), f)) > 0 && b->len < PROPERTIES_MAX / 2) {
        buf_add(b, part, n);
    }
    buf_addc(b, '\n');
    fclose(f);
}

/* "key value", "key=value" or "key: value"; the last counts. No escapes: nobody writes a name or a
 * path with them. */
static char *site_setting(const char *home, const char *key)
{
    struct buf b CLEANUP(buf_free) = {0};
    char *value = NULL;

    buf_init(&b, PROPERTIES_MAX);
    site_read(home, &b);
    struct str rest = {b.data, b.failed ? 0 : b.len};
    while (rest.len) {
        struct str line = str_trim(str_cut(rest, '\n', &rest));
        size_t n = strlen(key);

        if (str_starts(line, str_of(key)) && line.len > n && strchr(" \t=:", line.p[n])) {
            while (n < line.len && strchr(" \t=:", line.p[n])) {
                n++;
            }
            free(value);
            value = xstrndup(line.p + n, line.len - n);
        }
    }
    return value;
}

const char *spark_conf_of(const struct exec_node *node, const struct exec_attempt *a,
                          const char *key)
{
    const char *v = a->spec->conf ? json_get_string(a->spec->conf, key) : NULL;

    return v || !node->spark_conf ? v : json_get_string(node->spark_conf, key);
}

char *spark_setting(const struct exec_node *node, const struct exec_attempt *a, const char *home,
                    const char *key)
{
    const char *v = spark_conf_of(node, a, key);

    return v ? xstrdup(v) : site_setting(home, key);
}

/* ---- the properties file ---- */

/* Java's properties escape everything outside of printable ASCII, and what would end a key. */
static void add_escaped(struct buf *b, const char *s, bool key)
{
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        bool leading = p == (const unsigned char *)s;

        if (*p == '\n') {
            buf_adds(b, "\\n");
        } else if (*p == '\r') {
            buf_adds(b, "\\r");
        } else if (*p == '\t') {
            buf_adds(b, "\\t");
        } else if (*p == '\\' || *p == '=' || *p == ':' || *p == '#' || *p == '!' ||
                   (*p == ' ' && (key || leading))) {
            buf_addc(b, '\\');
            buf_addc(b, (char)*p);
        } else {
            buf_addc(b, (char)*p); /* spark-submit reads the file as UTF-8 */
        }
    }
}

static void add_property(struct buf *b, const char *key, const char *value)
{
    add_escaped(b, key, true);
    buf_addc(b, '=');
    add_escaped(b, value, false);
    buf_addc(b, '\n');
}

static void add_properties(struct buf *b, const json_t *obj)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        if (json_is_string(v)) {
            add_property(b, key, json_string_value(v));
        }
    }
}

static bool is_local(const char *master)
{
    return strncmp(master, "local", 5) == 0;
}

static void add_resources(struct buf *b, const struct task_spec *s, const char *master)
{
    char text[32];

    if (s->memory_mb > 0) {
        snprintf(text, sizeof(text), "%dm", s->memory_mb);
        add_property(b, is_local(master) ? "spark.driver.memory" : "spark.executor.memory", text);
    }
    if (s->cpus > 0 && !is_local(master)) {
        snprintf(text, sizeof(text), "%d", (int)ceil(s->cpus));
        add_property(b, "spark.cores.max", text);
    }
}

/* What the application is found again by, on every kind of cluster. */
static void add_tags(struct buf *b, const struct exec_attempt *a)
{
    char task[ID_TEXT_LEN];
    char tag[80];

    id_format(&a->task, task);
    snprintf(tag, sizeof(tag), "sje-%s-%d", task, a->attempt);
    add_property(b, "spark.sje.tag", tag);
    add_property(b, "spark.yarn.tags", tag);
    add_property(b, "spark.kubernetes.driver.label.sje-tag", tag);
    add_property(b, "spark.kubernetes.executor.label.sje-tag", tag);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* Free now; somebody may take it before the driver does, and then the driver takes the next one. */
static uint16_t free_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t n = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint16_t port = 0;

    if (fd >= 0) {
        if (bind(fd, (struct sockaddr *)&sa, n) == 0 &&
            getsockname(fd, (struct sockaddr *)&sa, &n) == 0) {
            port = ntohs(sa.sin_port);
        }
        close(fd);
    }
    return port;
}

/* Any port will do for a driver that tells where its UI is; sje-spark has to know the port of one
 * in the cluster. */
static void add_ui_port(struct buf *b, const char *master, const char *mode)
{
    char port[16];

    snprintf(port, sizeof(port), "%u", spark_cluster_wanted(master, mode) ? free_port() : 0);
    if (!streq(mode, "cluster") || spark_cluster_wanted(master, mode)) {
        add_property(b, "spark.ui.port", port);
    }
}

/* Behind what is set already. */
static void add_behind(struct buf *b, const char *key, const char *set, char sep, const char *more)
{
    char *all CLEANUP(freep) = set && *set ? xasprintf("%s%c%s", set, sep, more) : xstrdup(more);

    add_property(b, key, all);
}

static void add_listener(struct buf *b, const struct exec_node *node, const struct exec_attempt *a,
                         const char *home)
{
    static const char path_key[] = "spark.driver.extraClassPath";
    static const char list_key[] = "spark.extraListeners";
    char *jar CLEANUP(freep) =
        node->program_dir ? xasprintf("%s/" SPARK_LISTENER_JAR, node->program_dir) : NULL;

    if (!jar || access(jar, R_OK) < 0) {
        return;
    }
    char *path CLEANUP(freep) = spark_setting(node, a, home, path_key);
    char *list CLEANUP(freep) = spark_setting(node, a, home, list_key);
    char *out CLEANUP(freep) = shimdir_out(a->dir);
    char *file CLEANUP(freep) = xasprintf("%s/" SPARK_PROGRESS_FILE, out);
    add_behind(b, path_key, path, ':', jar);
    add_behind(b, list_key, list, ',', SPARK_LISTENER);
    add_property(b, "spark.sje.status", file);
}

/* Spark's place for packages is below the home that the password file names. */
static void add_ivy(struct buf *b, const struct exec_node *node, const struct exec_attempt *a)
{
    if (node->user && !*node->user->home) {
        char *ivy CLEANUP(freep) = xasprintf("%s/work/.ivy2", a->dir);
        add_property(b, "spark.jars.ivy", ivy);
    }
}

int spark_properties_write(const struct exec_node *node, const struct exec_attempt *a,
                           const char *home, const char *master, struct err *reterr)
{
    struct buf b CLEANUP(buf_free) = {0};
    char *mode CLEANUP(freep) = spark_setting(node, a, home, "spark.submit.deployMode");

    buf_init(&b, PROPERTIES_MAX);
    add_ivy(&b, node, a);
    /* --properties-file makes spark-submit ignore the site's defaults: they come first here. */
    site_read(home, &b);
    add_property(&b, "spark.app.name",
                 a->spec->job_id && *a->spec->job_id ? a->spec->job_id
                                                     : base_name(a->spec->app_path));
    add_property(&b, "spark.ui.showConsoleProgress", "false");
    add_ui_port(&b, master, mode);
    add_properties(&b, node->spark_conf);
    add_resources(&b, a->spec, master);
    add_properties(&b, a->spec->conf);
    add_tags(&b, a);
    if (!streq(mode, "cluster")) {
        add_listener(&b, node, a, home);
    }
    if (b.failed) {
        return err_set(reterr, ERR_TOO_LARGE, "conf is over the limit of %u bytes", PROPERTIES_MAX);
    }
    return shimdir_write_for(a->dir, "spark.properties", b.data, b.len, node->user, reterr);
}

/* Which jobTypes there are: built in, and one for each executable of the plug-in directory. */
#include "internal/str.h"
#include "pkg/executors/common.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLUGINS_MAX 200

static const struct executor *const built_in[] = {&executor_spark, &executor_command,
                                                  &executor_noop};
#define BUILT_IN ARRAY_LEN(built_in)

/* All that were ever seen, in the order of their names. */
static struct plugin {
    char *name;
    char *path; /* its links followed, as it was found last */
    bool there;
} * plugins;
static size_t n_plugins;
static const char *names[BUILT_IN + PLUGINS_MAX + 1];
/* Those that have gone too, as many as there is room for. */
static const char *known[BUILT_IN + 2 * PLUGINS_MAX + 1];

/* Letter first, then letters, digits, '.', '_', '-'; not a name that is taken. */
static bool good_name(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++) {
        bool letter = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z');
        bool other = (s[i] >= '0' && s[i] <= '9') || s[i] == '.' || s[i] == '_' || s[i] == '-';

        if (!letter && !(i && other)) {
            return false;
        }
    }
    for (size_t i = 0; i < BUILT_IN; i++) {
        if (str_ieq(str_of(s), str_of(built_in[i]->name))) {
            return false;
        }
    }
    return n > 0 && n <= 64;
}

static void build_names(void)
{
    size_t n = 0;

    for (size_t i = 0; i < BUILT_IN; i++) {
        names[n++] = built_in[i]->name;
    }
    for (size_t i = 0; i < n_plugins; i++) {
        if (plugins[i].there) {
            names[n++] = plugins[i].name;
        }
    }
    names[n] = NULL;
    memcpy(known, names, (n + 1) * sizeof(*names));
    for (size_t i = 0; i < n_plugins && n < ARRAY_LEN(known) - 1; i++) {
        if (!plugins[i].there) {
            known[n++] = plugins[i].name;
        }
    }
    known[n] = NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct plugin *)a)->name, ((const struct plugin *)b)->name);
}

static struct plugin *find_plugin(const char *name)
{
    for (size_t i = 0; i < n_plugins; i++) {
        if (streq(name, plugins[i].name)) {
            return &plugins[i];
        }
    }
    return NULL;
}

static struct plugin *add_plugin(const char *name)
{
    plugins = xrealloc(plugins, (n_plugins + 1) * sizeof(*plugins));
    plugins[n_plugins] = (struct plugin){.name = xstrdup(name)};
    return &plugins[n_plugins++];
}

struct executors_found {
    size_t n;
    struct {
        char *name;
        char *path;
    } list[PLUGINS_MAX];
};

static int scan(DIR *d, const char *dir, struct executors_found *ret, struct err *reterr)
{
    struct dirent *e;

    while ((e = readdir(d))) {
        struct stat st = {0};

        if (!good_name(e->d_name) || fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
            !S_ISREG(st.st_mode) || faccessat(dirfd(d), e->d_name, X_OK, 0) < 0) {
            continue;
        }
        if (ret->n == PLUGINS_MAX) {
            return err_set(reterr, ERR_CONFIG, "pluginDir %.150s has more than %d plug-ins", dir,
                           PLUGINS_MAX);
        }
        char *relative CLEANUP(freep) = xasprintf("%s/%s", dir, e->d_name);
        char *path = realpath(relative, NULL);
        if (path) {
            ret->list[ret->n].path = path;
            ret->list[ret->n++].name = xstrdup(e->d_name);
        }
    }
    return 0;
}

struct executors_found *executors_scan(const char *plugin_dir, struct err *reterr)
{
    struct executors_found *found = xcalloc(1, sizeof(*found));
    DIR *d = opendir(plugin_dir);

    if (d) {
        (void)!scan(d, plugin_dir, found, reterr);
        closedir(d);
    } else if (errno != ENOENT) {
        err_errno(reterr, ERR_CONFIG, errno, "pluginDir %.150s cannot be read", plugin_dir);
    }
    return found;
}

void executors_found_free(struct executors_found *f)
{
    for (size_t i = 0; f && i < f->n; i++) {
        free(f->list[i].name);
        free(f->list[i].path);
    }
    free(f);
}

void executors_take(const struct executors_found *f)
{
    for (size_t i = 0; i < n_plugins; i++) {
        plugins[i].there = false;
    }
    for (size_t i = 0; i < f->n; i++) {
        struct plugin *p = find_plugin(f->list[i].name);

        p = p ? p : add_plugin(f->list[i].name);
        p->there = true;
        str_replace_owned(&p->path, f->list[i].path);
    }
    if (n_plugins) {
        qsort(plugins, n_plugins, sizeof(plugins[0]), by_name);
    }
    build_names();
}

int executors_init(const char *plugin_dir, struct err *reterr)
{
    executors_done();
    return executors_look(plugin_dir, reterr);
}

int executors_look(const char *plugin_dir, struct err *reterr)
{
    struct err why = {0};
    struct executors_found *found = executors_scan(plugin_dir, &why);

    executors_take(found);
    executors_found_free(found);
    return why.code ? err_set(reterr, why.code, "%s", why.text) : 0;
}

void executors_done(void)
{
    while (n_plugins) {
        free(plugins[--n_plugins].name);
        free(plugins[n_plugins].path);
    }
    free(plugins);
    plugins = NULL;
    build_names();
}

const char *const *executor_names(void)
{
    return names;
}

const char *const *executor_names_known(void)
{
    return known;
}

bool executor_is_plugin(const char *name)
{
    return find_plugin(name) != NULL;
}

const char *executor_plugin_path(const char *name)
{
    const struct plugin *p = find_plugin(name);

    return p && p->there ? p->path : NULL;
}

const struct executor *executor_find(const char *name)
{
    for (size_t i = 0; i < BUILT_IN; i++) {
        if (streq(name, built_in[i]->name)) {
            return built_in[i];
        }
    }
    return find_plugin(name) ? &executor_plugin : NULL;
}

const struct executor *executor_find_past(const char *name)
{
    const struct executor *x = executor_find(name);

    return x ? x : &executor_plugin;
}

int executor_able(const struct exec_node *node, const char *name, struct err *reterr)
{
    const struct executor *x = executor_find(name);
    const struct plugin *p = find_plugin(name);

    if (!x || (p && !p->there)) {
        return err_set(reterr, ERR_NOT_FOUND, "this node has no executor for jobType %.128s", name);
    }
    return executor_look(node, name, p ? p->path : NULL, reterr);
}

int executor_look(const struct exec_node *node, const char *name, const char *program,
                  struct err *reterr)
{
    size_t i = 0;

    if (program) {
        return exec_plugin_able(node, program, reterr);
    }
    while (i < BUILT_IN && !streq(name, built_in[i]->name)) {
        i++;
    }
    return i < BUILT_IN && built_in[i]->able ? built_in[i]->able(node, reterr) : 0;
}

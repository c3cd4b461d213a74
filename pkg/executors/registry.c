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

static char *plugins[PLUGINS_MAX];
static size_t n_plugins;
static const char *names[BUILT_IN + PLUGINS_MAX + 1];

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
        names[n++] = plugins[i];
    }
    names[n] = NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int scan(DIR *d, const char *dir, struct err *reterr)
{
    struct dirent *e;

    while ((e = readdir(d))) {
        struct stat st = {0};

        if (!good_name(e->d_name) || fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
            !S_ISREG(st.st_mode) || faccessat(dirfd(d), e->d_name, X_OK, 0) < 0) {
            continue;
        }
        if (n_plugins == PLUGINS_MAX) {
            return err_set(reterr, ERR_CONFIG, "pluginDir %.150s has more than %d plug-ins", dir,
                           PLUGINS_MAX);
        }
        plugins[n_plugins++] = xstrdup(e->d_name);
    }
    qsort(plugins, n_plugins, sizeof(plugins[0]), by_name);
    return 0;
}

int executors_init(const char *plugin_dir, struct err *reterr)
{
    int rc = 0;

    executors_done();
    DIR *d = opendir(plugin_dir);
    if (d) {
        rc = scan(d, plugin_dir, reterr);
        closedir(d);
    } else if (errno != ENOENT) {
        rc = err_errno(reterr, ERR_CONFIG, errno, "pluginDir %.150s cannot be read", plugin_dir);
    }
    build_names();
    return rc;
}

void executors_done(void)
{
    while (n_plugins) {
        free(plugins[--n_plugins]);
        plugins[n_plugins] = NULL;
    }
    build_names();
}

const char *const *executor_names(void)
{
    return names;
}

const struct executor *executor_find(const char *name)
{
    for (size_t i = 0; i < BUILT_IN; i++) {
        if (streq(name, built_in[i]->name)) {
            return built_in[i];
        }
    }
    for (size_t i = 0; i < n_plugins; i++) {
        if (streq(name, plugins[i])) {
            return &executor_plugin;
        }
    }
    return NULL;
}

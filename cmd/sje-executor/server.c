#include "cmd/sje-executor/server.h"

#include "api/api.h"
#include "cmd/sje-executor/plugins.h"
#include "cmd/sje-executor/preflight.h"
#include "internal/log.h"
#include "internal/loop.h"
#include "internal/metrics.h"
#include "internal/sdnotify.h"
#include "internal/self.h"
#include "pkg/executors/executor.h"
#include "pkg/manager/manager.h"
#include "pkg/worker/worker.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LAST_MS 2000

static const int handled_signals[] = {SIGTERM, SIGINT, SIGHUP};

struct server {
    const struct server_options *options;
    uv_loop_t loop;
    struct config *boot;   /* the parts may hold on to its strings: lives to the end */
    struct config *base;   /* of file and environment */
    json_t *settings;      /* changed at run time, for all managers: over those; NULL: none */
    struct config *config; /* in force */
    struct task_types types;
    struct manager *manager;
    struct api *api;
    struct worker *worker;
    uv_signal_t signals[ARRAY_LEN(handled_signals)];
    struct loop_watch watch;
    uv_timer_t last; /* runs from when all parts have stopped */
    bool stopping;
    bool stop_tasks;
};

/* ---- configuration ---- */

int server_config(const struct server_options *o, struct config **ret, struct err *reterr)
{
    struct config *c CLEANUP(config_freep) = NULL;
    int rc = config_load(o->config_path, &c, reterr);

    if (rc == 0 && o->roles) {
        rc = config_override(c, "--role", "executorNodeConfig.roles", o->roles, reterr);
    }
    rc = rc < 0 ? rc : config_check(c, reterr);
    if (rc == 0) {
        *ret = STEAL(c);
    }
    return rc;
}

static void use_log(const struct config *c)
{
    enum log_level level = LOG_INFO;

    MUST(log_level_parse(c->monitoring.log_level, &level));
    log_setup(level, streq(c->monitoring.log_format, "json") ? LOG_JSON : LOG_LOGFMT, "executor");
}

/* Takes over `base`; the settings of the cluster go over it. */
static void use_config(struct server *s, struct config *base)
{
    struct config *old_base = s->base;
    struct config *old = s->config;
    struct buf skipped CLEANUP(buf_free);

    buf_init(&skipped, 4096);
    struct config *c = s->settings ? config_overlay(base, s->settings, &skipped) : base;
    if (skipped.len) {
        log_error(NULL, "of what was changed at run time this is not used: %s", skipped.data);
    }
    s->base = base;
    s->config = c;
    use_log(c);
    if (s->manager) {
        manager_reconfigure(s->manager, c);
    }
    if (s->api) {
        api_reconfigure(s->api, c);
    }
    if (s->worker) {
        worker_reconfigure(s->worker, c);
    }
    if (old != old_base && old != s->boot) {
        config_free(old);
    }
    if (old_base != s->boot && old_base != base) {
        config_free(old_base);
    }
}

static void on_settings(void *arg, const json_t *settings)
{
    struct server *s = arg;

    if (s->stopping || json_equal(settings, s->settings) ||
        (!s->settings && json_object_size(settings) == 0)) {
        return;
    }
    json_decref(s->settings);
    s->settings = json_deep_copy(settings);
    use_config(s, s->base);
    log_info(NULL, "the settings were changed");
}

static void reload(struct server *s)
{
    struct config *fresh CLEANUP(config_freep) = NULL;
    struct buf skipped CLEANUP(buf_free);
    struct err why = {0};

    buf_init(&skipped, 4096);
    sdnotify("RELOADING=1");
    if (server_config(s->options, &fresh, &why) < 0) {
        log_error(NULL, "%s; the configuration in force stays", why.text);
    } else {
        use_config(s, config_reload(s->base, fresh, &skipped));
        log_info(NULL, "configuration was read again%s%s", skipped.len ? "; needs a restart: " : "",
                 skipped.len ? skipped.data : "");
    }
    sdnotify("READY=1");
}

/* ---- ordered stop: first what brings work in, the connections last ---- */

static void stop_next(struct server *s);

static void on_part_stopped(void *arg)
{
    stop_next(arg);
}

/* A thread that waits for a disk which hangs never ends, and libuv would wait for it. Nothing is to
 * be done any more, and the tasks must not wait for the next process. */
static void on_last(uv_timer_t *t)
{
    (void)t;
    log_warn(NULL, "stopped, but for a file system that hangs; ending without it");
    log_stop();
    _exit(0);
}

static void stop_next(struct server *s)
{
    if (s->api) {
        api_stop(STEAL(s->api), on_part_stopped, s);
    } else if (s->worker) {
        worker_stop(STEAL(s->worker), s->stop_tasks, on_part_stopped, s);
    } else if (s->manager) {
        manager_stop(STEAL(s->manager), on_part_stopped, s);
    } else {
        for (size_t i = 0; i < ARRAY_LEN(s->signals); i++) {
            uv_close((uv_handle_t *)&s->signals[i], NULL);
        }
        loop_watch_close(&s->watch, NULL);
        MUST(uv_timer_start(&s->last, on_last, LAST_MS, 0) == 0);
    }
}

static void stop(struct server *s)
{
    s->stopping = true;
    sdnotify("STOPPING=1");
    stop_next(s);
}

/* SIGTERM leaves running tasks to the worker process that comes next; whoever types ^C wants
 * everything to end. */
static void on_signal(uv_signal_t *h, int number)
{
    struct server *s = h->data;

    if (number == SIGHUP) {
        if (!s->stopping) {
            reload(s);
        }
        return;
    }
    if (s->stopping) {
        log_error(NULL, "SIG%s again: ending at once", sigabbrev_np(number));
        log_stop();
        _exit(1);
    }
    log_info(NULL, "SIG%s: stopping", sigabbrev_np(number));
    s->stop_tasks = number == SIGINT;
    stop(s);
}

/* ---- start ---- */

static void on_tick(void *arg)
{
    (void)arg;
    sdnotify_alive();
}

static void open_loop(struct server *s)
{
    MUST(uv_loop_init(&s->loop) == 0);
    for (size_t i = 0; i < ARRAY_LEN(handled_signals); i++) {
        MUST(uv_signal_init(&s->loop, &s->signals[i]) == 0);
        s->signals[i].data = s;
        MUST(uv_signal_start(&s->signals[i], on_signal, handled_signals[i]) == 0);
    }
    loop_watch_start(&s->watch, &s->loop, sdnotify_watchdog_ms(), on_tick, s);
    MUST(uv_timer_init(&s->loop, &s->last) == 0);
    uv_unref((uv_handle_t *)&s->last);
}

/* Beside this program in the build, in the library directory where installed. */
static int find_shim(char *path, size_t size, struct err *reterr)
{
    static const char *const places[] = {"sje-shim", "../lib/sje/sje-shim"};
    char own[4096];
    size_t n = sizeof(own);

    if (uv_exepath(own, &n) != 0) {
        return err_set(reterr, ERR_IO, "cannot find out where this program lies");
    }
    char *slash = strrchr(own, '/');
    MUST(slash);
    *slash = '\0';
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        if (snprintf(path, size, "%s/%s", own, places[i]) < (int)size && access(path, X_OK) == 0) {
            return 0;
        }
    }
    return err_set(reterr, ERR_CONFIG, "sje-shim is neither in %.100s nor in %.100s/../lib/sje",
                   own, own);
}

/* Whoever listens everywhere is found by the name of the host. */
static void tell_url(const struct server *s)
{
    const char *bind = s->config->api.bind;
    char host[256] = "";
    char url[MANAGER_URL_MAX];

    if (!streq(bind, "0.0.0.0") && !streq(bind, "::")) {
        snprintf(host, sizeof(host), strchr(bind, ':') ? "[%s]" : "%s", bind);
    } else if (gethostname(host, sizeof(host) - 1) < 0) {
        return;
    }
    snprintf(url, sizeof(url), "http://%s:%d", host, api_port(s->api));
    manager_set_url(s->manager, url);
}

static int start_parts(struct server *s, struct err *reterr)
{
    struct config *c = s->config;
    char shim[4200];
    bool worker = config_has_role(c, "worker");
    int rc = plugins_find(&s->loop, c->node.plugin_dir, !worker, reterr);

    if (rc < 0) {
        return rc;
    }
    s->types.names = executor_names_known();
    if (config_has_role(c, "manager")) {
        rc = manager_start(&s->loop, c, &s->types, &s->manager, reterr);
        if (rc == 0) {
            rc = api_start(&s->loop, c, s->manager, &s->types, &s->api, reterr);
        }
        if (rc == 0) {
            tell_url(s);
            manager_on_settings(s->manager, on_settings, s);
        }
    }
    if (rc == 0 && worker) {
        rc = find_shim(shim, sizeof(shim), reterr);
        if (rc == 0) {
            rc = worker_start(&s->loop, c, shim, &s->worker, reterr);
        }
    }
    return rc;
}

static void describe(const struct config *c)
{
    struct buf roles CLEANUP(buf_free);

    buf_init(&roles, 256);
    for (int i = 0; i < c->node.roles.count; i++) {
        buf_addf(&roles, "%s%s", i ? " and " : "", c->node.roles.items[i]);
    }
    log_info(NULL, "sje-executor " SJE_VERSION " runs as %s on node %s, configured by %s",
             roles.data, c->node.node_id, c->source ? c->source : "the environment");
    if (c->warning) {
        log_warn(NULL, "%s", c->warning);
    }
}

/* Documents and rows are many small pieces that are freed together. Where they wait in lists of
 * their size, as is the default, the next large request looks at each; joined at once they cost a
 * twentieth less time, and less memory. */
static void tune_memory(void)
{
    (void)mallopt(M_MXFAST, 0);
}

int server_run(struct config *c, const struct server_options *o, struct err *reterr)
{
    static struct server s; /* of the process; reachable at its end */

    s.options = o;
    s.boot = c;
    s.base = c;
    s.config = c;
    use_log(c);
    tune_memory();
    self_widen_pool();
    log_start();
    (void)signal(SIGPIPE, SIG_IGN);
    if (!self_raise_open_files()) {
        log_warn(NULL, "only few open files are allowed, going on");
    }
    int rc = preflight(c, reterr);
    if (rc == 0) {
        open_loop(&s);
        rc = start_parts(&s, reterr);
        if (rc == 0) {
            describe(c);
            sdnotify("READY=1");
        } else {
            stop(&s);
        }
        uv_run(&s.loop, UV_RUN_DEFAULT);
        uv_close((uv_handle_t *)&s.last, NULL);
        uv_run(&s.loop, UV_RUN_DEFAULT);
        MUST(uv_loop_close(&s.loop) == 0);
        executors_done();
    }
    if (rc == 0) {
        log_info(NULL, "stopped");
    }
    log_stop();
    metrics_reset();
    if (s.config != s.base && s.config != s.boot) {
        config_free(s.config);
    }
    if (s.base != s.boot) {
        config_free(s.base);
    }
    config_free(s.boot);
    json_decref(s.settings);
    return rc;
}

/* Runs from the root of the repository: sje-config.yaml and docs/config.md are checked too. */
#include "internal/config.h"
#include "internal/machine.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

static struct config *load_ok(const char *text)
{
    struct config *c = NULL;
    struct err e = {0};
    int rc = config_load_text("t.yaml", text, strlen(text), &c, &e);

    if (rc != 0) {
        fail_msg("refused: %s", e.text);
    }
    return c;
}

static void expect_refused_n(const char *text, size_t len, const char *part)
{
    struct config *c = NULL;
    struct err e = {0};

    assert_int_equal(config_load_text("t.yaml", text, len, &c, &e), ERR_CONFIG);
    assert_int_equal(e.code, ERR_CONFIG);
    assert_null(c);
    if (!strstr(e.text, part)) {
        fail_msg("\"%s\" does not say \"%s\"", e.text, part);
    }
}

static void expect_refused(const char *text, const char *part)
{
    expect_refused_n(text, strlen(text), part);
}

static char *json_of(const struct config *c)
{
    struct buf b;

    buf_init(&b, 1 << 20);
    config_json(c, &b);
    return buf_take(&b);
}

static char *slurp(const char *path)
{
    struct buf b;
    char part[4096];
    FILE *f = fopen(path, "r");

    if (!f) {
        fail_msg("%s cannot be read; run the test from the root of the repository", path);
    }
    buf_init(&b, 1 << 20);
    for (size_t n; (n = fread(part, 1, sizeof(part), f)) > 0;) {
        buf_add(&b, part, n);
    }
    fclose(f);
    return buf_take(&b);
}

static int clear_env(void **state)
{
    (void)state;
    for (char **e = environ; *e;) {
        char *name = xstrndup(*e, strcspn(*e, "="));

        if (strncmp(name, "SJE_", 4) == 0) {
            unsetenv(name);
            e = environ;
        } else {
            e++;
        }
        free(name);
    }
    return 0;
}

static void defaults(void **state)
{
    (void)state;
    static const char *const empty[] = {"", "# nothing\n", "---\n...\n", "{}", "dbConfig:\n", "~"};

    for (size_t i = 0; i < ARRAY_LEN(empty); i++) {
        struct config *c CLEANUP(config_freep) = load_ok(empty[i]);

        assert_string_equal(c->rabbitmq.host, "127.0.0.1");
        assert_int_equal(c->rabbitmq.port, 5672);
        assert_string_equal(c->rabbitmq.vhost, "/");
        assert_string_equal(c->db.database, "sje");
        assert_string_equal(c->db.password, "");
        assert_string_equal(c->db.ssl_mode, "prefer");
        assert_int_equal(c->api.port, 8082);
        assert_int_equal(c->node.roles.count, 2);
        assert_string_equal(c->node.roles.items[0], "manager");
        assert_string_equal(c->node.roles.items[1], "worker");
        assert_null(c->node.roles.items[2]);
        assert_int_equal(c->node.pools.count, 1);
        assert_string_equal(c->node.pools.items[0], "default");
        assert_string_equal(c->node.spark.master, "local[*]");
        assert_int_equal(json_object_size(c->node.spark.conf), 0);
        assert_true(config_has_role(c, "manager"));
        assert_true(config_has_role(c, "worker"));
        assert_false(config_has_role(c, "all"));
        assert_string_equal(c->source, "t.yaml");
        assert_null(c->warning);
    }
}

static void node_id_is_host_name(void **state)
{
    (void)state;
    char host[256] = "";
    struct config *c CLEANUP(config_freep) = load_ok("");

    assert_int_equal(gethostname(host, sizeof(host) - 1), 0);
    assert_string_equal(c->node.node_id, host);
}

static void example_equals_defaults(void **state)
{
    (void)state;
    struct config *file CLEANUP(config_freep) = NULL;
    struct config *none CLEANUP(config_freep) = load_ok("");
    struct err e = {0};

    if (config_load("sje-config.yaml", &file, &e) != 0) {
        fail_msg("%s", e.text);
    }
    char *a CLEANUP(freep) = json_of(file);
    char *b CLEANUP(freep) = json_of(none);
    assert_string_equal(a, b);
    assert_string_equal(file->rabbitmq.password, none->rabbitmq.password);
    assert_string_equal(file->db.password, none->db.password);
    assert_null(file->warning);
}

/* Every key of the table stands in the example, so that the example is complete. */
static void example_names_every_key(void **state)
{
    (void)state;
    char *text CLEANUP(freep) = slurp("sje-config.yaml");
    static const char *const keys[] = {
#define SECTION(name, env, text)                                               "\n" name ":\n",
#define KEY(member, section, key, kind, fallback, min, max, rule, flags, text) key,
#include "internal/config.def"
    };

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *last = strrchr(keys[i], '.');

        if (!strstr(text, last ? last + 1 : keys[i])) {
            fail_msg("sje-config.yaml does not show %s", keys[i]);
        }
    }
}

static void docs_are_generated(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free);
    char *page CLEANUP(freep) = slurp("docs/config.md");

    buf_init(&b, 1 << 20);
    config_markdown(&b);
    assert_false(b.failed);
    assert_string_equal(page, b.data);
    char *man CLEANUP(freep) = slurp("docs/man/sje-config.yaml.5");
    buf_reset(&b);
    config_man(&b);
    assert_string_equal(man, b.data);
}

static void values_from_file(void **state)
{
    (void)state;
    struct config *c CLEANUP(config_freep) =
        load_ok("rabbitMqConfig: {host: 'a,b:5673', port: 5671, password: 12345, vhost: \"/x y\"}\n"
                "dbConfig: {host: /run/postgresql, sslMode: verify-full}\n"
                "executorNodeConfig:\n"
                "  roles: [worker]\n"
                "  nodeId: Node_1.a-b\n"
                "  pools:\n"
                "    - gpu-1\n"
                "    - default\n"
                "  spark:\n"
                "    conf:\n"
                "      spark.executor.instances: 2\n"
                "      spark.x: true\n"
                "      \"spark.y\": \"\"\n"
                "monitoring: {logLevel: debug, logFormat: json}\n");

    assert_string_equal(c->rabbitmq.host, "a,b:5673");
    assert_int_equal(c->rabbitmq.port, 5671);
    assert_string_equal(c->rabbitmq.password, "12345");
    assert_string_equal(c->rabbitmq.vhost, "/x y");
    assert_string_equal(c->db.host, "/run/postgresql");
    assert_string_equal(c->db.ssl_mode, "verify-full");
    assert_false(config_has_role(c, "manager"));
    assert_string_equal(c->node.node_id, "Node_1.a-b");
    assert_int_equal(c->node.pools.count, 2);
    assert_string_equal(c->node.pools.items[0], "gpu-1");
    assert_string_equal(json_get_string(c->node.spark.conf, "spark.executor.instances"), "2");
    assert_string_equal(json_get_string(c->node.spark.conf, "spark.x"), "true");
    assert_string_equal(json_get_string(c->node.spark.conf, "spark.y"), "");
    assert_string_equal(c->monitoring.log_format, "json");
}

static void wrong_names(void **state)
{
    (void)state;
    expect_refused("\nrabbitMqConfig:\n  prot: 1\n",
                   "t.yaml:3: rabbitMqConfig.prot: unknown key; known are host, port");
    expect_refused("rabbitmq: {}\n",
                   "t.yaml:1: rabbitmq: unknown key; known are rabbitMqConfig, dbCon");
    expect_refused("executorNodeConfig:\n  spark:\n    hom: x\n",
                   "t.yaml:3: executorNodeConfig.spark.hom: unknown key; known are home, master");
    expect_refused("executorNodeConfig: {spark.home: x}",
                   "executorNodeConfig.spark.home: unknown key");
    expect_refused("dbConfig.host: x", "dbConfig.host: unknown key");
    expect_refused("apiConfig:\n  port: 1\n  bind: a\n  port: 1\n",
                   "t.yaml:4: apiConfig.port: is set twice");
    expect_refused("apiConfig: {}\ndbConfig: {}\napiConfig: {}\n",
                   "t.yaml:3: apiConfig: is set twice");
    expect_refused("executorNodeConfig: {spark: {conf: {a: 1, a: 2}}}", "a: is set twice");
    expect_refused("\"rabbit\\e[31m\": 1", "t.yaml:1: rabbit?[31m: unknown key");
    expect_refused("{? [a] : b}", "t.yaml:1: a key must be a name");
    expect_refused("<<: {apiConfig: {port: 1}}", "<<: unknown key");
    expect_refused("\"apiConfig\\0x\": {}", "unknown key");
    expect_refused("executorNodeConfig: {spark: {conf: {\"a\\0b\": x}}}", "holds a NUL");
    expect_refused("executorNodeConfig: {spark: {conf: {\"a\\nb\": x}}}", "too long or split");
}

static void wrong_values(void **state)
{
    (void)state;
    expect_refused("apiConfig:\n  port: 70000\n",
                   "t.yaml:2: apiConfig.port: 70000 is out of range; "
                   "allowed is an integer from 0 to 65535");
    expect_refused("apiConfig: {port: -1}", "-1 is out of range");
    expect_refused("apiConfig: {port: 9999999999999999999999}", "is not an integer");
    expect_refused("apiConfig: {port: \"8082\"}", "is not an integer");
    expect_refused("apiConfig: {port: 80.0}", "is not an integer");
    expect_refused("apiConfig: {port: 0x50}", "is not an integer");
    expect_refused("apiConfig: {port: yes}", "is not an integer");
    expect_refused("apiConfig: {port: [1]}", "t.yaml:1: apiConfig.port: has the wrong type");
    expect_refused("apiConfig: {port: }", "has no value");
    expect_refused("apiConfig: {bind: ~}", "has no value");
    expect_refused("apiConfig: {bind: \"\"}", "is empty");
    expect_refused("apiConfig: {bind: {a: b}}", "apiConfig.bind: has the wrong type");
    expect_refused("dbConfig: {type: Oracle}", "\"Oracle\" is malformed or unknown; allowed is "
                                               "PostgreSQL");
    expect_refused("dbConfig: {sslMode: Prefer}", "allowed is one of disable, allow");
    expect_refused("dbConfig: {database: \"a\\0b\"}", "holds a NUL");
    expect_refused("dbConfig: {database: \"a\\nb\"}", "holds a control character");
    expect_refused("dbConfig: {host: \"a,,b\"}", "is malformed");
    expect_refused("dbConfig: {host: \"a,\"}", "is malformed");
    expect_refused("rabbitMqConfig: {host: /tmp}", "is malformed");
    expect_refused("rabbitMqConfig: 5\n", "rabbitMqConfig: must hold keys, not a value");
    expect_refused("rabbitMqConfig: [host]\n", "rabbitMqConfig: must hold keys, not a value");
    expect_refused("[a]", "t.yaml:1: must hold keys");
    expect_refused("text", "t.yaml:1: must hold keys");
    expect_refused("executorNodeConfig: {pools: default}", "pools: is not a list");
    expect_refused("executorNodeConfig: {pools: []}", "has 0 entries");
    expect_refused("executorNodeConfig: {pools: [a, [b]]}", "pools: has the wrong type");
    expect_refused("executorNodeConfig: {pools: [a, a]}", "names \"a\" twice");
    expect_refused("executorNodeConfig: {pools: [-a]}", "\"-a\" is malformed");
    expect_refused("executorNodeConfig: {pools: [A]}", "\"A\" is malformed");
    expect_refused("executorNodeConfig: {roles: [boss]}",
                   "allowed is a list of 1 to 2 of manager, worker");
    expect_refused("executorNodeConfig: {roles: [manager, worker, manager]}",
                   "has too many entries");
    expect_refused("executorNodeConfig: {nodeId: a/b}", "nodeId: \"a/b\" is malformed");
    expect_refused("executorNodeConfig: {nodeId: .a}", "nodeId: \".a\" is malformed");
    expect_refused("executorNodeConfig: {spark: {conf: {a: [b]}}}", "conf: has the wrong type");
    expect_refused("executorNodeConfig: {spark: {conf: {a: }}}", "conf: has no value");
    expect_refused("executorNodeConfig: {spark: {conf: {\"\": x}}}", "has a name that is empty");
}

/* Only who gives leases has to know how long they are. */
static void checks(void **state)
{
    struct config *c CLEANUP(config_freep) = load_ok("executorNodeConfig: {deadAfterSeconds: 14}");
    struct err e = {0};

    (void)state;
    assert_int_equal(config_check(c, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "at least three times"));
    assert_null(config_doubt(c));
    assert_int_equal(config_override(c, "--role", "executorNodeConfig.roles", "worker", &e), 0);
    assert_int_equal(config_check(c, &e), 0);
    char *doubt CLEANUP(freep) = config_doubt(c);
    assert_non_null(strstr(doubt, "executorNodeConfig.heartbeatSeconds: is 5, more than a third"));
    assert_int_equal(config_override(c, "x", "executorNodeConfig.deadAfterSeconds", "15", &e), 0);
    assert_null(config_doubt(c));
}

static void wrong_yaml(void **state)
{
    (void)state;
    expect_refused("a: &x {}\n", "t.yaml:1: a: unknown key");
    expect_refused("apiConfig: &x {}\n", "t.yaml:1: anchors (&name) are not allowed");
    expect_refused("apiConfig:\n  bind: &x a\n", "t.yaml:2: anchors");
    expect_refused("apiConfig:\n  bind: *x\n", "t.yaml:2: aliases");
    expect_refused("*x : 1\n", "aliases");
    expect_refused("apiConfig: {bind: !!str a}", "tags");
    expect_refused("!x {}", "tags");
    expect_refused("apiConfig: {}\n---\ndbConfig: {}\n", "t.yaml:2: holds more than one document");
    expect_refused("apiConfig:\n\tport: 1\n", "t.yaml:2: ");
    expect_refused("apiConfig: {port: 1\n", "t.yaml:2: ");
    expect_refused("apiConfig: \"abc", "t.yaml:1: ");
    expect_refused("a: b: c", "t.yaml:1: ");
    expect_refused("\n\napiConfig: {bind: \"\xff\"}", "t.yaml:");
    expect_refused_n("dbConfig:\0 {}\n", 13, "t.yaml:1: ");
}

static void bombs(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free);

    buf_init(&b, 4 << 20);
    for (int i = 0; i < 100000; i++) {
        buf_addc(&b, '[');
    }
    expect_refused_n(b.data, b.len, "must hold keys");
    buf_reset(&b);
    for (int i = 0; i < 50000; i++) {
        buf_adds(&b, "{apiConfig: ");
    }
    expect_refused_n(b.data, b.len, "apiConfig.apiConfig: unknown key");
    buf_reset(&b);
    buf_adds(&b, "executorNodeConfig: {spark: {conf: {");
    for (int i = 0; i < 1001; i++) {
        buf_addf(&b, "a%d: b, ", i);
    }
    buf_adds(&b, "}}}");
    expect_refused_n(b.data, b.len, "has too many entries");
    buf_reset(&b);
    buf_adds(&b, "apiConfig: {bind: ");
    for (int i = 0; i < 900000; i++) {
        buf_addc(&b, 'a');
    }
    buf_addc(&b, '}');
    expect_refused_n(b.data, b.len, "has 900000 characters");
    buf_reset(&b);
    for (int i = 0; i < CONFIG_FILE_MAX + 1; i++) {
        buf_addc(&b, '\n');
    }
    expect_refused_n(b.data, b.len, "is larger than");
    struct config *c CLEANUP(config_freep) = NULL;
    assert_int_equal(config_load_text("t", b.data, b.len - 1, &c, NULL), 0);
}

static void environment_wins(void **state)
{
    (void)state;
    setenv("SJE_RABBITMQ_HOST", "mq1,mq2:5673", 1);
    setenv("SJE_DB_SSL_MODE", "disable", 1);
    setenv("SJE_API_PORT", "0", 1);
    setenv("SJE_NODE_SLOTS", "7", 1);
    setenv("SJE_NODE_POOLS", "a, b", 1);
    setenv("SJE_NODE_ID", "n2", 1);
    setenv("SJE_NODE_SPARK_HOME", "/opt/spark", 1);
    setenv("SJE_NODE_SPARK_CONF", "{\"spark.a\":\"b\",\"n\":2,\"t\":true}", 1);
    setenv("SJE_MONITORING_LOG_LEVEL", "warn", 1);
    setenv("SJE_URL", "http://x", 1);
    setenv("SJE_TEST_DB_HOST", "x", 1);
    setenv("SJE_TASK_ID", "x", 1);
    setenv("SJE_OUTPUT", "x", 1);
    setenv("SJE_CONFIG", "x", 1);
    struct config *c CLEANUP(config_freep) = load_ok("apiConfig: {port: 99}\n"
                                                     "executorNodeConfig: {pools: [c]}\n");

    assert_string_equal(c->rabbitmq.host, "mq1,mq2:5673");
    assert_string_equal(c->db.ssl_mode, "disable");
    assert_int_equal(c->api.port, 0);
    assert_int_equal(c->node.slots, 7);
    assert_int_equal(c->node.pools.count, 2);
    assert_string_equal(c->node.pools.items[1], "b");
    assert_string_equal(c->node.node_id, "n2");
    assert_string_equal(c->node.spark.home, "/opt/spark");
    assert_string_equal(json_get_string(c->node.spark.conf, "spark.a"), "b");
    assert_string_equal(json_get_string(c->node.spark.conf, "n"), "2");
    assert_string_equal(json_get_string(c->node.spark.conf, "t"), "true");
    assert_string_equal(c->monitoring.log_level, "warn");
}

static void wrong_environment(void **state)
{
    static const char *const cases[][3] = {
        {"SJE_API_PORT", "eighty", "SJE_API_PORT: apiConfig.port: is not an integer; allowed is"},
        {"SJE_API_PORT", "", "is not an integer"},
        {"SJE_API_PROT", "1", "SJE_API_PROT: names no setting"},
        {"SJE_NODE_", "1", "SJE_NODE_: names no setting"},
        {"SJE_API_PORT_FILE", "/x", "SJE_API_PORT_FILE: names no setting"},
        {"SJE_NODE_POOLS", "a,,b", "\"\" is malformed"},
        {"SJE_NODE_POOLS", "a,", "\"\" is malformed"},
        {"SJE_NODE_POOLS", "", "has 0 entries"},
        {"SJE_NODE_POOLS", "a,\xff", "is not UTF-8"},
        {"SJE_NODE_WORK_DIR", "\xff", "is not UTF-8"},
        {"SJE_NODE_SPARK_CONF", "spark.a=b", "is not a JSON object"},
        {"SJE_NODE_SPARK_CONF", "[]", "is not an object"},
        {"SJE_NODE_SPARK_CONF", "{\"a\":{}}", "\"a\" is not a text"},
        {"SJE_DB_PASSWORD_FILE", "/nonexistent/x", "SJE_DB_PASSWORD_FILE: cannot read"},
        {"SJE_DB_PASSWORD_FILE", "/tmp", "Is a directory"},
        {"SJE_DB_PASSWORD_FILE", "/dev/zero", "is larger than 4096 bytes"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        clear_env(state);
        setenv(cases[i][0], cases[i][1], 1);
        expect_refused("", cases[i][2]);
    }
    clear_env(state);
    setenv("SJE_NODE_ID", "a", 1);
    setenv("SJE_NODE_NODE_ID", "a", 1);
    expect_refused("", "SJE_NODE_ID: is set under its long name too");
    clear_env(state);
    setenv("SJE_DB_PASSWORD", "a", 1);
    setenv("SJE_DB_PASSWORD_FILE", "/dev/null", 1);
    expect_refused("", "only one may be");
}

/* A file with `text` and `mode`; its name lives until the next call. */
static const char *temp_file(const char *text, mode_t mode)
{
    static char path[64];

    snprintf(path, sizeof(path), "/tmp/sje-test-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
    return path;
}

static void secrets_from_files(void **state)
{
    (void)state;
    const char *path = temp_file("s3cret \n\r\n", 0600);

    setenv("SJE_DB_PASSWORD_FILE", path, 1);
    setenv("SJE_DB_PASSWORD", "", 1); /* as an empty setting of a container has it */
    setenv("SJE_RABBITMQ_PASSWORD", "", 1);
    struct config *c CLEANUP(config_freep) = load_ok("dbConfig: {password: other}\n");
    unlink(path);
    assert_string_equal(c->db.password, "s3cret ");
    assert_string_equal(c->rabbitmq.password, "");
    char *json CLEANUP(freep) = json_of(c);
    assert_null(strstr(json, "s3cret"));
    assert_non_null(strstr(json, "\"password\":\"***\""));
    assert_non_null(strstr(json, "\"password\":\"\""));
}

static void secrets_stay_hidden(void **state)
{
    (void)state;
    struct config *c CLEANUP(config_freep) =
        load_ok("executorNodeConfig: {spark: {conf: {spark.hadoop.fs.s3a.secret.key: hunter2,"
                " spark.my.Password: hunter2, spark.empty.token: '', spark.plain: shown}}}\n"
                "rabbitMqConfig: {password: hunter2}\n");
    char *json CLEANUP(freep) = json_of(c);
    static const char *const wrong[] = {
        "dbConfig: {password: \"hunter2\\n\"}",
        "dbConfig: {password: [hunter2]}",
        "dbConfig: {host: \"postgres://sje:hunter2@db/x\"}",
        "rabbitMqConfig: {host: \"amqp://a:hunter2@b\"}",
        "executorNodeConfig: {managerUrl: \"http://a:hunter2@b\"}",
    };

    assert_null(strstr(json, "hunter2"));
    assert_non_null(strstr(json, "\"spark.plain\":\"shown\""));
    assert_non_null(strstr(json, "\"spark.empty.token\":\"\""));
    assert_string_equal(json_get_string(c->node.spark.conf, "spark.my.Password"), "hunter2");
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct config *none = NULL;
        struct err e = {0};

        assert_int_equal(config_load_text("t", wrong[i], strlen(wrong[i]), &none, &e), ERR_CONFIG);
        assert_null(strstr(e.text, "hunter2"));
    }
}

static void files(void **state)
{
    (void)state;
    struct config *c = NULL;
    struct err e = {0};

    assert_int_equal(config_load("/nonexistent/x.yaml", &c, &e), ERR_CONFIG);
    assert_int_equal(e.code, ERR_CONFIG);
    assert_non_null(strstr(e.text, "cannot read /nonexistent/x.yaml: No such file"));
    assert_int_equal(config_load("/tmp", &c, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "Is a directory"));
    assert_int_equal(config_load("/dev/zero", &c, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "is larger than 1048576 bytes"));
    assert_null(c);

    const char *path = temp_file("dbConfig: {password: x}\n", 0644);
    assert_int_equal(config_load(path, &c, &e), 0);
    assert_non_null(strstr(c->warning, "can be read by everybody"));
    assert_string_equal(c->source, path);
    config_free(STEAL(c));
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(config_load(path, &c, &e), 0);
    assert_null(c->warning);
    config_free(STEAL(c));
    unlink(path);
    path = temp_file("apiConfig: {port: 1}\n", 0644);
    assert_int_equal(config_load(path, &c, &e), 0);
    assert_null(c->warning);
    config_free(STEAL(c));
    unlink(path);
}

static void working_directory_first(void **state)
{
    (void)state;
    char dir[] = "/tmp/sje-test-config-XXXXXX";
    char *old CLEANUP(freep) = getcwd(NULL, 0);
    struct config *c CLEANUP(config_freep) = NULL;
    struct err e = {0};

    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    FILE *f = fopen("sje-config.yaml", "w");
    assert_non_null(f);
    fputs("apiConfig: {port: 17}\n", f);
    fclose(f);
    int rc = config_load(NULL, &c, &e);
    unlink("sje-config.yaml");
    assert_int_equal(chdir(old), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(rc, 0);
    assert_int_equal(c->api.port, 17);
}

static int patch(const struct config *c, const char *text, struct config **ret, struct err *e)
{
    json_auto_t *j = NULL;

    assert_int_equal(json_read(text, strlen(text), &j, NULL), 0);
    return config_patch(c, j, ret, e);
}

static void patches(void **state)
{
    (void)state;
    struct config *c CLEANUP(config_freep) = load_ok("apiConfig: {port: 17}\n");
    struct config *n CLEANUP(config_freep) = NULL;
    struct err e = {0};
    static const char *const wrong[][2] = {
        {"[]", "settings: must be an object"},
        {"{\"x\":1}", "x: unknown key"},
        {"{\"\":null}", ": unknown key"},
        {"{\"monitoring\":{\"\":null}}", "monitoring.: unknown key"},
        {"{\"monitoring\":1}", "monitoring: must be an object"},
        {"{\"monitoring\":{\"logLevel\":1}}", "monitoring.logLevel: is not a text"},
        {"{\"monitoring\":{\"logLevel\":\"loud\"}}", "allowed is one of error, warn"},
        {"{\"executorNodeConfig\":null}", "one value for the cluster"},
        {"{\"executorNodeConfig\":{\"heartbeatSeconds\":11}}", "at least three times"},
        {"{\"executorNodeConfig\":{\"heartbeatSeconds\":5,\"deadAfterSeconds\":14}}",
         "at least three times heartbeatSeconds, which is 5"},
        {"{\"monitoring\":{\"nonsense\":null}}", "monitoring.nonsense: unknown key"},
        {"{\"apiConfig\":{\"port\":null}}", "restart"},
        {"{\"monitoring.logLevel\":\"info\"}", "unknown key"},
        {"{\"executorNodeConfig\":{\"slots\":-1}}", "-1 is out of range"},
        {"{\"executorNodeConfig\":{\"slots\":1.5}}", "is not an integer"},
        {"{\"apiConfig\":{\"port\":1}}", "apiConfig.port: can only be changed by a restart"},
        {"{\"executorNodeConfig\":{\"slots\":8},\"dbConfig\":{\"password\":\"x\"}}",
         "by a restart"},
    };

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(patch(c, wrong[i][0], &n, &e), ERR_INVALID);
        assert_int_equal(e.code, ERR_INVALID);
        assert_null(n);
        if (!strstr(e.text, wrong[i][1])) {
            fail_msg("\"%s\" does not say \"%s\"", e.text, wrong[i][1]);
        }
    }
    assert_int_equal(
        patch(c, "{\"executorNodeConfig\":{\"slots\":8},\"monitoring\":{\"logLevel\":\"debug\"}}",
              &n, &e),
        0);
    struct config *d CLEANUP(config_freep) = NULL;
    assert_int_equal(patch(c, "{\"executorNodeConfig\":{\"deadAfterSeconds\":6}}", &d, &e), 0);
    assert_int_equal(d->node.heartbeat_seconds, 2); /* beats adapt */
    assert_int_equal(n->node.slots, 8);
    assert_string_equal(n->monitoring.log_level, "debug");
    assert_int_equal(n->api.port, 17);
    assert_int_equal(c->node.slots, machine_cpus());
    assert_string_equal(n->node.node_id, c->node.node_id);
    assert_string_equal(n->source, "t.yaml");
}

/* Written by a manager of a later version. */
static void overlays(void **state)
{
    static const char text[] =
        "{\"executorNodeConfig\":{\"new\":1,\"deadAfterSeconds\":6,\"spark\":{\"new\":2}},"
        "\"newer\":{\"a\":1},\"monitoring\":{\"logLevel\":\"silly\"}}";
    struct config *c CLEANUP(config_freep) = load_ok("executorNodeConfig: {heartbeatSeconds: 5}\n");
    struct buf skipped CLEANUP(buf_free);
    json_auto_t *j = NULL;

    (void)state;
    buf_init(&skipped, 4096);
    assert_int_equal(json_read(text, strlen(text), &j, NULL), 0);
    struct config *n CLEANUP(config_freep) = config_overlay(c, j, &skipped);
    assert_int_equal(n->node.dead_after_seconds, 6);
    assert_int_equal(n->node.heartbeat_seconds, 2);
    assert_string_equal(n->monitoring.log_level, c->monitoring.log_level);
    assert_non_null(strstr(skipped.data, "executorNodeConfig.new: unknown key"));
    assert_non_null(strstr(skipped.data, "executorNodeConfig.spark.new: unknown key"));
    assert_non_null(strstr(skipped.data, "newer: unknown key"));
    assert_non_null(strstr(skipped.data, "monitoring.logLevel"));
}

/* 0 means the same in the database as in the file, also over a number there. */
static void overlays_of_zero_are_what_the_machine_has(void **state)
{
    static const char text[] = "{\"executorNodeConfig\":{\"slots\":0,\"cpus\":0,\"memoryMb\":0}}";
    struct config *c CLEANUP(config_freep) =
        load_ok("executorNodeConfig: {slots: 3, cpus: 2, memoryMb: 99}\n");
    struct buf skipped CLEANUP(buf_free);
    json_auto_t *j = NULL;

    (void)state;
    buf_init(&skipped, 4096);
    assert_int_equal(json_read(text, strlen(text), &j, NULL), 0);
    struct config *n CLEANUP(config_freep) = config_overlay(c, j, &skipped);
    assert_int_equal(n->node.slots, machine_cpus());
    assert_int_equal(n->node.cpus, machine_cpus());
    assert_int_equal(n->node.memory_mb, machine_memory_mb() * 4 / 5);
    assert_int_equal(skipped.len, 0);
}

/* Whatever stands in the database: what comes out is a configuration that a file could have. */
static void overlays_of_nonsense_change_nothing(void **state)
{
    static const char *const wrong[] = {
        "5",
        "[]",
        "null",
        "{\"executorNodeConfig\":5}",
        "{\"executorNodeConfig\":[]}",
        "{\"executorNodeConfig\":{\"slots\":-1}}",
        "{\"executorNodeConfig\":{\"slots\":10001}}",
        "{\"executorNodeConfig\":{\"slots\":\"4\"}}",
        "{\"executorNodeConfig\":{\"slots\":1e3}}",
        "{\"executorNodeConfig\":{\"cpus\":9223372036854775807}}",
        "{\"executorNodeConfig\":{\"memoryMb\":-9223372036854775807}}",
        "{\"executorNodeConfig\":{\"heartbeatSeconds\":0}}",
        "{\"executorNodeConfig\":{\"deadAfterSeconds\":0}}",
        "{\"executorNodeConfig\":{\"deadAfterSeconds\":2}}",
        "{\"executorNodeConfig\":{\"deadAfterSeconds\":null}}",
        "{\"executorNodeConfig\":{\"killGraceSeconds\":-1,\"logLimitMb\":0}}",
        "{\"executorNodeConfig\":{\"keepFinishedHours\":-1,\"pools\":[]}}",
        "{\"executorNodeConfig\":{\"roles\":[\"king\"],\"nodeId\":\"\"}}",
        "{\"executorNodeConfig\":{\"spark\":{\"conf\":{\"a\":{}},\"master\":\"\",\"home\":7}}}",
        "{\"managerConfig\":{\"maxLosses\":0,\"keepTasksHours\":-1,\"databaseGraceSeconds\":-1}}",
        "{\"monitoring\":{\"logLevel\":\"\",\"logFormat\":\"x\"}}",
        "{\"apiConfig\":{\"hosts\":[\"http://a:b@c\"],\"port\":99999}}"};
    struct config *c CLEANUP(config_freep) = load_ok("executorNodeConfig: {slots: 3}\n");
    char *before CLEANUP(freep) = json_of(c);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct buf skipped CLEANUP(buf_free);
        struct err e = {0};
        json_auto_t *j = json_loads(wrong[i], JSON_DECODE_ANY, NULL);

        assert_non_null(j);
        buf_init(&skipped, 4096);
        struct config *n CLEANUP(config_freep) = config_overlay(c, j, &skipped);
        char *after CLEANUP(freep) = json_of(n);
        assert_string_equal(after, before);
        assert_true(skipped.len > 0);
        assert_int_equal(config_check(n, &e), 0);
    }
}

/* What nobody has set comes from the machine, and the settings show it. */
static void offers_what_the_machine_has(void **state)
{
    (void)state;
    struct config *c CLEANUP(config_freep) = load_ok("executorNodeConfig: {slots: 0}\n");
    struct config *n CLEANUP(config_freep) = NULL;
    struct buf b CLEANUP(buf_free);

    assert_int_equal(c->node.slots, machine_cpus());
    assert_int_equal(c->node.cpus, machine_cpus());
    assert_int_equal(c->node.memory_mb, machine_memory_mb() * 4 / 5);
    char *text CLEANUP(freep) = xasprintf("\"cpus\":%d", machine_cpus());
    buf_init(&b, 1 << 20);
    config_json(c, &b);
    assert_non_null(strstr(b.data, text));
    struct err e = {0};
    assert_int_equal(
        patch(c, "{\"executorNodeConfig\":{\"slots\":9,\"cpus\":0,\"memoryMb\":77}}", &n, &e), 0);
    assert_int_equal(n->node.slots, 9);
    assert_int_equal(n->node.cpus, machine_cpus());
    assert_int_equal(n->node.memory_mb, 77);
}

static void reloads(void **state)
{
    (void)state;
    struct config *c CLEANUP(config_freep) = load_ok("apiConfig: {port: 17}\n");
    struct config *f CLEANUP(config_freep) =
        load_ok("executorNodeConfig: {slots: 9, pools: [x]}\nmonitoring: {logLevel: error}\n");
    struct buf skipped CLEANUP(buf_free);

    buf_init(&skipped, 4096);
    struct config *n CLEANUP(config_freep) = config_reload(c, f, &skipped);
    assert_int_equal(n->node.slots, 9);
    assert_string_equal(n->monitoring.log_level, "error");
    assert_int_equal(n->api.port, 17);
    assert_string_equal(n->node.pools.items[0], "default");
    assert_string_equal(skipped.data, "apiConfig.port, executorNodeConfig.pools");
}

static void override(void **state)
{
    (void)state;
    struct config *c CLEANUP(config_freep) = load_ok("");
    struct err e = {0};

    assert_int_equal(config_override(c, "--role", "executorNodeConfig.roles", "worker", &e), 0);
    assert_false(config_has_role(c, "manager"));
    assert_int_equal(config_override(c, "--role", "executorNodeConfig.roles", "king", &e),
                     ERR_CONFIG);
    assert_non_null(strstr(e.text, "--role: executorNodeConfig.roles: \"king\" is malformed or "));
    assert_true(config_has_role(c, "worker"));
}

/* A name of the environment belongs to one key only. */
static void environment_names_differ(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free);

    buf_init(&b, 1 << 20);
    config_markdown(&b);
    for (char *p = b.data; (p = strstr(p, "`SJE_")) != NULL;) {
        char *name CLEANUP(freep) = xstrndup(p, strcspn(p + 1, "`") + 2);

        p += strlen(name);
        if (!streq(name, "`SJE_DB_SSL_MODE`")) { /* named in the text too */
            assert_null(strstr(p, name));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(defaults, clear_env),
        cmocka_unit_test_setup(node_id_is_host_name, clear_env),
        cmocka_unit_test_setup(example_equals_defaults, clear_env),
        cmocka_unit_test_setup(example_names_every_key, clear_env),
        cmocka_unit_test_setup(docs_are_generated, clear_env),
        cmocka_unit_test_setup(values_from_file, clear_env),
        cmocka_unit_test_setup(wrong_names, clear_env),
        cmocka_unit_test_setup(wrong_values, clear_env),
        cmocka_unit_test_setup(wrong_yaml, clear_env),
        cmocka_unit_test_setup(bombs, clear_env),
        cmocka_unit_test_setup_teardown(environment_wins, clear_env, clear_env),
        cmocka_unit_test_setup_teardown(wrong_environment, clear_env, clear_env),
        cmocka_unit_test_setup_teardown(secrets_from_files, clear_env, clear_env),
        cmocka_unit_test_setup(secrets_stay_hidden, clear_env),
        cmocka_unit_test_setup(files, clear_env),
        cmocka_unit_test_setup(working_directory_first, clear_env),
        cmocka_unit_test_setup(checks, clear_env),
        cmocka_unit_test_setup(patches, clear_env),
        cmocka_unit_test_setup(overlays, clear_env),
        cmocka_unit_test_setup(overlays_of_zero_are_what_the_machine_has, clear_env),
        cmocka_unit_test_setup(overlays_of_nonsense_change_nothing, clear_env),
        cmocka_unit_test_setup(reloads, clear_env),
        cmocka_unit_test_setup(offers_what_the_machine_has, clear_env),
        cmocka_unit_test_setup(override, clear_env),
        cmocka_unit_test_setup(environment_names_differ, clear_env),
    };

    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}

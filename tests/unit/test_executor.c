/* What each executor tells the shim to start, and how it judges the end. */
#include "internal/self.h"
#include "internal/str.h"
#include "pkg/executors/common.h"
#include "pkg/executors/fault.h"
#include "pkg/executors/plan.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"
#include "pkg/executors/taskuser.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];
static char *dir;
static char *home;
static char *plugins;
static char *java; /* JAVA_HOME */
static struct exec_node node;
static struct exec_attempt attempt;
static struct exec_plan plan;
static struct task_spec *spec;

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static char *in_root(const char *name)
{
    return xasprintf("%s/%s", root, name);
}

static int setup(void **state)
{
    struct err e = {0};
    char *bin = NULL;

    (void)state;
    snprintf(root, sizeof(root), "/tmp/sje-test-XXXXXX");
    assert_non_null(mkdtemp(root));
    home = in_root("spark");
    plugins = in_root("plugins");
    java = in_root("java");
    dir = in_root("attempt");
    bin = in_root("spark/bin");
    assert_int_equal(mkdir(home, 0700), 0);
    assert_int_equal(mkdir(bin, 0700), 0);
    assert_int_equal(mkdir(plugins, 0700), 0);
    char *submit = in_root("spark/bin/spark-submit");
    char *report = in_root("plugins/Report");
    char *notes = in_root("plugins/notes.txt");
    char *clash = in_root("plugins/noop");
    char *java_bin CLEANUP(freep) = in_root("java/bin");
    char *java_program CLEANUP(freep) = in_root("java/bin/java");
    assert_int_equal(mkdir(java, 0700), 0);
    assert_int_equal(mkdir(java_bin, 0700), 0);
    write_file(java_program, "#!/bin/sh\n", 0700);
    setenv("JAVA_HOME", java, 1);
    write_file(submit, "#!/bin/sh\n", 0700);
    write_file(report, "#!/bin/sh\n", 0700);
    write_file(notes, "not a program\n", 0600);
    write_file(clash, "#!/bin/sh\n", 0700);
    free(submit);
    free(report);
    free(notes);
    free(clash);
    free(bin);
    assert_int_equal(shimdir_create(dir, &e), 0);
    assert_int_equal(executors_init(plugins, &e), 0);
    node = (struct exec_node){.spark_home = home,
                              .spark_master = "local[*]",
                              .python = "",
                              .plugin_dir = plugins,
                              .program_dir = "/opt/sje",
                              .log_limit = 1 << 20};
    exec_plan_init(&plan);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    exec_plan_free(&plan);
    task_spec_free(spec);
    spec = NULL;
    assert_int_equal(shimdir_remove(root, NULL), 0);
    executors_done();
    free(home);
    free(plugins);
    free(java);
    free(dir);
    return 0;
}

static int prepare(const char *text, struct err *e)
{
    struct task_types types = {executor_names()};
    struct task_problems p = {0};
    json_t *j = NULL;

    exec_plan_free(&plan);
    exec_plan_init(&plan);
    task_spec_free(spec);
    assert_int_equal(json_read(text, strlen(text), &j, NULL), 0);
    spec = task_spec_parse_accepted(j, &types, &p);
    json_decref(j);
    if (!spec) {
        fail_msg("%s: %s", p.list[0].field, p.list[0].message);
    }
    attempt = (struct exec_attempt){.task = id_new(),
                                    .attempt = 2,
                                    .token = 77,
                                    .spec = spec,
                                    .dir = dir,
                                    .program = executor_plugin_path(spec->job_type)};
    const struct executor *x = executor_find(spec->job_type);
    assert_non_null(x);
    return x->prepare(&node, &attempt, &plan, e);
}

/* argv joined by '|', with root and cwd replaced. */
static char *argv_text(void)
{
    struct buf b;
    size_t at = 0;

    buf_init(&b, 1 << 20);
    while (at < plan.argv.len) {
        const char *arg = plan.argv.data + at;
        size_t n = strlen(root);

        buf_adds(&b, at ? "|" : "");
        for (const char *p = arg; *p;) {
            if (strncmp(p, root, n) == 0) {
                buf_adds(&b, "ROOT");
                p += n;
            } else {
                buf_addc(&b, *p++);
            }
        }
        at += strlen(arg) + 1;
    }
    return buf_take(&b);
}

static const char *env_of(const char *name)
{
    const char *found = NULL;
    size_t n = strlen(name);

    for (size_t at = 0; at < plan.env.len; at += strlen(plan.env.data + at) + 1) {
        const char *line = plan.env.data + at;

        if (strncmp(line, name, n) == 0 && line[n] == '=') {
            found = line + n + 1; /* later ones win */
        }
    }
    return found;
}

static char *read_text(const char *name)
{
    struct buf b;

    buf_init(&b, 1 << 20);
    assert_int_equal(shimdir_read_file(dir, name, &b, NULL), 0);
    return buf_take(&b);
}

static char *properties_of(const char *more)
{
    char *app = in_root("listened.py");
    char *text = xasprintf("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"%s\"%s}", app, more);
    struct err e = {0};

    write_file(app, "pass\n", 0600);
    if (prepare(text, &e) < 0) {
        fail_msg("%s", e.text);
    }
    free(text);
    free(app);
    return read_text("spark.properties");
}

/* What counts for a key; `value` NULL: it is not there. */
static void expect_last(const char *properties, const char *key, const char *value)
{
    char *line = xasprintf("\n%s=", key);
    const char *at = NULL;

    for (const char *p = properties; (p = strstr(p, line)); p++) {
        at = p + strlen(line);
    }
    if (!value) {
        assert_null(at);
    } else {
        assert_non_null(at);
        char *got = xstrndup(at, strcspn(at, "\n"));
        assert_string_equal(got, value);
        free(got);
    }
    free(line);
}

/* The listener comes behind what the site, the node or the task has set, and only into a driver
 * that runs here. */
static void test_spark_listener(void **state)
{
    char *jar = in_root("sje-listener.jar");
    char *behind = xasprintf("/a.jar\\:%s", jar);
    char *file = in_root("attempt/spark.progress");
    char *conf = in_root("spark/conf");
    char *site = in_root("spark/conf/spark-defaults.conf");

    (void)state;
    write_file(jar, "PK", 0600);
    node.program_dir = root;
    char *p = properties_of("");
    expect_last(p, "spark.extraListeners", "sje.ProgressListener");
    expect_last(p, "spark.driver.extraClassPath", jar);
    expect_last(p, "spark.sje.status", file);
    expect_last(p, "spark.ui.port", "0");
    free(p);
    assert_int_equal(mkdir(conf, 0700), 0);
    write_file(site,
               "# of the site\nspark.extraListeners.not x\n spark.extraListeners \t a.B\n"
               "spark.driver.extraClassPath=/a.jar\n",
               0600);
    p = properties_of("");
    expect_last(p, "spark.extraListeners", "a.B,sje.ProgressListener");
    expect_last(p, "spark.driver.extraClassPath", behind);
    free(p);
    p = properties_of(",\"conf\":{\"spark.extraListeners\":\"c.D\",\"spark.sje.status\":\"/x\"}");
    expect_last(p, "spark.extraListeners", "c.D,sje.ProgressListener");
    expect_last(p, "spark.sje.status", file);
    free(p);
    p = properties_of(",\"master\":\"yarn\",\"conf\":{\"spark.submit.deployMode\":\"cluster\"}");
    expect_last(p, "spark.sje.status", NULL);
    expect_last(p, "spark.ui.port", NULL);
    assert_true(plan.detach);
    free(p);
    write_file(site, "spark.submit.deployMode: cluster\n", 0600);
    p = properties_of(",\"master\":\"yarn\"");
    expect_last(p, "spark.sje.status", NULL);
    assert_true(plan.detach);
    free(p);
    free(jar);
    free(behind);
    free(file);
    free(conf);
    free(site);
}

static void test_spark_command_line(void **state)
{
    char *app = in_root("app.jar");
    char *lib = in_root("lib.jar");
    char *data = in_root("data.csv");
    char *helper = in_root("helper.py");
    struct err e = {0};

    (void)state;
    write_file(app, "PK\003\004rest", 0600);
    write_file(lib, "PK\003\004rest", 0600);
    write_file(data, "a,b\n", 0600);
    write_file(helper, "x = 1\n", 0600);
    char *text = xasprintf(
        "{\"jobType\":\"SparkApp\",\"jobId\":\"j 1\",\"sparkAppPath\":\"%s\",\"mainClass\":\"a.B\","
        "\"parameters\":{\"z\":\"v w\",\"a\":123,\"n\":{\"k\":[1,2]}},\"args\":[\"--x\",\"\"],"
        "\"dependencies\":[\"%s\",\"s3a://b/o.jar\",\"%s\",\"%s\"],"
        "\"conf\":{\"spark.secret\":\"p\\u00e4ss=w:rd#\\n\",\"spark.n\":3},"
        "\"resources\":{\"memoryMb\":512,\"cpus\":2},\"env\":{\"A\":\"1\"}}",
        app, lib, data, helper);
    if (prepare(text, &e) < 0) {
        fail_msg("%s", e.text);
    }
    char *argv = argv_text();
    assert_string_equal(argv, "ROOT/spark/bin/spark-submit|--master|local[2]|--properties-file|"
                              "ROOT/attempt/spark.properties|--class|a.B|ROOT/app.jar|"
                              "--z|v w|--a|123|--n|{\"k\":[1,2]}|--x|");
    assert_null(strstr(argv, "rd#"));
    char *properties = read_text("spark.properties");
    char *jars = xasprintf("%s,s3a\\://b/o.jar", lib);
    expect_last(properties, "spark.jars", jars);
    expect_last(properties, "spark.submit.pyFiles", helper);
    expect_last(properties, "spark.files", data);
    free(jars);
    assert_non_null(strstr(properties, "spark.app.name=j 1\n"));
    assert_non_null(strstr(properties, "spark.secret=p\xc3\xa4ss\\=w\\:rd\\#\\n\n"));
    assert_non_null(strstr(properties, "spark.driver.memory=512m\n"));
    assert_non_null(strstr(properties, "spark.n=3\n"));
    assert_non_null(strstr(properties, "spark.yarn.tags=sje-"));
    assert_null(strstr(properties, "spark.extraListeners")); /* no jar there */
    struct stat st = {0};
    char *path = in_root("attempt/spark.properties");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_string_equal(env_of("A"), "1");
    assert_string_equal(env_of("SJE_ATTEMPT"), "2");
    assert_string_equal(env_of("SJE_TOKEN"), "77");
    assert_string_equal(env_of("SJE_JOB_ID"), "j 1");
    assert_false(plan.detach);
    free(path);
    free(properties);
    free(argv);
    free(text);
    free(app);
    free(lib);
    free(data);
    free(helper);
}

/* A task's dependencies come on top of what is set, wherever; an archive has its alias. */
static void test_spark_dependencies_are_added(void **state)
{
    char *conf = in_root("spark/conf");
    char *site = in_root("spark/conf/spark-defaults.conf");

    (void)state;
    assert_int_equal(mkdir(conf, 0700), 0);
    write_file(
        site, "spark.jars /s/a.jar,\\\n    /s/b.jar\nspark.files=/s/f\nspark.archives /s/z.zip#z\n",
        0600);
    char *p = properties_of(",\"dependencies\":[\"/t/c.jar\",\"/t/d.zip\",\"/t/e.tar.gz#env\","
                            "\"/t/f.txt\",\"/t/g.egg\"],"
                            "\"conf\":{\"spark.submit.pyFiles\":\" /c/h.py \"}");
    expect_last(p, "spark.jars", "/s/a.jar,/s/b.jar,/t/c.jar");
    expect_last(p, "spark.files", "/s/f,/t/f.txt");
    expect_last(p, "spark.archives", "/s/z.zip\\#z,/t/e.tar.gz\\#env");
    expect_last(p, "spark.submit.pyFiles", "/c/h.py,/t/d.zip,/t/g.egg");
    assert_non_null(
        memmem(plan.needs.data, plan.needs.len, "/t/e.tar.gz", strlen("/t/e.tar.gz") + 1));
    free(p);
    p = properties_of(",\"dependencies\":[\"/t/c.jar\"],\"conf\":{\"spark.jars\":\"/c/x.jar\"}");
    expect_last(p, "spark.jars", "/c/x.jar,/t/c.jar");
    free(p);
    free(conf);
    free(site);
}

/* The file of settings would lose the blanks at their ends. */
static void test_spark_settings_with_blanks(void **state)
{
    (void)state;
    char *p = properties_of(",\"conf\":{\"spark.a\":\" x\",\"spark.b\":\"\\u0001\\n\","
                            "\"spark.c\":\"\\n\",\"spark.d\":\"x y\",\"spark.yarn.tags\":\" t\"}");
    char *argv = argv_text();

    expect_last(p, "spark.a", NULL);
    expect_last(p, "spark.c", "\\n");
    expect_last(p, "spark.d", "x y");
    assert_non_null(strstr(argv, "|--conf|spark.a= x|--conf|spark.b=\x01\n|"));
    assert_null(strstr(argv, "yarn"));
    free(argv);
    free(p);
}

/* Only its own process looks into a directory that the task names. */
static void test_spark_site_of_a_task(void **state)
{
    (void)state;
    char *p =
        properties_of(",\"env\":{\"SPARK_CONF_DIR\":\"/none/conf\"},"
                      "\"conf\":{\"spark.jars\":\"/c/x.jar\"},\"dependencies\":[\"/t/c.jar\"]");
    char *argv = argv_text();

    static const char begin[] =
        "/opt/sje/sje-spark|--own-site|ROOT/attempt|/none/conf|spark.submit.pyFiles|spark.files|"
        "spark.archives|spark.driver.extraClassPath|spark.extraListeners|--|"
        "ROOT/spark/bin/spark-submit|";
    if (strncmp(argv, begin, strlen(begin)) != 0) {
        fail_msg("%s", argv);
    }
    assert_non_null(strstr(p, "spark.submit.deployMode=client\n"));
    expect_last(p, "spark.jars", "/c/x.jar,/t/c.jar");
    free(argv);
    free(p);
}

static void expect_locale(const char *all, const char *type, const char *lang, const char *env,
                          const char *wanted)
{
    struct err e = {0};
    char *text =
        xasprintf("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"/a.py\",\"env\":{%s}}", env);

    setenv("LC_ALL", all, 1);
    setenv("LC_CTYPE", type, 1);
    setenv("LANG", lang, 1);
    assert_int_equal(prepare(text, &e), 0);
    char *got = xasprintf("%s|%s|%s", env_of("LC_ALL"), env_of("LC_CTYPE"), env_of("LANG"));
    assert_string_equal(got, wanted);
    free(got);
    free(text);
    unsetenv("LC_ALL");
    unsetenv("LC_CTYPE");
    unsetenv("LANG");
}

static void test_spark_has_a_locale_with_all_characters(void **state)
{
    (void)state;
    expect_locale("", "", "", "", "|C.UTF-8|");
    expect_locale("C", "", "POSIX", "", "|C.UTF-8|C");
    expect_locale("", "", "nn_NO.nowhere", "", "C.UTF-8||nn_NO.nowhere");
    expect_locale("", "C.UTF-8", "C", "\"LC_TIME\":\"nn_NO.nowhere\"", "C.UTF-8|C.UTF-8|C");
    expect_locale("C.UTF-8", "C", "C", "", "C.UTF-8|C|C");
    expect_locale("", "C.UTF-8", "C", "", "|C.UTF-8|C");
    expect_locale("", "", "C.UTF-8", "", "||C.UTF-8");
    expect_locale("", "", "C.UTF-8", "\"LC_ALL\":\"POSIX\"", "|C.UTF-8|POSIX");
}

static void test_spark_keeps_its_files_with_the_attempt(void **state)
{
    char *work = in_root("attempt/work");
    char *options = xasprintf("-Da=b \"-Djava.io.tmpdir=%s\"", work);

    (void)state;
    char *p = properties_of(",\"env\":{\"SPARK_SUBMIT_OPTS\":\"-Da=b\"}");
    expect_last(p, "spark.local.dir", work);
    expect_last(p, "spark.submit.callSystemExitOnMainExit", "true");
    assert_string_equal(env_of("TMPDIR"), work);
    assert_string_equal(env_of("SPARK_SUBMIT_OPTS"), options);
    free(p);
    p = properties_of(
        ",\"env\":{\"TMPDIR\":\"/big\",\"SPARK_SUBMIT_OPTS\":\"-Djava.io.tmpdir=/x\"},"
        "\"conf\":{\"spark.local.dir\":\"/y\","
        "\"spark.submit.callSystemExitOnMainExit\":\"false\"}");
    expect_last(p, "spark.local.dir", "/y");
    expect_last(p, "spark.submit.callSystemExitOnMainExit", "false");
    assert_string_equal(env_of("TMPDIR"), "/big");
    assert_string_equal(env_of("SPARK_SUBMIT_OPTS"), "-Djava.io.tmpdir=/x");
    free(p);
    free(options);
    free(work);
}

static void refuse(const char *text, int rc, const char *part)
{
    struct err e = {0};

    assert_int_equal(prepare(text, &e), rc);
    if (!strstr(e.text, part)) {
        fail_msg("%s", e.text);
    }
}

/* What the task names may be on a disk that hangs: its own process looks at it. */
static void test_spark_files_are_looked_for_by_the_task(void **state)
{
    static const char needs[] = "app:/none/a.py\0dependency:/none/x.csv";
    struct err e = {0};

    (void)state;
    assert_int_equal(prepare("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"/none/a.py\","
                             "\"dependencies\":[\"s3a://b/o.jar\",\"/none/x.csv\"]}",
                             &e),
                     0);
    assert_int_equal(plan.needs.len, sizeof(needs));
    assert_memory_equal(plan.needs.data, needs, sizeof(needs));
    assert_int_equal(prepare("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"/none/a.jar\"}", &e), 0);
    assert_string_equal(plan.needs.data, "jar:/none/a.jar");
    assert_int_equal(prepare("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"s3a://b/a.jar\"}", &e),
                     0);
    assert_int_equal(plan.needs.len, 0);
}

static void test_spark_refusals(void **state)
{
    (void)state;
    node.spark_home = "/nonexistent";
    refuse("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"s3a://b/a.py\"}", ERR_CONFIG,
           "executorNodeConfig.spark.home");
}

static void test_cluster_mode_is_let_go(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(prepare("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"s3a://b/"
                             "a.py\",\"master\":\"spark://h:7077,i:7077\",\"args\":[\"x y\"],"
                             "\"conf\":{\"spark.submit.deployMode\":\"cluster\"},\"resources\":{"
                             "\"memoryMb\":99,\"cpus\":1.5}}",
                             &e),
                     0);
    assert_true(plan.detach);
    char *properties = read_text("spark.properties");
    assert_non_null(strstr(properties, "spark.executor.memory=99m\n"));
    assert_non_null(strstr(properties, "spark.cores.max=2\n"));
    free(properties);
    /* On a standalone master sje-spark stands for it. */
    char *argv = argv_text();
    assert_string_equal(argv, "/opt/sje/sje-spark|ROOT/attempt");
    free(argv);
    char *order = read_text("cluster.json");
    assert_non_null(strstr(order, "\"ui\":[\"http://h:8080\",\"http://i:8080\"]"));
    assert_non_null(strstr(order, "\"attempt\":2,\"adoptFailed\":false,\"mainClass\":null"));
    assert_non_null(strstr(order, "\"s3a://b/a.py\",\"x y\"]"));
    free(order);
    assert_int_equal(executor_find("SparkApp")->stop_ms(dir), SPARK_STOP_MS);
}

static void test_a_yarn_application_is_let_go(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(prepare("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"s3a://b/a.py\","
                             "\"master\":\"yarn\",\"conf\":{\"spark.submit.deployMode\":"
                             "\"cluster\"}}",
                             &e),
                     0);
    assert_true(plan.detach);
    assert_non_null(strstr(plan.argv.data, "/bin/spark-submit"));
    assert_int_equal(executor_find("SparkApp")->stop_ms(dir), 0);
}

static void test_command(void **state)
{
    struct err e = {0};

    (void)state;
    setenv("SJE_DB_PASSWORD", "secret", 1);
    setenv("INHERITED", "yes", 1);
    assert_int_equal(
        prepare("{\"jobType\":\"Command\",\"command\":[\"echo\",\"a "
                "b\",\"$HOME;x\"],\"stdin\":\"text\","
                "\"cwd\":\"/tmp\",\"env\":{\"INHERITED\":\"no\",\"SJE_TOKEN\":\"78\"}}",
                &e),
        0);
    char *argv = argv_text();
    assert_string_equal(argv, "echo|a b|$HOME;x");
    free(argv);
    assert_string_equal(plan.cwd, "/tmp");
    assert_string_equal(env_of("INHERITED"), "no");
    assert_string_equal(env_of("SJE_TOKEN"), "77"); /* whatever an old task asks for */
    assert_null(env_of("SJE_DB_PASSWORD"));         /* the node's own settings stay with the node */
    char *in = read_text("stdin");
    assert_string_equal(in, "text");
    free(in);
    /* Not looked at here: it may be on a disk that hangs. */
    assert_int_equal(
        prepare("{\"jobType\":\"Command\",\"command\":[\"x\"],\"cwd\":\"/nonexistent\"}", &e), 0);
    assert_string_equal(plan.cwd, "/nonexistent");
    /* Nor does it get what the node's process has set for itself. */
    self_widen_pool();
    assert_int_equal(prepare("{\"jobType\":\"Command\",\"command\":[\"x\"]}", &e), 0);
    assert_null(env_of("UV_THREADPOOL_SIZE"));
    setenv("UV_THREADPOOL_SIZE", "5", 1); /* of whoever has started us */
    assert_int_equal(prepare("{\"jobType\":\"Command\",\"command\":[\"x\"]}", &e), 0);
    assert_string_equal(env_of("UV_THREADPOOL_SIZE"), "5");
    unsetenv("UV_THREADPOOL_SIZE");
}

static void test_plugins(void **state)
{
    static const char *const expected[] = {"SparkApp", "Command", "Noop", "Report", NULL};
    struct err e = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(expected) - 1; i++) {
        assert_string_equal(executor_names()[i], expected[i]);
    }
    assert_null(executor_names()[4]);
    assert_null(executor_find("notes.txt"));
    assert_int_equal(
        prepare("{\"jobType\":\"report\",\"parameters\":{\"p\":1},\"args\":[\"q\"]}", &e), 0);
    char *argv = argv_text();
    assert_string_equal(argv, "ROOT/plugins/Report|q");
    free(argv);
    char *in = read_text("stdin");
    assert_string_equal(in, "{\"jobType\":\"Report\",\"parameters\":{\"p\":1},\"args\":[\"q\"]}");
    free(in);
    assert_null(executor_find(JOB_NOOP)->prepare); /* nothing to start */
}

/* Found without a restart; what has gone is not offered, but what of it runs is judged. */
static void test_plugins_come_and_go(void **state)
{
    char *report CLEANUP(freep) = in_root("plugins/Report");
    char *fresh CLEANUP(freep) = in_root("plugins/Abc");
    struct err e = {0};

    (void)state;
    const char *old = executor_names()[3];
    assert_int_equal(executor_able(&node, "Report", &e), 0);
    write_file(fresh, "#!/bin/sh\n", 0700);
    assert_int_equal(executors_look(plugins, &e), 0);
    assert_string_equal(executor_names()[3], "Abc");
    assert_string_equal(executor_names()[4], "Report");
    assert_int_equal(unlink(report), 0);
    assert_int_equal(prepare("{\"jobType\":\"Report\"}", &e), 0); /* its process finds out */
    assert_int_equal(chmod(fresh, 0600), 0);
    assert_int_equal(executors_look(plugins, &e), 0);
    assert_null(executor_names()[3]);
    assert_string_equal(executor_names_known()[3], "Abc"); /* its tasks wait for it */
    assert_string_equal(old, "Report");
    assert_non_null(executor_find("Report"));
    assert_int_equal(executor_able(&node, "Report", &e), ERR_NOT_FOUND);
    assert_int_equal(executor_able(&node, "Nonsense", &e), ERR_NOT_FOUND);
    assert_int_equal(chmod(fresh, 0700), 0);
    assert_int_equal(executors_look(plugins, &e), 0);
    assert_string_equal(executor_names()[3], "Abc");
    assert_int_equal(executor_able(&node, "Abc", &e), 0);
}

/* ---- whose fault ---- */

#define APP "{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"s3a://b/a.py\"%s}"

static void expect_no_java(const char *part)
{
    char *text CLEANUP(freep) = xasprintf(APP, "");
    struct err e = {0};

    assert_int_equal(executor_able(&node, JOB_SPARK, &e), ERR_CONFIG);
    if (!strstr(e.text, part)) {
        fail_msg("%s", e.text);
    }
    refuse(text, ERR_CONFIG, part);
}

static void expect_script(const char *line, const char *missing)
{
    struct err e = {0};
    char *path CLEANUP(freep) = xasprintf("%s/Script", plugins);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(line, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0700), 0);
    assert_int_equal(executors_look(plugins, &e), 0);
    int rc = executor_able(&node, "Script", &e);
    assert_int_equal(rc, missing ? ERR_CONFIG : 0);
    if (missing && !strstr(e.text, missing)) {
        fail_msg("%s", e.text);
    }
}

/* `env` is always there, and says 127 as if the plug-in had failed. */
static void test_a_plugin_whose_interpreter_is_missing(void **state)
{
    (void)state;
    expect_script("#!/bin/sh\n", NULL);
    expect_script("#!/usr/bin/env sh\n", NULL);
    expect_script("#!/usr/bin/env -S sh -e\n", NULL);
    expect_script("#! /usr/bin/env A=b no-such\n", NULL); /* not understood: it is tried */
    expect_script("no script", NULL);
    expect_script("", NULL);
    expect_script("#!/usr/bin/env no-such-interpreter\r\n", "no-such-interpreter");
    expect_script("#!/usr/bin/env -S no-such-interpreter -e\n", "no-such-interpreter");
    expect_script("#!/no/such/interpreter\n", "/no/such/interpreter");
}

static void test_spark_needs_java(void **state)
{
    char *program CLEANUP(freep) = in_root("java/bin/java");
    char *conf CLEANUP(freep) = in_root("spark/conf");
    char *site CLEANUP(freep) = in_root("spark/conf/spark-env.sh");
    char *own CLEANUP(freep) = xasprintf(APP, ",\"env\":{\"JAVA_HOME\":\"/of/the/task\"}");
    char *path CLEANUP(freep) = xstrdup(getenv("PATH"));
    struct err e = {0};

    (void)state;
    assert_int_equal(executor_able(&node, JOB_SPARK, &e), 0);
    assert_int_equal(unlink(program), 0);
    expect_no_java("no bin/java in JAVA_HOME");
    assert_int_equal(prepare(own, &e), 0);
    unsetenv("JAVA_HOME");
    setenv("PATH", java, 1);
    expect_no_java("PATH has none");
    setenv("PATH", path, 1);
    assert_int_equal(mkdir(conf, 0700), 0);
    setenv("JAVA_HOME", "/nonexistent", 1);
    write_file(site, "# JAVA_HOME=/old\n", 0600);
    expect_no_java("no bin/java");
    write_file(site, "  export JAVA_HOME=/by/a/shell\n", 0600);
    assert_int_equal(executor_able(&node, JOB_SPARK, &e), 0);
    node.python = "/none/python3";
    assert_int_equal(executor_able(&node, JOB_SPARK, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "spark.python is /none/python3"));
    node.python = "no-such-python";
    assert_int_equal(executor_able(&node, JOB_SPARK, &e), ERR_CONFIG);
    node.python = "/bin/sh";
    assert_int_equal(executor_able(&node, JOB_SPARK, &e), 0);
    node.python = "";
    node.spark_home = "/nonexistent";
    assert_int_equal(executor_able(&node, JOB_SPARK, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "executorNodeConfig.spark.home"));
    assert_int_equal(executor_able(&node, JOB_COMMAND, &e), 0);
    assert_int_equal(executor_able(&node, JOB_NOOP, &e), 0);
}

static void expect_denied(const char *type, const char *path)
{
    char *text CLEANUP(freep) = xasprintf("nobody cannot run %s/%s: Permission denied", root, path);
    char *task CLEANUP(freep) = xasprintf(APP, "");
    struct err e = {0};

    assert_int_equal(executor_able(&node, type, &e), ERR_CONFIG);
    assert_string_equal(e.text, text);
    if (streq(type, JOB_SPARK)) {
        refuse(task, ERR_CONFIG, text);
    }
}

/* It is closed to that user for a moment. */
static void close_to_user(const char *type, const char *path, mode_t mode, const char *denied)
{
    char *full CLEANUP(freep) = in_root(path);
    struct err e = {0};

    assert_int_equal(chmod(full, mode), 0);
    expect_denied(type, denied);
    assert_int_equal(chmod(full, 0755), 0);
    assert_int_equal(executor_able(&node, type, &e), 0);
}

/* What only the worker may run is not there for the tasks of another user. */
static void test_what_the_task_user_cannot_run(void **state)
{
    static const char *const paths[] = {
        "",         "spark",         "spark/bin", "spark/bin/spark-submit", "java",
        "java/bin", "java/bin/java", "plugins",   "plugins/Report"};
    enum { ANY = 65534, ONE_MORE = 65533 };
    char name[] = "nobody";
    char user_home[] = "";
    gid_t groups[] = {ANY, ONE_MORE};
    struct task_user user = {name, user_home, ANY, ANY, groups, ARRAY_LEN(groups)};
    char *python CLEANUP(freep) = in_root("java/bin/python");

    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        char *path CLEANUP(freep) = in_root(paths[i]);
        assert_int_equal(chmod(path, 0755), 0);
    }
    node.user = &user;
    close_to_user(JOB_SPARK, "java", 0700, "java/bin/java");
    close_to_user(JOB_SPARK, "java/bin/java", 0700, "java/bin/java");
    close_to_user(JOB_SPARK, "spark/bin", 0700, "spark/bin/spark-submit");
    close_to_user(JOB_SPARK, "spark/bin/spark-submit", 0744, "spark/bin/spark-submit");
    close_to_user("Report", "plugins", 0700, "plugins/Report");
    close_to_user("Report", "plugins/Report", 0711, "plugins/Report"); /* sh could not read it */
    write_file(python, "#!/bin/sh\n", 0755);
    node.python = python;
    close_to_user(JOB_SPARK, "java/bin/python", 0700, "java/bin/python");
    assert_int_equal(chown(python, 0, ONE_MORE), 0);
    assert_int_equal(chmod(python, 0750), 0);
    assert_int_equal(executor_able(&node, JOB_SPARK, &(struct err){0}), 0);
}

static void test_the_user_is_named(void **state)
{
    char name[] = "nobody";
    struct task_user user = {.name = name};
    struct exec_exit e = {.error = EACCES, .message = "cannot run \"x\": Permission denied"};

    (void)state;
    exec_name_user(&node, &e);
    assert_string_equal(e.message, "cannot run \"x\": Permission denied");
    node.user = &user;
    exec_name_user(&node, &e);
    assert_string_equal(e.message, "cannot run \"x\": Permission denied, as user nobody");
    snprintf(e.message, sizeof(e.message), "%0255d", 1); /* no room */
    exec_name_user(&node, &e);
    assert_int_equal(strlen(e.message), 255);
}

static void test_whose_fault_it_is(void **state)
{
    static const struct {
        const char *type;
        const char *stage;
        int error;
        bool own_cwd;
        enum exec_fault fault;
        bool once; /* tried on another node first, where there is one */
    } cases[] = {
        {JOB_COMMAND, "exec", ENOENT, true, EXEC_FAULT_NONE, true},
        {JOB_COMMAND, "exec", EACCES, true, EXEC_FAULT_NONE, true},
        {JOB_COMMAND, "exec", ENOEXEC, true, EXEC_FAULT_NONE, true},
        {JOB_COMMAND, "exec", E2BIG, true, EXEC_FAULT_NONE, false},
        {JOB_COMMAND, "interpreter", ENOENT, true, EXEC_FAULT_NONE, true},
        {JOB_COMMAND, "cwd", ENOENT, false, EXEC_FAULT_NONE, true},
        {JOB_COMMAND, "cwd", EACCES, false, EXEC_FAULT_NONE, true},
        {JOB_COMMAND, "cwd", ELOOP, false, EXEC_FAULT_NONE, true},
        {JOB_COMMAND, "cwd", EIO, false, EXEC_FAULT_ATTEMPT, false},
        {JOB_COMMAND, "cwd", ENOTCONN, false, EXEC_FAULT_ATTEMPT, false},
        {JOB_COMMAND, "cwd", ESTALE, false, EXEC_FAULT_ATTEMPT, false},
        {JOB_COMMAND, "cwd", ENOMEM, false, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "cwd", EAGAIN, false, EXEC_FAULT_ATTEMPT, false},
        {JOB_COMMAND, "cwd", EAGAIN, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "cwd", ENOENT, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "exec", ENOSPC, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "exec", EIO, true, EXEC_FAULT_ATTEMPT,
         false}, /* also a program that is cut off */
        {JOB_COMMAND, "exec", ENOTCONN, true, EXEC_FAULT_ATTEMPT, false},
        {JOB_COMMAND, "exec", ETIMEDOUT, true, EXEC_FAULT_ATTEMPT, false},
        {JOB_COMMAND, "exec", EHOSTDOWN, true, EXEC_FAULT_ATTEMPT, false},
        {JOB_COMMAND, "exec", ENAMETOOLONG, true, EXEC_FAULT_NONE, false},
        {JOB_COMMAND, "exec", EROFS, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "exec", EMFILE, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "exec", EAGAIN, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "fork", EAGAIN, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "pipe", EMFILE, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "setup", 0, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "stdin", ENOENT, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "plan", 0, true, EXEC_FAULT_NODE, false},
        {JOB_COMMAND, "", 0, true, EXEC_FAULT_NONE, false}, /* an earlier shim */
        {JOB_COMMAND, "what", ENOSPC, true, EXEC_FAULT_NONE, false},
        {JOB_SPARK, "exec", ENOENT, true, EXEC_FAULT_TYPE, false},
        {JOB_SPARK, "exec", E2BIG, true, EXEC_FAULT_NONE, false},
        {JOB_SPARK, "exec", ENOSPC, true, EXEC_FAULT_NODE, false},
        {JOB_SPARK, "exec", EIO, true, EXEC_FAULT_NODE, false},
        {JOB_SPARK, "exec", ESTALE, true, EXEC_FAULT_TYPE, false},
        {JOB_SPARK, "file", ENOENT, true, EXEC_FAULT_NONE, true},
        {JOB_SPARK, "file", ENOEXEC, true, EXEC_FAULT_NONE, true},    /* no jar */
        {JOB_SPARK, "file", EAGAIN, true, EXEC_FAULT_ATTEMPT, false}, /* a lease on it */
        {JOB_SPARK, "file", ENFILE, true, EXEC_FAULT_NODE, false},
        {JOB_SPARK, "file", ESTALE, true, EXEC_FAULT_ATTEMPT, false},
        {"Report", "exec", ENOENT, true, EXEC_FAULT_TYPE, false},
        {"Report", "interpreter", ENOENT, true, EXEC_FAULT_TYPE, false},
        {"Report", "cwd", ENOENT, false, EXEC_FAULT_NONE, true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct exec_exit e = {.reason = "launch", .error = cases[i].error};
        char type[16];
        char cwd[] = "/x";
        struct task_spec s = {.job_type = type, .cwd = cases[i].own_cwd ? NULL : cwd};
        struct exec_attempt a = {.spec = &s};

        snprintf(type, sizeof(type), "%s", cases[i].type);

        snprintf(e.stage, sizeof(e.stage), "%s", cases[i].stage);
        enum exec_fault f = exec_fault_of_exit(&a, &e);
        if (f != cases[i].fault) {
            fail_msg("%s %s %d: %u", cases[i].type, cases[i].stage, cases[i].error, f);
        }
        a.elsewhere = true; /* what is missing here may be there */
        enum exec_fault then = f == EXEC_FAULT_NONE && cases[i].once ? EXEC_FAULT_ATTEMPT : f;
        assert_int_equal(exec_fault_of_exit(&a, &e), then);
        a.returns = EXEC_NODES_MAX; /* not for ever */
        assert_int_equal(exec_fault_of_exit(&a, &e), f);
        a.losses = EXEC_DOUBTS_MAX; /* nor this */
        assert_int_equal(exec_fault_of_exit(&a, &e), f == EXEC_FAULT_ATTEMPT ? EXEC_FAULT_NONE : f);
        e.launched = true;
        assert_int_equal(exec_fault_of_exit(&a, &e), EXEC_FAULT_NONE);
        e.launched = false;
        snprintf(e.reason, sizeof(e.reason), "lease");
        assert_int_equal(exec_fault_of_exit(&a, &e), EXEC_FAULT_NONE);
    }
    assert_int_equal(exec_fault_of_error(ERR_IO), EXEC_FAULT_NODE);
    assert_int_equal(exec_fault_of_error(ERR_CONFIG), EXEC_FAULT_TYPE);
    assert_int_equal(exec_fault_of_error(ERR_CONFLICT), EXEC_FAULT_ATTEMPT);
    assert_int_equal(exec_fault_of_error(ERR_NOT_FOUND), EXEC_FAULT_NONE);
    assert_int_equal(exec_fault_of_error(ERR_INVALID), EXEC_FAULT_NONE);
    assert_int_equal(exec_fault_of_error(ERR_TOO_LARGE), EXEC_FAULT_NONE);
}

/* ---- the end ---- */

static struct exec_exit ended(int code, int sig, const char *reason)
{
    struct exec_exit e = {.launched = true, .exit_code = sig ? -1 : code, .signal = sig};

    snprintf(e.reason, sizeof(e.reason), "%s", reason);
    return e;
}

static void judge(struct exec_exit e, enum exec_outcome outcome, const char *kind, const char *part)
{
    struct exec_result r = {0};

    executor_command.finish(&node, &attempt, &e, &r);
    assert_int_equal(r.outcome, outcome);
    if (kind) {
        assert_string_equal(json_get_string(r.error, "kind"), kind);
        if (!strstr(json_get_string(r.error, "message"), part)) {
            fail_msg("%s", json_get_string(r.error, "message"));
        }
    } else {
        assert_null(r.error);
    }
    exec_result_free(&r);
}

static void test_judging(void **state)
{
    struct err err = {0};
    struct exec_exit e;

    (void)state;
    assert_int_equal(
        prepare("{\"jobType\":\"Command\",\"command\":[\"x\"],\"timeoutSeconds\":9}", &err), 0);
    judge(ended(0, 0, "exit"), EXEC_SUCCEEDED, NULL, "");
    judge(ended(3, 0, "exit"), EXEC_FAILED, "exit", "exit code 3");
    judge(ended(0, 9, "exit"), EXEC_FAILED, "killed", "signal 9");
    judge(ended(0, 15, "timeout"), EXEC_FAILED, "timeout", "timeoutSeconds (9)");
    judge(ended(0, 15, "cancel"), EXEC_CANCELLED, "cancelled", "request");
    judge(ended(0, 9, "lease"), EXEC_LOST, "lost", "lease");
    judge(ended(0, 0, "shutdown"), EXEC_LOST, "lost", "shutdown");
    e = ended(0, 9, "exit");
    e.oom = true;
    judge(e, EXEC_FAILED, "oom", "memory");
    e = ended(127, 0, "launch");
    e.launched = false;
    snprintf(e.message, sizeof(e.message), "x: No such file or directory");
    judge(e, EXEC_FAILED, "launch", "No such file");
    snprintf(e.stage, sizeof(e.stage), "exec");
    e.error = ENOENT;
    judge(e, EXEC_FAILED, "launch", "No such file");
    e.error = ENOSPC;
    judge(e, EXEC_RETURNED, "node", "No such file");
}

static void judge_disk(struct exec_exit e, const char *message, const char *warning,
                       const char *output)
{
    struct exec_result r = {0};

    node.name = "n3";
    executor_command.finish(&node, &attempt, &e, &r);
    exec_tell_node(&node, &attempt, &e, &r);
    const char *told = json_get_string(r.error, "message");
    assert_int_equal(!told, !message);
    if (message && (!strstr(told, message) || !strstr(told, " below /"))) {
        fail_msg("%s", told);
    }
    assert_int_equal(!r.warning, !warning);
    if (warning) {
        assert_string_equal(r.warning, warning);
    }
    assert_string_equal(output ? json_get_string(r.output, "warning") : "", output ? output : "");
    exec_result_free(&r);
}

static void test_a_full_disk_is_told(void **state)
{
    static const char out[] =
        "5 bytes of stdout were not kept: No space left on device, on node n3";
    struct err err = {0};
    struct exec_exit e = ended(0, 0, "exit");

    (void)state;
    assert_int_equal(prepare("{\"jobType\":\"Command\",\"command\":[\"x\"]}", &err), 0);
    judge_disk(e, NULL, NULL, NULL);
    e.log_error = ENOSPC; /* and the end was kept in its place */
    judge_disk(e, NULL, NULL, NULL);
    e.stdout_dropped = 5;
    judge_disk(e, NULL, out, out);
    e.stderr_dropped = 7;
    e.exit_code = 3;
    judge_disk(e, "exit code 3; its node n3 had no space left",
               "5 bytes of stdout and 7 bytes of stderr were not kept: No space left on device, "
               "on node n3",
               NULL);
}

static void judge_lost(const char *reason, const char *message, const char *told)
{
    struct exec_exit e = ended(0, 9, reason);
    struct exec_result r = {0};

    snprintf(e.message, sizeof(e.message), "%s", message);
    executor_command.finish(&node, &attempt, &e, &r);
    exec_tell_node(&node, &attempt, &e, &r);
    assert_int_equal(r.outcome, EXEC_LOST);
    assert_string_equal(json_get_string(r.error, "message"), told);
    exec_result_free(&r);
}

static void test_why_it_was_ended(void **state)
{
    struct err err = {0};

    (void)state;
    assert_int_equal(prepare("{\"jobType\":\"Command\",\"command\":[\"x\"]}", &err), 0);
    node.name = "n3";
    judge_lost("shutdown", "", "worker n3 was stopped by SIGINT, which ends its tasks");
    judge_lost("shutdown", "its shim was told", "its shim was told");
    judge_lost("crash", "its shim was killed", "its shim was killed");
    judge_lost("lease", "", "its lease was not renewed in time; the task was ended");
    attempt.lease_ms = 15000;
    judge_lost("lease", "", "its lease (15 s) was not renewed in time; the task was ended");
    judge_lost("lease", PLAN_AWAY,
               "its worker's process was away for longer than the lease (15 s); the shim ended the "
               "task");
    judge_lost("lease", "it stood still", "it stood still");
    attempt.lease_ms = 0;
}

/* Out of memory is told apart by what the program said last. */
static void test_memory(void **state)
{
    static const struct {
        const char *kind;
        const char *last;
    } lines[] = {
        {"oom", "java.lang.OutOfMemoryError: Java heap space"},
        {"oom", "Exception in thread \"main\" java.lang.OutOfMemoryError: Metaspace"},
        {"oom", "MemoryError"},
        {"oom", "MemoryError: Unable to allocate 8.00 GiB for an array"},
        {"oom", "  what():  std::bad_alloc"},
        {"oom", "sh: 1: Cannot allocate memory"},
        {"oom", "Container killed by YARN for exceeding physical memory limits."},
        {"exit", "ValueError: MemoryError is not what this is"},
        {"exit", "no such table: memory"},
    };
    char *path = in_root("attempt/stderr.00000000000000000000");
    struct err err = {0};

    (void)state;
    assert_int_equal(prepare("{\"jobType\":\"Command\",\"command\":[\"x\"]}", &err), 0);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        char *text CLEANUP(freep) = xasprintf("working\n%s\n\n", lines[i].last);

        write_file(path, text, 0600);
        judge(ended(1, 0, "exit"), EXEC_FAILED, lines[i].kind, str_trim(str_of(lines[i].last)).p);
        judge(ended(0, 0, "exit"), EXEC_SUCCEEDED, NULL, "");
        judge(ended(0, 15, "timeout"), EXEC_FAILED, "timeout", "timeoutSeconds");
    }
    free(path);
    judge(ended(52, 0, "exit"), EXEC_FAILED, "exit", "memory"); /* Spark's code, but no Spark */
}

static void check_output(const char *text, const char *expected)
{
    struct exec_exit e = ended(0, 0, "exit");
    struct exec_result r = {0};
    char *path = in_root("attempt/output");

    write_file(path, text, 0600);
    free(path);
    executor_command.finish(&node, &attempt, &e, &r);
    assert_int_equal(r.outcome, EXEC_SUCCEEDED);
    char *got = r.output ? json_text(r.output) : xstrdup("none");
    if (!strstr(got, expected)) {
        fail_msg("%s", got);
    }
    free(got);
    exec_result_free(&r);
}

static void test_output(void **state)
{
    struct err err = {0};
    char *big = xmalloc(TASK_OUTPUT_MAX + 3);

    (void)state;
    assert_int_equal(prepare("{\"jobType\":\"Command\",\"command\":[\"x\"]}", &err), 0);
    check_output("{\"n\": [1, 2]}\n", "{\"n\":[1,2]}");
    check_output("", "none");
    check_output("not json", "SJE_OUTPUT is not JSON");
    check_output("not json", "\"text\":\"not json\"");
    memset(big, ' ', TASK_OUTPUT_MAX + 2);
    check_output(big, "larger than 65536 bytes");
    free(big);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_spark_command_line),
        T(test_spark_dependencies_are_added),
        T(test_spark_settings_with_blanks),
        T(test_spark_site_of_a_task),
        T(test_spark_has_a_locale_with_all_characters),
        T(test_spark_keeps_its_files_with_the_attempt),
        T(test_spark_listener),
        T(test_spark_files_are_looked_for_by_the_task),
        T(test_spark_refusals),
        T(test_cluster_mode_is_let_go),
        T(test_a_yarn_application_is_let_go),
        T(test_command),
        T(test_plugins),
        T(test_plugins_come_and_go),
        T(test_a_plugin_whose_interpreter_is_missing),
        T(test_spark_needs_java),
        T(test_what_the_task_user_cannot_run),
        T(test_the_user_is_named),
        T(test_whose_fault_it_is),
        T(test_judging),
        T(test_a_full_disk_is_told),
        T(test_why_it_was_ended),
        T(test_memory),
        T(test_output),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "internal/redact.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static void test_names(void **state)
{
    static const char *const secret[] = {
        "password",
        "spark.ssl.keyPassword",
        "spark.hadoop.fs.s3a.secret.key",
        "spark.hadoop.fs.s3a.access.key",
        "spark.hadoop.fs.azure.account.key.acct.dfs.core.windows.net",
        "spark.hadoop.fs.azure.sas.c.acct.blob.core.windows.net",
        "fs.azure.account.oauth2.client.secret",
        "spark.es.net.http.auth.pass",
        "AZURE_STORAGE_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "GITHUB_TOKEN",
        "MYSQL_PWD",
        "PGPASSWORD",
        "SSHPASS_PASS",
        "OPENAI_API_KEY",
        "accessKeyId",
        "AccountKey",
        "apikey",
        "X-Api-Key",
        "SharedAccessSignature",
        "sig",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "PRIVATE_KEY_PATH",
        "spark.io.encryption.key",
        "spark.yarn.kerberos.relogin.jwt",
    };
    static const char *const open[] = {
        "",
        "spark.executor.memory",
        "spark.sql.shuffle.partitions",
        "spark.hadoop.fs.s3a.endpoint",
        "spark.authenticate",
        "HOME",
        "PATH",
        "key",
        "keys",
        "MONKEY",
        "bypass.cache",
        "passenger.count",
        "spark.driver.extraClassPath",
        "compass",
        "spark.keyspace",
        "author",
        "signal",
        "KEYCLOAK_URL",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(secret); i++) {
        if (!redact_is_secret(str_of(secret[i]))) {
            fail_msg("shown: %s", secret[i]);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(open); i++) {
        if (redact_is_secret(str_of(open[i]))) {
            fail_msg("hidden: %s", open[i]);
        }
    }
}

static void test_texts(void **state)
{
    static const struct {
        const char *in;
        const char *out; /* NULL: nothing to hide */
    } cases[] = {
        {"postgres://u:PW@h/db", "postgres://u:***@h/db"},
        {"postgres://u:P@W@h/db", "postgres://u:***@h/db"},
        {"postgres://u:P/W@h/db", "postgres://u:***@h/db"},
        {"amqp://:x@h", "amqp://:***@h"},
        {"see https://a:b@h/x and ftp://c:d@i", "see https://a:***@h/x and ftp://c:***@i"},
        {"jdbc:postgresql://h/db?user=u&password=p&ssl=true",
         "jdbc:postgresql://h/db?user=u&password=***&ssl=true"},
        {"jdbc:sqlserver://h:1433;databaseName=d;user=u;password=p;",
         "jdbc:sqlserver://h:1433;databaseName=d;user=u;password=***;"},
        {"jdbc:oracle:thin:scott/tiger@//h:1521/x", "jdbc:oracle:thin:scott/***@//h:1521/x"},
        {"jdbc:mysql://u:p@h:3306/db", "jdbc:mysql://u:***@h:3306/db"},
        {"DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abc==;EndpointSuffix=x",
         "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=***;EndpointSuffix=x"},
        {"Endpoint=sb://h/;SharedAccessKeyName=n;SharedAccessKey=k=",
         "Endpoint=sb://h/;SharedAccessKeyName=***;SharedAccessKey=***"},
        {"https://a.blob.core.windows.net/c?sv=1&sig=abc%3D",
         "https://a.blob.core.windows.net/c?sv=1&sig=***"},
        {"-Djavax.net.ssl.trustStorePassword=changeit -Xmx1g",
         "-Djavax.net.ssl.trustStorePassword=*** -Xmx1g"},
        {"--password=x", "--password=***"},
        {"user=u password='p q' x", "user=u password='***' x"},
        {"host=h password=p user=u", "host=h password=*** user=u"},
        {"org.apache.kafka.PlainLoginModule required username=\"u\" password=\"p\";",
         "org.apache.kafka.PlainLoginModule required username=\"u\" password=\"***\";"},
        {"http://h:80/users/@me", NULL},
        {"http://h:8080", NULL},
        {"me@example.org", NULL},
        {"git@github.com:x/y.git", NULL},
        {"a=b", NULL},
        {"", NULL},
        {"password=***", NULL},
        {"password=", NULL},
        {"://", NULL},
        {"://:@", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *text CLEANUP(freep) = redact_text(cases[i].in);
        bool same = text && cases[i].out ? streq(text, cases[i].out) : !text && !cases[i].out;

        if (!same) {
            fail_msg("%s -> %s", cases[i].in, text ? text : "(as it was)");
        }
    }
}

static void test_values(void **state)
{
    json_auto_t *j = NULL;
    const char *in = "{\"a\":[\"ftp://u:p@h\",1,null],\"b\":{\"password\":\"x\",\"token\":5,"
                     "\"secret\":\"\"},\"labels\":{\"password\":\"shown\"},\"c\":\"k://u:p@h\"}";

    (void)state;
    assert_int_equal(json_read(in, strlen(in), &j, NULL), 0);
    assert_true(redact(j, "labels"));
    char *text CLEANUP(freep) = json_text(j);
    assert_string_equal(text,
                        "{\"a\":[\"ftp://u:***@h\",1,null],\"b\":{\"password\":\"***\",\"token\":5,"
                        "\"secret\":\"\"},\"labels\":{\"password\":\"shown\"},"
                        "\"c\":\"k://u:***@h\"}");
    assert_false(redact(j, "labels"));
}

/* A MiB of nothing but separators: it took minutes, of one turn of the loop. */
static void test_hostile_texts_take_no_time(void **state)
{
    enum { LEN = 1024 * 1024 };
    static const char *const pieces[] = {"://", ":thin:", ":oci:", "-",
                                         "--a", "?a",     "'a",    "a://1:2/"};
    static const char *const ends[] = {" =", "@ =", " @", "=", "/@"};
    char *text CLEANUP(freep) = xmalloc(LEN + 16);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pieces) * ARRAY_LEN(ends); i++) {
        const char *piece = pieces[i / ARRAY_LEN(ends)];
        size_t n = strlen(piece);
        clock_t begun = clock();

        for (size_t k = 0; k < LEN; k++) {
            text[k] = piece[k % n];
        }
        snprintf(text + LEN, 16, "%s", ends[i % ARRAY_LEN(ends)]);
        free(redact_text(text));
        assert_true(clock() - begun < CLOCKS_PER_SEC);
    }
}

static void test_long_names(void **state)
{
    char text[2000];

    (void)state;
    memset(text, 'a', sizeof(text));
    memcpy(text + 507, "password", 8);
    assert_true(redact_is_secret((struct str){text, sizeof(text)}));
    memcpy(text + 507, "passwort", 8);
    assert_false(redact_is_secret((struct str){text, sizeof(text)}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),      cmocka_unit_test(test_texts),
        cmocka_unit_test(test_values),     cmocka_unit_test(test_hostile_texts_take_no_time),
        cmocka_unit_test(test_long_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

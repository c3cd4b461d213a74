#include "cmd/sje/command.h"

#include "cmd/sje/text.h"

#define DAY_S      86400
#define WAIT_MAX_S (366 * DAY_S)

static const char *const states[] = {"QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", NULL};
static const char *const log_choices[] = {"stdout", "stderr", "none", NULL};
const char *const shells[] = {"bash", "zsh", "fish", NULL};

#define FLAG(name_, letter_, help_)                                                                \
    {                                                                                              \
        .name = (name_), .letter = (letter_), .kind = OPTION_FLAG, .help = (help_)                 \
    }
#define TEXT(name_, letter_, value_, help_)                                                        \
    {                                                                                              \
        .name = (name_), .letter = (letter_), .kind = OPTION_TEXT, .value = (value_),              \
        .help = (help_)                                                                            \
    }
#define CHOICE(name_, letter_, value_, choices_, help_)                                            \
    {                                                                                              \
        .name = (name_), .letter = (letter_), .kind = OPTION_CHOICE, .value = (value_),            \
        .choices = (choices_), .help = (help_)                                                     \
    }
#define NUMBER(name_, letter_, value_, min_, max_, help_)                                          \
    {                                                                                              \
        .name = (name_), .letter = (letter_), .kind = OPTION_NUMBER, .value = (value_),            \
        .min = (min_), .max = (max_), .help = (help_)                                              \
    }

const struct option_row global_options[] = {
    TEXT("url", 0, "URL", "the manager; else SJE_URL, else http://127.0.0.1:8082"),
    FLAG("json", 0, "print the manager's JSON on stdout, one document"),
    FLAG("quiet", 'q', "only what was asked for: no progress, no hints"),
    FLAG("no-color", 0, "no colours; so does NO_COLOR in the environment"),
    NUMBER("request-timeout", 0, "SECONDS", 1, DAY_S,
           "how long to wait for one answer of the manager; default 30"),
    FLAG("help", 'h', "this help; of a command: sje COMMAND --help"),
    FLAG("version", 'V', "the version of this program"),
    {0},
};

static const struct option_row submit_options[] = {
    FLAG("wait", 'w', "show progress and the log until it ends"),
    TEXT("idempotency-key", 0, "KEY",
         "the same key with the same file is accepted once; at most 128 characters"),
    NUMBER("timeout", 0, "SECONDS", 0, WAIT_MAX_S, "with --wait: how long; default: for ever"),
    NUMBER("retry", 0, "SECONDS", 0, DAY_S,
           "with --wait: how long to try again while the manager is away; default 60"),
    CHOICE("log", 0, "STREAM", log_choices,
           "with --wait: the log shown above the bar; default stdout"),
    {0},
};

static const struct option_row wait_options[] = {
    NUMBER("timeout", 0, "SECONDS", 0, WAIT_MAX_S, "how long to wait; default: for ever"),
    NUMBER("retry", 0, "SECONDS", 0, DAY_S,
           "how long to try again while the manager is away; default 60"),
    CHOICE("log", 0, "STREAM", log_choices, "the log shown above the bar; default stdout"),
    {0},
};

static const struct option_row log_options[] = {
    FLAG("follow", 'f', "go on until the task ends"),
    FLAG("stderr", 'e', "the standard error instead of the standard output"),
    NUMBER("attempt", 'a', "N", 1, INT32_MAX, "of that attempt; default: the latest"),
    {.name = "tail",
     .letter = 't',
     .kind = OPTION_SIZE,
     .value = "BYTES",
     .max = (int64_t)1 << 50,
     .help = "only the last ones, such as 4096 or 64K"},
    NUMBER("retry", 0, "SECONDS", 0, DAY_S,
           "with --follow: how long to try again while the manager is away; default 60"),
    {0},
};

static const struct option_row list_options[] = {
    CHOICE("state", 's', "STATE", states, "only tasks in that state"),
    TEXT("job-id", 'j', "JOB", "only tasks with that jobId"),
    TEXT("job-type", 0, "TYPE", "only tasks with that jobType"),
    NUMBER("limit", 'n', "N", 1, 1000, "how many; default 20"),
    FLAG("all", 0, "all there are, page by page"),
    {0},
};

static const struct option_row help_options[] = {
    {.name = "markdown", .kind = OPTION_FLAG, .help = "the reference as Markdown", .hidden = true},
    {0},
};

const struct command commands[] = {
    {"submit", "submit a task or many", OPERAND_FILE, "FILE|-", submit_options,
     "Sends the JSON of FILE, or of standard input for \"-\": one task (an object), or many (an "
     "array, or {\"tasks\": [...]}), which are accepted all or none. Prints the id, the state and "
     "the jobId of each; with --quiet only the ids.\n\n"
     "With --wait, shows what happens until the task ends, then a summary. Ctrl-C stops the "
     "waiting, never the task. While the manager restarts, it is tried again for a minute.\n\n"
     "A submission carries an idempotency key (a random one unless you give one), so that it is "
     "repeated safely when its answer was lost on the way.",
     "sje submit --wait examples/tasks/wordcount.json\n"
     "id=$(sje submit -q task.json)\n"
     "echo '{\"jobType\": \"Command\", \"command\": [\"date\"]}' | sje submit -",
     submit_run},
    {"status", "show a task", OPERAND_TASK, "ID", NULL,
     "Shows everything that is known about a task.",
     "sje status 01890a5d-ac96-774b-bcce-b302099a8057", status_run},
    {"wait", "wait for a task to end", OPERAND_TASK, "ID", wait_options,
     "Shows what happens until the task ends, then a summary. On a terminal: its log and below it "
     "a line with state, progress and time. Elsewhere: a line for each change.\n\n"
     "Ctrl-C stops the waiting, never the task. While the manager restarts, it is tried again for "
     "a minute.",
     "sje wait 01890a5d-ac96-774b-bcce-b302099a8057 --timeout 600", wait_run},
    {"log", "print what a task has written", OPERAND_TASK, "ID", log_options,
     "Prints the standard output of a task. On a terminal control characters are made harmless; "
     "into a pipe or a file the bytes come as they are. With --follow, goes on until the task "
     "ends, over all its attempts.",
     "sje log -f 01890a5d-ac96-774b-bcce-b302099a8057\n"
     "sje log --stderr --tail 64K 01890a5d-ac96-774b-bcce-b302099a8057",
     log_run},
    {"result", "print the output of a task", OPERAND_TASK, "ID", NULL,
     "Prints the output of a task that succeeded: text as it is, anything else as JSON. Of one "
     "that failed, the error.",
     "sje result 01890a5d-ac96-774b-bcce-b302099a8057", result_run},
    {"list", "list tasks, newest first", OPERAND_NONE, NULL, list_options,
     "Lists tasks, the newest first.", "sje list --state FAILED --limit 50\nsje list --all --json",
     list_run},
    {"cancel", "cancel a task", OPERAND_TASK, "ID", NULL,
     "A task that is queued is cancelled at once; one that runs is told to stop, and killed when "
     "it does not.",
     "sje cancel 01890a5d-ac96-774b-bcce-b302099a8057", cancel_run},
    {"requeue", "run a failed or cancelled task again", OPERAND_TASK, "ID", NULL,
     "Puts a task that failed or was cancelled back into its queue, as a new attempt.",
     "sje requeue 01890a5d-ac96-774b-bcce-b302099a8057", requeue_run},
    {"events", "show the audit trail of a task", OPERAND_TASK, "ID", NULL,
     "Shows everything that happened to a task, in order.",
     "sje events 01890a5d-ac96-774b-bcce-b302099a8057", events_run},
    {"workers", "list the workers", OPERAND_NONE, NULL, NULL,
     "Lists the workers that the manager knows, and below them what is wrong with one: what it "
     "does not take, and why it is refused.",
     "sje workers", workers_run},
    {"worker", "show a worker", OPERAND_WORKER, "WORKER", NULL,
     "Shows everything that is known about a worker, also of others that have its name and are "
     "refused.",
     "sje worker node1", worker_run},
    {"queues", "show the queues", OPERAND_NONE, NULL, NULL,
     "Shows what waits in the queues, by pool, and below that what keeps the first task of each.",
     "sje queues", queues_run},
    {"drain", "give a worker no more tasks", OPERAND_WORKER, "WORKER", NULL,
     "The tasks that the worker runs go on; it gets no new ones until: sje resume.",
     "sje drain node1", drain_run},
    {"resume", "give a drained worker tasks again", OPERAND_WORKER, "WORKER", NULL,
     "Undoes: sje drain.", "sje resume node1", resume_run},
    {"pause", "hold the tasks of a pool", OPERAND_POOL, "POOL", NULL,
     "Tasks of the pool are accepted and wait; those that run go on. Where no worker serves a pool "
     "of "
     "that name, a warning says so.",
     "sje pause default", pause_run},
    {"unpause", "release the tasks of a pool", OPERAND_POOL, "POOL", NULL, "Undoes: sje pause.",
     "sje unpause default", unpause_run},
    {"health", "ask whether the manager and its workers are well", OPERAND_NONE, NULL, NULL,
     "Shows whether the manager reaches its database and its broker. Where it does, lines that "
     "begin with \"degraded:\" name workers that are DEAD, SUSPECT, DRAINING or REFUSED, and what "
     "the others do not take. One more says where no manager leads: then no task is handed "
     "out.\n\n"
     "The exit status is for monitoring: 1 where database or broker do not answer, no manager "
     "leads, "
     "or tasks wait and no worker takes any; --quiet prints nothing. What --json prints speaks of "
     "the "
     "manager alone.",
     "sje health", health_run},
    {"config", "show the settings in force", OPERAND_NONE, NULL, NULL,
     "Shows the manager's settings, by the names that sje set takes. Secrets are not shown.",
     "sje config", config_run},
    {"set", "change settings while the cluster runs", OPERAND_SETTING, "KEY=VALUE...", NULL,
     "Changes settings that need no restart: those marked \"reload\" in docs/config.md. All of "
     "them "
     "or, where one is refused, none. The entries of a list are separated by commas.\n\n"
     "It holds for all managers and a worker in the same process, over file and environment, also "
     "after a restart, until: sje reset. A worker in a process of its own reads its file and "
     "environment only, again on SIGHUP.",
     "sje set managerConfig.maxLosses=7 monitoring.logLevel=debug\n"
     "sje set executorNodeConfig.spark.conf.spark.executor.memory=2g",
     set_run},
    {"reset", "give settings back to file and environment", OPERAND_KEY, "KEY...", NULL,
     "Undoes: sje set. The value of the file, the environment or the default counts again. "
     "executorNodeConfig.deadAfterSeconds cannot be given back: it is one value for the cluster, "
     "kept in the database, which the first leader's file only seeded; set another one.",
     "sje reset managerConfig.maxLosses", set_run},
    {"metrics", "print the manager's metrics", OPERAND_NONE, NULL, NULL,
     "Prints the metrics as Prometheus reads them. With --json, as one string in an object.",
     "sje metrics", metrics_run},
    {"completion", "print a completion script for a shell", OPERAND_SHELL, "bash|zsh|fish", NULL,
     "Prints the script that completes commands and options in your shell.",
     "source <(sje completion bash)\nsje completion fish > ~/.config/fish/completions/sje.fish",
     completion_run},
    {"version", "print the version of this program", OPERAND_NONE, NULL, NULL,
     "Prints the version of this program.", "sje version", version_run},
    {"help", "explain a command", OPERAND_COMMAND, "[COMMAND]", help_options,
     "Explains a command, or lists them all.", "sje help submit", help_run},
    {0},
};

/* Words from other programs, for suggestions only. */
static const struct {
    const char *word;
    const char *means;
} synonyms[] = {
    {"logs", "log"},      {"ls", "list"},        {"ps", "list"},         {"tasks", "list"},
    {"kill", "cancel"},   {"stop", "cancel"},    {"rm", "cancel"},       {"delete", "cancel"},
    {"get", "status"},    {"show", "status"},    {"task", "status"},     {"describe", "status"},
    {"run", "submit"},    {"create", "submit"},  {"start", "submit"},    {"nodes", "workers"},
    {"audit", "events"},  {"history", "events"}, {"output", "result"},   {"retry", "requeue"},
    {"rerun", "requeue"}, {"queue", "queues"},   {"pools", "queues"},    {"ping", "health"},
    {"tail", "log"},      {"watch", "wait"},     {"settings", "config"}, {"unset", "reset"},
};

const struct command *command_find(const char *word)
{
    for (const struct command *cmd = commands; cmd->word; cmd++) {
        if (streq(cmd->word, word)) {
            return cmd;
        }
    }
    return NULL;
}

const struct option_row *option_find(const struct option_row *options, const char *name)
{
    for (; options && options->name; options++) {
        if (streq(options->name, name)) {
            return options;
        }
    }
    return NULL;
}

/* Keeps the better of two candidates; words further apart than a third of their length are no
 * candidates. */
static void consider(const char *word, const char *candidate, size_t *best, const char **ret)
{
    size_t d = text_distance(word, candidate);

    if (d <= (strlen(word) + 2) / 3 && d < *best) {
        *best = d;
        *ret = candidate;
    }
}

const char *command_suggest(const char *word)
{
    size_t best = SIZE_MAX;
    const char *found = NULL;

    for (size_t i = 0; i < ARRAY_LEN(synonyms); i++) {
        if (streq(synonyms[i].word, word)) {
            return synonyms[i].means;
        }
    }
    for (const struct command *cmd = commands; cmd->word; cmd++) {
        consider(word, cmd->word, &best, &found);
    }
    for (const struct command *cmd = commands; !found && word[0] && cmd->word; cmd++) {
        if (strncmp(cmd->word, word, strlen(word)) == 0) {
            found = cmd->word;
        }
    }
    return found;
}

const char *option_suggest(const struct option_row *options, const char *name)
{
    const struct option_row *tables[] = {options, global_options};
    size_t best = SIZE_MAX;
    const char *found = NULL;

    name += strspn(name, "-");
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        for (const struct option_row *o = tables[i]; o && o->name; o++) {
            if (!o->hidden && strlen(name) > 1) {
                consider(name, o->name, &best, &found);
            }
        }
    }
    return found;
}

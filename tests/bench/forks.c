/* forks COUNT PROGRAM: fork, exec and wait, one after the other. What any executor of processes
 * pays at the least. */
#include "tests/bench/bench.h"

#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3) {
        die("usage: forks COUNT PROGRAM");
    }
    long count = number(argv[1]);
    double start = now_s(CLOCK_MONOTONIC);

    for (long i = 0; i < count; i++) {
        int status = 0;
        pid_t pid = fork();

        if (pid == 0) {
            execl(argv[2], argv[2], (char *)NULL);
            _exit(127);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            die("%s did not run", argv[2]);
        }
    }
    printf("{\"count\":%ld,\"seconds\":%.6f}\n", count, now_s(CLOCK_MONOTONIC) - start);
    return 0;
}

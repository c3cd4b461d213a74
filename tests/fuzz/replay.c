/* replay.c: runs a fuzz target once on each file of the directories named, without libFuzzer.
 * It closes like a test program, so that the runner can count it. */
#include "internal/base.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static bool replay(const char *dir, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) != 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    bool regular = S_ISREG(st.st_mode);
    if (regular) {
        /* exactly as large as the input, so that the sanitizer sees a read past its end */
        uint8_t *data = xmalloc((size_t)st.st_size + (st.st_size == 0));
        size_t n = fread(data, 1, (size_t)st.st_size, f);
        LLVMFuzzerTestOneInput(data, n);
        free(data);
    }
    fclose(f);
    return regular;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            fprintf(stderr, "%s: cannot be opened\n", argv[i]);
            return 1;
        }
        for (const struct dirent *e = readdir(dir); e; e = readdir(dir)) {
            count += replay(argv[i], e->d_name);
        }
        closedir(dir);
    }
    if (count == 0) {
        fprintf(stderr, "no input found\n");
        return 1;
    }
    printf("%d inputs\n[  PASSED  ] 1 test(s).\n", count);
    return 0;
}

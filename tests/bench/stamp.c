/* stamp: says when it began, in seconds of Unix time. The task whose start is measured. */
#include "tests/bench/bench.h"

int main(void)
{
    printf("%.6f\n", now_s(CLOCK_REALTIME));
    return 0;
}

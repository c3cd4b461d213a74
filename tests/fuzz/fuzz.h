/* fuzz.h: what every target defines; libFuzzer's own name. Takes any bytes, must not crash, returns
 * 0. */
#ifndef SJE_TESTS_FUZZ_H
#define SJE_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif

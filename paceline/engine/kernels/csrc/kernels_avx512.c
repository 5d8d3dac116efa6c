#if defined(__x86_64__)
#include <stdint.h>

#include "isa_avx512.h"

#include "kernel_set.h"
#endif

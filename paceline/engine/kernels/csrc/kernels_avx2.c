#if defined(__x86_64__)
#include <stdint.h>

#include "isa_avx2.h"

#include "kernel_set.h"
#endif

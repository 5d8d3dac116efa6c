#include <stdint.h>

#include "isa_portable.h"

#include "kernel_set.h"

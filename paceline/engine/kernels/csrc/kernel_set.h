/* One instruction set's kernels: include its isa_*.h first. */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "pool.h"
#include "scratch.h"

#include "vmath.h"

#include "dots.h"
#include "values.h"

#include "attention.h"
#include "elementwise.h"
#include "linear.h"

const kernel_set ISA(kernels) = {ISA(linear), ISA(attention), ISA(rms_norm), ISA(silu_mul)};

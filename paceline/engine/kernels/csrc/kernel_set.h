/* One instruction set's kernels: include its isa_*.h first. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "pool.h"
#include "scratch.h"

#include "vmath.h"

#include "dots.h"
#include "linear.h"

#include "paged.h"

#include "attention.h"

#include "quantise.h"

#include "encode.h"

#include "norm.h"

#include "activate.h"

#include "place.h"

#include "weigh.h"

const kernel_set ISA(kernels) = {
    .linear = ISA(linear),
    .attention = ISA(attention),
    .quantise = ISA(quantise),
    .finite = ISA(finite),
    .encode = ISA(encode),
    .norm = ISA(norm),
    .norm_quantise = ISA(norm_quantise),
    .activate = ISA(activate),
    .activate_quantise = ISA(activate_quantise),
    .activate_group = ISA(activate_group),
    .place = ISA(place),
    .peaks = ISA(peaks),
    .weigh = ISA(weigh),
};

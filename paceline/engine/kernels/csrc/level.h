/* A level of instruction sets: who does the float work, who the quantised products. */
#ifndef PACELINE_LEVEL_H
#define PACELINE_LEVEL_H

#include "kernels.h"
#include "quantised.h"

typedef struct {
    const kernel_set *floats;
    product_kernel products;
} kernel_level;

#endif

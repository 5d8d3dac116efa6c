/* A level of instruction sets: who does the float work, who the quantised products, of few rows and
   of `many_rows` or more. Whose the bits are makes no difference. */
#ifndef PACELINE_LEVEL_H
#define PACELINE_LEVEL_H

#include "kernels.h"
#include "quantised.h"

typedef struct {
    const kernel_set *floats;
    product_kernels products, many_products;
    int64_t many_rows;
} kernel_level;

#endif

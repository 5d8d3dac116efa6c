/* From float rows to float rows: quantised, and multiplied by a matrix. */
#ifndef PACELINE_MULTIPLY_H
#define PACELINE_MULTIPLY_H

#include "level.h"

/* Rows that are quantised after a norm, after the MLP's middle, or as they are: one of `norm` and
   `middle` may be set. `width` is that of the int8 rows. */
typedef struct {
    const kernel_level *level;
    const norm_weights *norm;
    const mlp_middle *middle;
    const float *x;
    int64_t rows, width;
} multiplied;

/* out [rows, columns] = the rows times w, or += if `add`. `next` is as in `product_run`. STATUS_OK or
   STATUS_NO_MEMORY. */
int multiply(const multiplied *m, const quantised_matrix *w, const quantised_matrix *next, float *out,
             bool add);

/* The first half of it: the rows quantised, until the next call. */
int quantised_of(const multiplied *m, quantised_rows *rows);

/* The second half. */
int multiply_quantised(const kernel_level *level, const quantised_rows *x, const quantised_matrix *w,
                       const quantised_matrix *next, float *out, bool add);

/* Who computes products of so many rows and this matrix. */
product_kernel kernel_for(const kernel_level *level, const quantised_matrix *w, int64_t rows);

#endif

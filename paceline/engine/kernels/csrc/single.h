/* Single steps of a model, over the pool's threads. STATUS_OK or STATUS_NO_MEMORY where nothing else
   is said. */
#ifndef PACELINE_SINGLE_H
#define PACELINE_SINGLE_H

#include "level.h"

/* out [rows, columns]. */
int linear_run(const kernel_level *level, const float *x, int64_t rows, int64_t width,
               const quantised_matrix *w, float *out);

/* out [rows, width]. */
int norm_run(const kernel_level *level, const norm_weights *norm, const float *x, int64_t rows,
             int64_t width, float *out);

/* out [rows, mlp->width]. */
int activate_run(const kernel_level *level, const mlp_middle *mlp, const float *x, int64_t rows,
                 float *out);

/* An int8 matrix as a table: out [count, width] are the columns `ids`, which exist, as floats. */
int table_run(const quantised_matrix *w, int64_t width, const int64_t *ids, int64_t count,
              float *out);

/* The int4 weights nearest to x [count, INT4_SHARING], which is in int8 steps. */
int encode_run(const kernel_level *level, const float *x, int64_t count, const int4_codes *out);

/* `finite`: whether x [rows, width] is free of NaN and infinities. */
int finite_run(const kernel_level *level, const float *x, int64_t rows, int64_t width,
               int32_t *finite);

#endif

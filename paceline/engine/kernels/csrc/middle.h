/* The MLP up to its middle, for many rows: what the product gives is activated and quantised while it
   is in the cache, where it would else go to memory and back as floats. */
#ifndef PACELINE_MIDDLE_H
#define PACELINE_MIDDLE_H

#include "level.h"

/* Whether `middle_run` handles this: whole groups are whole strips, and rows are many. */
bool middle_fits(const mlp_middle *mlp, int64_t rows);

/* The activated product of x and `up`, quantised: the same bits as step by step. `out` is valid until
   the next call. STATUS_OK or STATUS_NO_MEMORY. */
int middle_run(const kernel_level *level, const quantised_rows *x, const quantised_matrix *up,
               const mlp_middle *mlp, quantised_rows *out);

#endif

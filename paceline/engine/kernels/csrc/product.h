/* Quantised products over the pool's threads. */
#ifndef PACELINE_PRODUCT_H
#define PACELINE_PRODUCT_H

#include <stddef.h>

#include "quantised.h"

/* How many rows, at least one, a task of a product takes; the last task may have fewer. */
int64_t rows_per_task(int64_t rows);

/* The largest power of two that divides the width, at most 64. */
int64_t group_of(int64_t width);

/* The depth of a packed matrix for rows of this width. */
int64_t packed_depth(int64_t width);

/* Bytes that rows_in needs for so many rows of this width. */
size_t rows_bytes(int64_t rows, int64_t width);

/* Lays quantised rows out in memory, which is 64-byte aligned. */
quantised_rows rows_in(void *memory, int64_t rows, int64_t width);

/* Computes the product; `next` is the matrix that as many rows are multiplied by after it, or NULL:
   threads read on there. False, and nothing is computed, where memory runs out. */
bool product_run(product_kernel kernel, const product_job *job, const quantised_matrix *next);

#endif

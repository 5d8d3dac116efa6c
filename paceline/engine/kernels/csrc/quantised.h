/* Products of int8 or int4 weights and int8 activations: formats, and who computes them.

   A matrix [columns, depth] has one scale per output column. Its int4 weights are int8 ones, of which
   INT4_SHARING neighbours in a column are among 16 that are about evenly spaced (`int4.h`). A row of
   activations has one scale per group of `group` elements; sums within a group are exact integers,
   and groups are added up in order with fused multiply-adds, so that an output has the same bits on
   every instruction set, in any batch and on any number of threads. */
#ifndef PACELINE_QUANTISED_H
#define PACELINE_QUANTISED_H

#include <stdbool.h>
#include <stdint.h>

enum { STRIP = 16, QUAD = 4, WEIGHT_ZERO = 128, MOST_QUANTISED_GROUP = 64 };

enum { INT4_SHARING = 32, INT4_GROUP = 64, INT4_GROUP_BYTES = INT4_GROUP * STRIP / 2 + 4 * STRIP,
       INT4_STEP_BITS = 4 };

/* `packed` where `bits` is 8: [strips, depth / QUAD, STRIP, QUAD], an int8 each. Where it is 4:
   [strips, depth / INT4_GROUP] groups of INT4_GROUP_BYTES. Columns beyond the last are filled up with
   zero weights. `bias` may be NULL. */
typedef struct {
    const uint8_t *packed;
    const float *scales, *bias;
    int64_t columns, depth, bits;
} quantised_matrix;

static inline int64_t strip_bytes_of(const quantised_matrix *w) {
    return w->bits == 4 ? w->depth / INT4_GROUP * INT4_GROUP_BYTES : w->depth * STRIP;
}

static inline const uint8_t *strips_at(const quantised_matrix *w, int64_t strip) {
    return w->packed + strip * strip_bytes_of(w);
}

/* Of one batch. `offsets` are -WEIGHT_ZERO times the sum of a group's values, for those who add
   WEIGHT_ZERO to weights. `depth` is that of the packed matrix: groups of 1 or 2 are filled up to a
   QUAD with zeros. */
typedef struct {
    int8_t *values;   /* [rows, depth] */
    float *scales;    /* [rows, groups] */
    int32_t *offsets; /* [rows, groups] */
    int64_t rows, depth, groups, group;
} quantised_rows;

/* out[row][column] = x[row] . w[column] + bias, or += if `add`. Rows of `out` are `stride` apart, and
   its first is that of `first_row` and `first_column`. */
typedef struct {
    const quantised_rows *x;
    const quantised_matrix *w;
    float *out;
    int64_t stride, first_row, first_column;
    bool add;
} product_job;

static inline float *out_at(const product_job *job, int64_t row, int64_t column) {
    return job->out + (row - job->first_row) * job->stride + column - job->first_column;
}

/* Rows and strips of a product, [from, to) each. The thread reads on beyond its strips up to
   `stretch_end`, and goes on at `then`, unless that is NULL. */
typedef struct {
    int64_t row, row_end, strip, strip_end;
    const uint8_t *stretch_end, *then;
} product_part;

/* Memory delivers a strip slower than it is computed, and prefetchers stop at page ends. */
enum { WEIGHTS_AHEAD = 16384 };

/* What the thread reads `distance` bytes after w; w where that is nothing. */
static inline const uint8_t *weights_ahead(const product_part *part, const uint8_t *w,
                                           int64_t distance) {
    int64_t left = part->stretch_end - w;
    if (distance < left) return w + distance;
    return part->then ? part->then + (distance - left) : w;
}

/* What int4 weights are packed from: a code each, and a step and a low for INT4_SHARING of them. */
typedef struct {
    uint8_t *codes, *steps;
    int8_t *lows;
} int4_codes;

/* `scratch`: product_scratch_bytes(depth) bytes of the thread's own, 64-byte aligned. A kernel of int8
   weights keeps to the first half: the other one may hold the weights. */
typedef void (*product_kernel)(const product_job *job, product_part part, void *scratch);

/* By a matrix's bits. */
typedef struct {
    product_kernel int8, int4;
} product_kernels;

/* A float of each of 16 rows for each quad, and as many bytes again: a strip of int8 weights. */
static inline int64_t product_scratch_bytes(int64_t depth) { return 2 * depth * STRIP; }

void products_portable(const product_job *job, product_part part, void *scratch);
void products_int4_portable(const product_job *job, product_part part, void *scratch);
#if defined(__x86_64__)
void products_avx2(const product_job *job, product_part part, void *scratch);
void products_int4_avx2(const product_job *job, product_part part, void *scratch);
void products_avxvnni(const product_job *job, product_part part, void *scratch);
void products_int4_avxvnni(const product_job *job, product_part part, void *scratch);
void products_avx512vnni(const product_job *job, product_part part, void *scratch);
void products_int4_avx512vnni(const product_job *job, product_part part, void *scratch);
void products_amx(const product_job *job, product_part part, void *scratch);
void products_int4_amx(const product_job *job, product_part part, void *scratch);
#endif

static inline int64_t strips_of(int64_t columns) { return (columns + STRIP - 1) / STRIP; }

static inline int32_t quad_at(const int8_t *values) {
    int32_t quad;
    __builtin_memcpy(&quad, values, sizeof quad);
    return quad;
}

#endif

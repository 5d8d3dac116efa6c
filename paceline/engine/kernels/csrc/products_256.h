/* Quantised products in vectors of 8 columns. The including file gives the function's NAME, its
   CODE attribute, and, for 8 columns of 4 weights: `dots` (a type that is made ready from the
   weights once and serves all rows), `dots_of`, `dots_add` and `dots_start`. NAME_INT4 is the function
   for int4 weights. */
#include "int4.h"

enum { MOST_ROWS = 4, HALF = 8 };

typedef struct {
    const product_job *job;
    int64_t first; /* column */
    __m256 scales, bias;
    __m256i lanes;
    bool has_bias;
} half_view;

CODE static half_view view_of(const product_job *job, int64_t first) {
    const quantised_matrix *w = job->w;
    half_view v = {.job = job, .first = first, .has_bias = w->bias != NULL};
    v.lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(w->columns - first)),
                                 _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    v.scales = _mm256_maskload_ps(w->scales + first, v.lanes);
    v.bias = v.has_bias ? _mm256_maskload_ps(w->bias + first, v.lanes) : _mm256_setzero_ps();
    return v;
}

CODE static inline void finish(const half_view *v, int64_t row, __m256 total) {
    float *out = out_at(v->job, row, v->first);
    __m256 y = _mm256_mul_ps(total, v->scales);
    if (v->has_bias) y = _mm256_add_ps(y, v->bias);
    if (v->job->add) y = _mm256_add_ps(_mm256_maskload_ps(out, v->lanes), y);
    _mm256_maskstore_ps(out, v->lanes, y);
}

/* `rows` is a constant after inlining, so that all sums stay in registers. */
__attribute__((always_inline)) CODE static inline void rows_by_half(const int rows,
                                                                    const half_view *v,
                                                                    int64_t row) {
    const quantised_rows *x = v->job->x;
    const int64_t depth = x->depth, groups = x->groups, group = x->group;
    const int8_t *values = x->values + row * depth;
    const uint8_t *w = v->job->w->packed + v->first / STRIP * STRIP * depth;
    w += v->first % STRIP * QUAD;
    __m256 total[MOST_ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) total[r] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++, values += group) {
        const int32_t *offsets = x->offsets + row * groups + g;
        const float *scales = x->scales + row * groups + g;
        __m256i sum[MOST_ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sum[r] = dots_start(offsets[r * groups]);
        for (int64_t k = 0; k < group; k += QUAD, w += STRIP * QUAD) {
            dots weights = dots_of(_mm256_loadu_si256((const __m256i *)w));
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                sum[r] = dots_add(sum[r], weights,
                                  _mm256_set1_epi32(quad_at(values + r * depth + k)));
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            total[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r]), _mm256_set1_ps(scales[r * groups]),
                                       total[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) finish(v, row + r, total[r]);
}

CODE static void rows_by_number(int64_t rows, const half_view *v, int64_t row) {
    switch (rows) {
        case 1: rows_by_half(1, v, row); break;
        case 2: rows_by_half(2, v, row); break;
        case 3: rows_by_half(3, v, row); break;
        case 4: rows_by_half(4, v, row); break;
    }
}

CODE void NAME(const product_job *job, product_part part, void *scratch) {
    (void)scratch;
    int64_t end = part.strip_end * STRIP;
    if (end > job->w->columns) end = job->w->columns;
    for (int64_t first = part.strip * STRIP; first < end; first += HALF) {
        half_view v = view_of(job, first);
        for (int64_t row = part.row; row < part.row_end; row += MOST_ROWS) {
            int64_t left = part.row_end - row;
            rows_by_number(left < MOST_ROWS ? left : MOST_ROWS, &v, row);
        }
    }
}

CODE void NAME_INT4(const product_job *job, product_part part, void *scratch) {
    int4_products(int4_unpack, NAME, job, &part, scratch);
}

/* A strip's 16 outputs of a row, as one vector. The including file gives its CODE attribute. */
#include "quantised.h"

#include <immintrin.h>

#define INLINE __attribute__((always_inline)) CODE static inline

typedef struct {
    const product_job *job;
    int64_t first; /* column */
    __m512 scales, bias;
    __mmask16 lanes;
    bool has_bias;
} strip_view;

CODE static inline strip_view strip_view_of(const product_job *job, int64_t strip) {
    const quantised_matrix *w = job->w;
    const int64_t first = strip * STRIP, left = w->columns - first;
    strip_view v = {.job = job, .first = first, .has_bias = w->bias != NULL};
    v.lanes = left >= STRIP ? 0xFFFF : (__mmask16)((1u << left) - 1);
    v.scales = _mm512_maskz_loadu_ps(v.lanes, w->scales + first);
    v.bias = v.has_bias ? _mm512_maskz_loadu_ps(v.lanes, w->bias + first) : _mm512_setzero_ps();
    return v;
}

/* `total`: of `rows` rows, a constant after inlining, from `row` on. */
INLINE void strip_finish(const int rows, const strip_view *v, int64_t row, const __m512 *total) {
    const int64_t stride = v->job->stride;
    float *out = out_at(v->job, row, v->first);
    if (!v->has_bias && !v->job->add) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++, out += stride)
            _mm512_mask_storeu_ps(out, v->lanes, _mm512_mul_ps(total[r], v->scales));
        return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++, out += stride) {
        __m512 y = _mm512_mul_ps(total[r], v->scales);
        if (v->has_bias) y = _mm512_add_ps(y, v->bias);
        if (v->job->add) y = _mm512_add_ps(_mm512_maskz_loadu_ps(v->lanes, out), y);
        _mm512_mask_storeu_ps(out, v->lanes, y);
    }
}

/* Quantised products with AVX-512 VNNI: a strip is one vector, up to 12 rows side by side. */
#if defined(__x86_64__)
#define CODE __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

#include "int4_avx512.h"
#include "strip_avx512.h"

enum { MOST_ROWS = 12 };

/* The second-level cache waits for more lines at once than the first. */
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

/* The instruction wants one operand without a sign. `offsets` makes up for it. */
INLINE __m512i unsigned_bytes(__m512i weights) {
    return _mm512_xor_si512(weights, _mm512_set1_epi8((char)WEIGHT_ZERO));
}

/* Here and below, `rows` and `bits` are constants after inlining, so that all sums stay in registers. */
INLINE void add_quad(const int rows, __m512i *sum, __m512i weights, const int8_t *values, int64_t depth) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        sum[r] = _mm512_dpbusd_epi32(sum[r], weights,
                                     _mm512_set1_epi32(quad_at(values + r * depth)));
}

INLINE void add_int8_group(const int rows, __m512i *sum, const uint8_t *w, const uint8_t *ahead,
                           const quantised_rows *x, const int8_t *values) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < x->group; k += QUAD) {
        __m512i weights = unsigned_bytes(_mm512_loadu_si512(w + k * STRIP));
        PREFETCH(ahead + k * STRIP);
        add_quad(rows, sum, weights, values + k, x->depth);
    }
}

INLINE void add_int4_group(const int rows, __m512i *sum, const uint8_t *w, const uint8_t *ahead,
                           const quantised_rows *x, const int8_t *values) {
    PREFETCH(ahead);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        int4_shared shared = int4_shared_of(w + half * 2 * STRIP);
        shared.lows = unsigned_bytes(shared.lows);
#pragma GCC unroll 4
        for (int i = 0; i < INT4_HALF_LINES; i++, values += 2 * QUAD) {
            const int64_t at = (1 + half * INT4_HALF_LINES + i) * INT4_LINE;
            int4_weights quads = int4_weights_of(&shared, _mm512_loadu_si512(w + at));
            PREFETCH(ahead + at);
            add_quad(rows, sum, quads.first, values, x->depth);
            add_quad(rows, sum, quads.second, values + QUAD, x->depth);
        }
    }
}

INLINE void rows_by_strip(const int rows, const int bits, const strip_view *v,
                          const product_part *part, int64_t row) {
    const quantised_rows *x = v->job->x;
    const int64_t groups = x->groups, group = x->group;
    const int64_t group_bytes = bits == 4 ? INT4_GROUP_BYTES : group * STRIP;
    const uint8_t *w = v->job->w->packed + v->first / STRIP * groups * group_bytes;
    const int8_t *values = x->values + row * x->depth;
    __m512 total[MOST_ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, values += group, w += group_bytes) {
        const int32_t *offsets = x->offsets + row * groups + g;
        const float *scales = x->scales + row * groups + g;
        const uint8_t *ahead = row == part->row ? weights_ahead(part, w, WEIGHTS_AHEAD) : w;
        __m512i sum[MOST_ROWS];
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) sum[r] = _mm512_set1_epi32(offsets[r * groups]);
        if (bits == 4)
            add_int4_group(rows, sum, w, ahead, x, values);
        else
            add_int8_group(rows, sum, w, ahead, x, values);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
            total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), _mm512_set1_ps(scales[r * groups]),
                                       total[r]);
    }
    strip_finish(rows, v, row, total);
}

INLINE void rows_by_number(const int bits, int64_t rows, const strip_view *v,
                           const product_part *part, int64_t row) {
    switch (rows) {
        case 1: rows_by_strip(1, bits, v, part, row); break;
        case 2: rows_by_strip(2, bits, v, part, row); break;
        case 3: rows_by_strip(3, bits, v, part, row); break;
        case 4: rows_by_strip(4, bits, v, part, row); break;
        case 5: rows_by_strip(5, bits, v, part, row); break;
        case 6: rows_by_strip(6, bits, v, part, row); break;
        case 7: rows_by_strip(7, bits, v, part, row); break;
        case 8: rows_by_strip(8, bits, v, part, row); break;
        case 9: rows_by_strip(9, bits, v, part, row); break;
        case 10: rows_by_strip(10, bits, v, part, row); break;
        case 11: rows_by_strip(11, bits, v, part, row); break;
        case 12: rows_by_strip(12, bits, v, part, row); break;
    }
}

INLINE void products(const int bits, const product_job *job, const product_part *part) {
    for (int64_t strip = part->strip; strip < part->strip_end; strip++) {
        const strip_view v = strip_view_of(job, strip);
        for (int64_t row = part->row; row < part->row_end; row += MOST_ROWS) {
            int64_t left = part->row_end - row;
            rows_by_number(bits, left < MOST_ROWS ? left : MOST_ROWS, &v, part, row);
        }
    }
}

CODE void products_avx512vnni(const product_job *job, product_part part, void *scratch) {
    (void)scratch;
    products(8, job, &part);
}

CODE void products_int4_avx512vnni(const product_job *job, product_part part, void *scratch) {
    (void)scratch;
    products(4, job, &part);
}
#endif

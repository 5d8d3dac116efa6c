/* AVX-512F: 16 lanes, 32 registers. */
#include <immintrin.h>

#define ISA(name) name##_avx512
#define ISA_CODE __attribute__((target("avx512f")))
#define LANES 16
#define TILE_ROWS 6

typedef __m512 vfloat;
typedef int32_t vint __attribute__((vector_size(64)));

#define FN static inline ISA_CODE

FN vfloat v_set(float a) { return _mm512_set1_ps(a); }
FN vfloat v_load(const float *p) { return _mm512_loadu_ps(p); }
FN void v_store(float *p, vfloat a) { _mm512_storeu_ps(p, a); }

FN vfloat v_load_part(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

FN void v_store_part(float *p, vfloat a, int64_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}

FN vfloat v_load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

FN void v_store_half(uint16_t *p, vfloat a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

FN vfloat v_fma(vfloat a, vfloat b, vfloat c) { return _mm512_fmadd_ps(a, b, c); }
FN vfloat v_mul_add(vfloat a, vfloat b, vfloat c) { return v_fma(a, b, c); }

/* Where either operand is NaN these give the second. */
FN vfloat v_max(vfloat a, vfloat b) { return _mm512_max_ps(a, b); }
FN vfloat v_min(vfloat a, vfloat b) { return _mm512_min_ps(a, b); }

FN void v_store_bytes(int8_t *p, vint a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)a));
}

FN int32_t v_int_largest(vint a) { return _mm512_reduce_max_epi32((__m512i)a); }
FN int32_t v_int_sum(vint a) { return _mm512_reduce_add_epi32((__m512i)a); }

FN float v_largest(vfloat a) { return _mm512_reduce_max_ps(a); }

/* The sum of 16 lanes: those 8 apart first, then 4, 2 and 1. */
FN float v_sum16(const vfloat part[1]) {
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(part[0]), 1));
    __m256 s = _mm512_castps512_ps256(part[0]) + high;
    __m128 q = _mm256_castps256_ps128(s) + _mm256_extractf128_ps(s, 1);
    q = q + _mm_movehl_ps(q, q);
    return q[0] + q[1];
}

/* out[i] = the sum of the i-th vector: lanes 8 apart first, then 4, 2 and 1. */
FN void v_sum4(vfloat a, vfloat b, vfloat c, vfloat d, float *out) {
    vfloat ab = _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xEE);
    vfloat cd = _mm512_shuffle_f32x4(c, d, 0x44) + _mm512_shuffle_f32x4(c, d, 0xEE);
    vfloat s = _mm512_shuffle_f32x4(ab, cd, 0x88) + _mm512_shuffle_f32x4(ab, cd, 0xDD);
    s = s + _mm512_permute_ps(s, 0x4E);
    s = s + _mm512_permute_ps(s, 0xB1);
    __m512i every_fourth = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(every_fourth, s)));
}

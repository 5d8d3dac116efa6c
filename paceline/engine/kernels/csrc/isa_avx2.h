/* AVX2 with FMA and F16C: 8 lanes, 16 registers. */
#include <immintrin.h>

#define ISA(name) name##_avx2
#define ISA_CODE __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define TILE_ROWS 3

typedef __m256 vfloat;
typedef int32_t vint __attribute__((vector_size(32)));

#define FN static inline ISA_CODE

FN vfloat v_set(float a) { return _mm256_set1_ps(a); }
FN vfloat v_load(const float *p) { return _mm256_loadu_ps(p); }
FN void v_store(float *p, vfloat a) { _mm256_storeu_ps(p, a); }

FN __m256i first_lanes(int64_t n) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

FN vfloat v_load_part(const float *p, int64_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
FN void v_store_part(float *p, vfloat a, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), a); }

FN vfloat v_load_half(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

FN void v_store_half(uint16_t *p, vfloat a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

FN vfloat v_fma(vfloat a, vfloat b, vfloat c) { return _mm256_fmadd_ps(a, b, c); }
FN vfloat v_mul_add(vfloat a, vfloat b, vfloat c) { return v_fma(a, b, c); }

/* Where either operand is NaN these give the second. */
FN vfloat v_max(vfloat a, vfloat b) { return _mm256_max_ps(a, b); }
FN vfloat v_min(vfloat a, vfloat b) { return _mm256_min_ps(a, b); }

FN void v_store_bytes(int8_t *p, vint a) {
    __m256i wide = (__m256i)a;
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}

FN int32_t v_int_largest(vint a) {
    __m256i wide = (__m256i)a;
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1));
    return _mm_cvtsi128_si32(m);
}

FN int32_t v_int_sum(vint a) {
    __m256i wide = (__m256i)a;
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return _mm_cvtsi128_si32(s);
}

FN float v_largest(vfloat a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* The sum of 16 lanes: those 8 apart first, then 4, 2 and 1. */
FN float v_sum16(const vfloat part[2]) {
    __m256 s = part[0] + part[1];
    __m128 q = _mm256_castps256_ps128(s) + _mm256_extractf128_ps(s, 1);
    q = q + _mm_movehl_ps(q, q);
    return q[0] + q[1];
}

/* out[i] = the sum of the i-th vector: neighbours first, then pairs, then halves. */
FN void v_sum4(vfloat a, vfloat b, vfloat c, vfloat d, float *out) {
    vfloat s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm256_castps256_ps128(s) + _mm256_extractf128_ps(s, 1));
}

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

FN vfloat v_fma(vfloat a, vfloat b, vfloat c) { return _mm512_fmadd_ps(a, b, c); }

/* Where either operand is NaN these give the second. */
FN vfloat v_max(vfloat a, vfloat b) { return _mm512_max_ps(a, b); }
FN vfloat v_min(vfloat a, vfloat b) { return _mm512_min_ps(a, b); }

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

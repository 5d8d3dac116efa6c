/* AVX2 with FMA: 8 lanes, 16 registers. */
#include <immintrin.h>

#define ISA(name) name##_avx2
#define ISA_CODE __attribute__((target("avx2,fma")))
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
FN vfloat v_fma(vfloat a, vfloat b, vfloat c) { return _mm256_fmadd_ps(a, b, c); }

/* Where either operand is NaN these give the second. */
FN vfloat v_max(vfloat a, vfloat b) { return _mm256_max_ps(a, b); }
FN vfloat v_min(vfloat a, vfloat b) { return _mm256_min_ps(a, b); }

/* out[i] = the sum of the i-th vector: neighbours first, then pairs, then halves. */
FN void v_sum4(vfloat a, vfloat b, vfloat c, vfloat d, float *out) {
    vfloat s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm256_castps256_ps128(s) + _mm256_extractf128_ps(s, 1));
}

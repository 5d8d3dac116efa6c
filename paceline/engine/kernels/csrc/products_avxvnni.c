/* Quantised products with AVX-VNNI: the dot products of AVX-512 VNNI in 8 lanes. */
#if defined(__x86_64__)
#include <immintrin.h>

#define CODE __attribute__((target("avx2,fma,avxvnni")))
#define NAME products_avxvnni
#define NAME_INT4 products_int4_avxvnni

typedef __m256i dots;

CODE static inline dots dots_of(__m256i weights) { return weights; }

CODE static inline __m256i dots_start(int32_t offset) { return _mm256_set1_epi32(offset); }

CODE static inline __m256i dots_add(__m256i sum, dots w, __m256i x) {
    return _mm256_dpbusd_avx_epi32(sum, w, x);
}

#include "products_256.h"
#endif

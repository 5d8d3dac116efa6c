/* Quantised products with AVX-VNNI: the dot products of AVX-512 VNNI in 8 lanes. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quantised.h"

#define CODE __attribute__((target("avx2,fma,avxvnni")))
#define NAME products_avxvnni
#define NAME_INT4 products_int4_avxvnni

typedef __m256i dots;

/* The instruction wants one operand without a sign. The offsets make up for it. */
CODE static inline dots dots_of(__m256i weights) {
    return _mm256_xor_si256(weights, _mm256_set1_epi8((char)WEIGHT_ZERO));
}

CODE static inline __m256i dots_start(int32_t offset) { return _mm256_set1_epi32(offset); }

CODE static inline __m256i dots_add(__m256i sum, dots w, __m256i x) {
    return _mm256_dpbusd_avx_epi32(sum, w, x);
}

#include "products_256.h"
#endif

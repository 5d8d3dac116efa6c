/* Quantised products with AVX2. Its byte products add pairs with saturation at 16 bits; of two
   signed operands within +-127, one without its sign and the other with both, pairs stay below. */
#if defined(__x86_64__)
#include <immintrin.h>

#define CODE __attribute__((target("avx2,fma")))
#define NAME products_avx2
#define NAME_INT4 products_int4_avx2

typedef struct {
    __m256i signs, sizes;
} dots;

CODE static inline dots dots_of(__m256i weights) {
    return (dots){weights, _mm256_abs_epi8(weights)};
}

CODE static inline __m256i dots_start(int32_t offset) {
    (void)offset;
    return _mm256_setzero_si256();
}

CODE static inline __m256i dots_add(__m256i sum, dots w, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(w.sizes, _mm256_sign_epi8(x, w.signs));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#include "products_256.h"
#endif

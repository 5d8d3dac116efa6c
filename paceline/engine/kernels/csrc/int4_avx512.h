/* int4 weights to packed int8 ones, with AVX-512. The including file gives its CODE attribute. */
#include "int4.h"

#include <immintrin.h>

/* Of 16 columns and a half of a group: each column's step in 16 bits twice, and its low in 8 bits four
   times. */
typedef struct {
    __m512i steps, steps_above, lows;
} int4_shared;

/* Of the two quads of a line. */
typedef struct {
    __m512i first, second;
} int4_weights;

CODE static inline int4_shared int4_shared_of(const uint8_t *packed) {
    __m512i steps = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)packed));
    __m512i lows = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(packed + STRIP)));
    int4_shared s = {.steps = _mm512_or_si512(steps, _mm512_slli_epi32(steps, 16))};
    s.steps_above = _mm512_slli_epi16(s.steps, INT4_STEP_BITS);
    s.lows = _mm512_shuffle_epi8(lows, _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0));
    return s;
}

CODE static inline __m512i int4_above_low(const int4_shared *s, __m512i even, __m512i odd) {
    enum { A_OR_B_AND_C = 0xF8 };
    const __m512i odd_bytes = _mm512_set1_epi16((short)0xFF00);
    return _mm512_add_epi8(_mm512_ternarylogic_epi32(even, odd, odd_bytes, A_OR_B_AND_C), s->lows);
}

/* Where a code lies in its 16 bits, the high or the low half of its product with the step, once moved
   up, has the sum's byte in place. */
CODE static inline int4_weights int4_weights_of(const int4_shared *s, __m512i line) {
    __m512i odd = _mm512_and_si512(line, _mm512_set1_epi16(0x000F));
    __m512i even = _mm512_and_si512(line, _mm512_set1_epi16(0x0F00));
    __m512i next_odd = _mm512_and_si512(line, _mm512_set1_epi16(0x00F0));
    __m512i next_even = _mm512_and_si512(line, _mm512_set1_epi16((short)0xF000));
    return (int4_weights){
        int4_above_low(s, _mm512_mulhi_epu16(even, s->steps_above),
                       _mm512_mullo_epi16(odd, s->steps_above)),
        int4_above_low(s, _mm512_mulhi_epu16(next_even, s->steps),
                       _mm512_mullo_epi16(next_odd, s->steps)),
    };
}

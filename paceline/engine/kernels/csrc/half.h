/* float16 in plain C, rounding to nearest even as F16C does. */
#ifndef PACELINE_HALF_H
#define PACELINE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float a) {
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    return bits;
}

static inline float bits_float(uint32_t bits) {
    float a;
    memcpy(&a, &bits, sizeof a);
    return a;
}

/* The fields are moved to a float's places and the exponent's bias made up for by a product, which
   also makes subnormals right; only infinity and NaN keep their exponent of ones. */
static inline float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = (uint32_t)(h & 0x7FFFu) << 13;
    uint32_t size = rest >= 0x7C00u << 13 ? rest | 0x7F800000u : float_bits(bits_float(rest) * 0x1p112f);
    return bits_float(sign | size);
}

static inline uint16_t float_to_half(float a) {
    uint32_t bits = float_bits(a), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
    if (size >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); /* from 65520 */
    if (size < 0x38800000u) /* beside 0.5 a float's last bit is a half's smallest, 2^-24 */
        return (uint16_t)(sign | (float_bits(bits_float(size) + 0.5f) - float_bits(0.5f)));
    size += 0xC8000FFFu + (size >> 13 & 1); /* exponent bias 127 to 15; half a last place, less 1 if even */
    return (uint16_t)(sign | size >> 13);
}

#endif

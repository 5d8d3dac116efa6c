/* a * b + c with one rounding, four at a time, also where the CPU cannot do it.

   All instruction sets promise the same bits, and the faster ones have this as one instruction. */
#ifndef PACELINE_FUSED_H
#define PACELINE_FUSED_H

#include <stdint.h>

typedef float float4 __attribute__((vector_size(16)));

#if defined(__FP_FAST_FMAF)

static inline float4 fused4(float4 a, float4 b, float4 c) {
    float4 out;
    for (int i = 0; i < 4; i++) out[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return out;
}

#else

typedef float float2 __attribute__((vector_size(8)));
typedef double double2 __attribute__((vector_size(16)));
typedef int64_t int2 __attribute__((vector_size(16)));

typedef union {
    float4 whole;
    float2 pair[2];
} pairs;

/* In double the product is exact and the sum s is not: its error is found (Knuth's two-sum) and an
   even s moved to its odd neighbour on that side, so that rounding it again to float is right
   (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). */
static inline double2 sum_to_odd(double2 p, double2 c) {
    double2 s = p + c, of_c = s - p;
    double2 error = (p - (s - of_c)) + (c - of_c);
    int2 bits = (int2)s, finite = s - s == 0;
    int2 move = (error != 0) & ((bits & 1) == 0) & finite;
    int2 inwards = (error > 0) ^ (s > 0); /* -1 where the odd neighbour is nearer to zero */
    return (double2)(bits + (move & (1 + 2 * inwards)));
}

static inline float4 fused4(float4 a, float4 b, float4 c) {
    pairs of_a = {.whole = a}, of_b = {.whole = b}, of_c = {.whole = c}, out;
    for (int i = 0; i < 2; i++) {
        double2 product = __builtin_convertvector(of_a.pair[i], double2) *
                          __builtin_convertvector(of_b.pair[i], double2);
        double2 sum = sum_to_odd(product, __builtin_convertvector(of_c.pair[i], double2));
        out.pair[i] = __builtin_convertvector(sum, float2);
    }
    return out.whole;
}

#endif
#endif

/* Plain C over 4 lanes: SSE2, NEON or scalar code, as the compiler sees fit. */
#include <string.h>

#include "fused.h"
#include "half.h"

#define ISA(name) name##_portable
#define ISA_CODE
#define LANES 4
#define TILE_ROWS 3

typedef float vfloat __attribute__((vector_size(16)));
typedef int32_t vint __attribute__((vector_size(16)));

#define FN static inline ISA_CODE

FN vfloat v_set(float a) { return (vfloat){a, a, a, a}; }

FN vfloat v_load(const float *p) {
    vfloat a;
    memcpy(&a, p, sizeof a);
    return a;
}

FN void v_store(float *p, vfloat a) { memcpy(p, &a, sizeof a); }

FN vfloat v_load_part(const float *p, int64_t n) {
    vfloat a = v_set(0);
    memcpy(&a, p, (size_t)n * sizeof *p);
    return a;
}

FN void v_store_part(float *p, vfloat a, int64_t n) { memcpy(p, &a, (size_t)n * sizeof *p); }

FN vfloat v_load_half(const uint16_t *p) {
    vfloat a;
    for (int i = 0; i < LANES; i++) a[i] = half_to_float(p[i]);
    return a;
}

FN void v_store_half(uint16_t *p, vfloat a) {
    for (int i = 0; i < LANES; i++) p[i] = float_to_half(a[i]);
}

FN vfloat v_fma(vfloat a, vfloat b, vfloat c) { return fused4(a, b, c); }

/* Two roundings on every machine: the build forbids the compiler to fuse them. */
FN vfloat v_mul_add(vfloat a, vfloat b, vfloat c) { return a * b + c; }

FN vfloat v_select(vint mask, vfloat a, vfloat b);

/* Where either operand is NaN these give the second. */
FN vfloat v_max(vfloat a, vfloat b) { return v_select((vint)(a > b), a, b); }
FN vfloat v_min(vfloat a, vfloat b) { return v_select((vint)(a < b), a, b); }

FN void v_store_bytes(int8_t *p, vint a) {
    for (int i = 0; i < LANES; i++) p[i] = (int8_t)a[i];
}

FN int32_t v_int_largest(vint a) {
    int32_t ab = a[0] > a[1] ? a[0] : a[1], cd = a[2] > a[3] ? a[2] : a[3];
    return ab > cd ? ab : cd;
}

FN int32_t v_int_sum(vint a) { return a[0] + a[1] + a[2] + a[3]; }

FN float v_largest(vfloat a) {
    float ab = a[0] > a[1] ? a[0] : a[1], cd = a[2] > a[3] ? a[2] : a[3];
    return ab > cd ? ab : cd;
}

/* The sum of 16 lanes: those 8 apart first, then 4, 2 and 1. */
FN float v_sum16(const vfloat part[4]) {
    vfloat q = (part[0] + part[2]) + (part[1] + part[3]);
    return (q[0] + q[2]) + (q[1] + q[3]);
}

/* out[i] = the sum of the i-th vector: lanes 2 apart first. */
FN void v_sum4(vfloat a, vfloat b, vfloat c, vfloat d, float *out) {
    out[0] = (a[0] + a[2]) + (a[1] + a[3]);
    out[1] = (b[0] + b[2]) + (b[1] + b[3]);
    out[2] = (c[0] + c[2]) + (c[1] + c[3]);
    out[3] = (d[0] + d[2]) + (d[1] + d[3]);
}

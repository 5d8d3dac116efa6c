/* Functions of a whole vector, the same for every instruction set. */

FN int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FN int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

FN vfloat v_select(vint mask, vfloat a, vfloat b) {
    return (vfloat)((mask & (vint)a) | (~mask & (vint)b));
}

FN vfloat v_power_of_two(vint n) { return (vfloat)((n + 127) << 23); }

#define LEAST_EXP -87.33654f /* whose e^x is FLT_MIN */

typedef struct {
    vfloat p;
    vint n;
} exp_parts;

/* p and n with e^x = p * 2^n: x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial is a minimax fit of
   (e^r - 1 - r) / r^2. */
FN exp_parts v_exp_parts(vfloat x) {
    const float round_to_int = 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the integer */
    vfloat shifted = v_fma(x, v_set(1.44269504f), v_set(round_to_int));
    vint n = (vint)shifted - (vint)v_set(round_to_int);
    vfloat whole = shifted - v_set(round_to_int);
    vfloat r = v_fma(whole, v_set(-0.693145752f), x);
    r = v_fma(whole, v_set(-1.42860682e-6f), r);
    vfloat p = v_fma(r, v_set(0.00138144674f), v_set(0.00836878034f));
    p = v_fma(p, r, v_set(0.0416683942f));
    p = v_fma(p, r, v_set(0.166665201f));
    p = v_fma(p, r, v_set(0.499999934f));
    return (exp_parts){v_fma(p, r * r, r) + v_set(1.0f), n};
}

/* e^x within 2 ulp; NaN stays NaN, overflow is infinite, results below FLT_MIN are 0 (denormals
   are slow and weigh nothing beside the largest weight, which is 1). */
FN vfloat v_exp(vfloat x) {
    x = v_min(v_set(90.0f), v_max(v_set(-90.0f), x));
    exp_parts e = v_exp_parts(x);
    vint half = e.n >> 1; /* 2^128 itself is no float */
    e.p = e.p * v_power_of_two(half) * v_power_of_two(e.n - half);
    return v_select((vint)(x < v_set(LEAST_EXP)), v_set(0.0f), e.p);
}

/* The same bits for x <= 0, in fewer steps. */
FN vfloat v_exp_of_negative(vfloat x) {
    exp_parts e = v_exp_parts(v_max(v_set(-90.0f), x));
    return v_select((vint)(x < v_set(LEAST_EXP)), v_set(0.0f), e.p * v_power_of_two(e.n));
}

/* tanh within 3 ulp: a minimax fit near 0, where 1 - 2 / (e^2x + 1) would cancel. */
FN vfloat v_tanh(vfloat x) {
    vint sign = (vint)x & (vint)v_set(-0.0f);
    vfloat size = (vfloat)((vint)x ^ sign);
    vfloat z = x * x;
    vfloat p = v_fma(z, v_set(-0.00590634420f), v_set(0.0208058279f));
    p = v_fma(p, z, v_set(-0.0537868290f));
    p = v_fma(p, z, v_set(0.133319602f));
    p = v_fma(p, z, v_set(-0.333332994f));
    vfloat near = v_fma(p * z, size, size);
    vfloat far = v_set(1.0f) - v_set(2.0f) / (v_exp(size + size) + v_set(1.0f));
    vfloat result = v_select((vint)(size < v_set(0.6f)), near, far);
    return (vfloat)((vint)result | sign);
}

FN float v_sum(vfloat a) {
    float sums[4];
    v_sum4(a, a, a, a, sums);
    return sums[0];
}


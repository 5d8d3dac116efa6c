/* The MLP's middle: an activation, and its product with the other half where the MLP is gated. */

FN vfloat v_silu(vfloat x) { return x / (v_set(1) + v_exp(v_set(0) - x)); }

/* x Phi(x) with erfc(z) = t exp(P(t) - z^2), t = 1 / (1 + z / 2), z = |x| / sqrt 2: the form keeps
   its relative accuracy in the tail. P is a Chebyshev fit of its logarithm, within 3e-7. */
FN vfloat v_gelu(vfloat x) {
    vfloat z = (vfloat)((vint)x & 0x7FFFFFFF) * v_set(0.707106781f);
    vfloat t = v_set(1) / v_fma(z, v_set(0.5f), v_set(1));
    vfloat p = v_fma(t, v_set(0.152171284f), v_set(-0.720157564f));
    p = v_fma(p, t, v_set(1.24898505f));
    p = v_fma(p, t, v_set(-0.81853658f));
    p = v_fma(p, t, v_set(0.0203504916f));
    p = v_fma(p, t, v_set(-0.0518615171f));
    p = v_fma(p, t, v_set(0.052532699f));
    p = v_fma(p, t, v_set(0.382924557f));
    p = v_fma(p, t, v_set(0.999060392f));
    p = v_fma(p, t, v_set(-1.26546872f));
    vfloat tail = v_set(0.5f) * t * v_exp(v_fma(z, v_set(0) - z, p));
    return x * v_select((vint)(x < v_set(0)), tail, v_set(1) - tail);
}

FN vfloat v_gelu_tanh(vfloat x) {
    vfloat inner = v_set(0.797884561f) * v_fma(v_set(0.044715f) * x * x, x, x);
    return v_set(0.5f) * x * (v_set(1) + v_tanh(inner));
}

FN vfloat v_activate(const activation kind, vfloat x) {
    switch (kind) {
        case ACTIVATION_GELU: return v_gelu(x);
        case ACTIVATION_GELU_TANH: return v_gelu_tanh(x);
        default: return v_silu(x);
    }
}

/* `kind` and `gated` are constants after inlining. */
static inline __attribute__((always_inline)) ISA_CODE void activate_as(const activation kind,
                                                                       const bool gated,
                                                                       const float *x,
                                                                       int64_t width, float *out) {
    for (int64_t i = 0; i < width; i += LANES) {
        int64_t n = smaller(width - i, LANES);
        vfloat a = v_activate(kind, v_load_part(x + i, n));
        if (gated) a = a * v_load_part(x + width + i, n);
        v_store_part(out + i, a, n);
    }
}

/* x holds `width` values, or if gated the gate's and then the other half's. */
FN void activate_row(const mlp_middle *mlp, const float *x, float *out) {
    if (mlp->kind == ACTIVATION_SILU && mlp->gated)
        activate_as(ACTIVATION_SILU, true, x, mlp->width, out);
    else if (mlp->kind == ACTIVATION_SILU)
        activate_as(ACTIVATION_SILU, false, x, mlp->width, out);
    else if (mlp->kind == ACTIVATION_GELU)
        activate_as(ACTIVATION_GELU, mlp->gated, x, mlp->width, out);
    else
        activate_as(ACTIVATION_GELU_TANH, mlp->gated, x, mlp->width, out);
}

FN int64_t middle_width(const mlp_middle *mlp) { return mlp->width * (mlp->gated ? 2 : 1); }

ISA_CODE static void ISA(activate)(const mlp_middle *mlp, const float *x, float *out, int64_t row,
                                   int64_t end) {
    for (; row < end; row++)
        activate_row(mlp, x + row * middle_width(mlp), out + row * mlp->width);
}

/* Activate and quantise one group of each row; x are the middle's columns for it, a group of them or
   two. */
ISA_CODE static void ISA(activate_group)(const mlp_middle *mlp, const float *x,
                                         const quantised_rows *out, int64_t row, int64_t end,
                                         int64_t group) {
    const mlp_middle part = {out->group, mlp->kind, mlp->gated};
    float activated[MOST_QUANTISED_GROUP];
    for (; row < end; row++, x += middle_width(&part)) {
        activate_row(&part, x, activated);
        quantise_group(activated, part.width, out, row, group);
    }
}

/* Activate, then quantise; `scratch` holds a row. */
ISA_CODE static void ISA(activate_quantise)(const mlp_middle *mlp, const float *x,
                                            const quantised_rows *out, int64_t row, int64_t end,
                                            float *scratch) {
    for (; row < end; row++) {
        activate_row(mlp, x + row * middle_width(mlp), scratch);
        quantise_row(scratch, mlp->width, out, row);
    }
}

/* Norms of rows. Sums run in 16 lanes, whatever the vector, so that all instruction sets agree. */

enum { SUM_PARTS = SUM_LANES / LANES };

/* Lanes of part p that lie within the last n < 16 elements. */
FN int64_t lanes_of_part(int64_t n, int p) { return smaller(larger(n - p * LANES, 0), LANES); }

/* The sum of (x[i] - mean)^2. */
FN float sum_of_squares(const float *x, int64_t width, float mean) {
    vfloat sum[SUM_PARTS];
    for (int p = 0; p < SUM_PARTS; p++) sum[p] = v_set(0);
    int64_t i = 0;
    for (; i + SUM_LANES <= width; i += SUM_LANES)
        for (int p = 0; p < SUM_PARTS; p++) {
            vfloat a = v_load(x + i + p * LANES) - v_set(mean);
            sum[p] = v_fma(a, a, sum[p]);
        }
    for (int p = 0; p < SUM_PARTS && i + p * LANES < width; p++) {
        float part[LANES] = {0};
        int64_t n = lanes_of_part(width - i, p);
        v_store_part(part, v_load_part(x + i + p * LANES, n) - v_set(mean), n);
        vfloat a = v_load(part);
        sum[p] = v_fma(a, a, sum[p]);
    }
    return v_sum16(sum);
}

FN float sum_of(const float *x, int64_t width) {
    vfloat sum[SUM_PARTS];
    for (int p = 0; p < SUM_PARTS; p++) sum[p] = v_set(0);
    int64_t i = 0;
    for (; i + SUM_LANES <= width; i += SUM_LANES)
        for (int p = 0; p < SUM_PARTS; p++) sum[p] = sum[p] + v_load(x + i + p * LANES);
    for (int p = 0; p < SUM_PARTS && i + p * LANES < width; p++)
        sum[p] = sum[p] + v_load_part(x + i + p * LANES, lanes_of_part(width - i, p));
    return v_sum16(sum);
}

/* `out` may be `x`. */
FN void norm_row(const norm_weights *norm, const float *x, int64_t width, float *out) {
    float mean = norm->kind == NORM_LAYER ? sum_of(x, width) / (float)width : 0.0f;
    float factor = 1.0f / sqrtf(sum_of_squares(x, width, mean) / (float)width + norm->eps);
    for (int64_t i = 0; i < width; i += LANES) {
        int64_t n = smaller(width - i, LANES);
        vfloat a = (v_load_part(x + i, n) - v_set(mean)) * v_set(factor);
        a = a * v_load_part(norm->weight + i, n);
        if (norm->bias) a = a + v_load_part(norm->bias + i, n);
        v_store_part(out + i, a, n);
    }
}

ISA_CODE static void ISA(norm)(const norm_weights *norm, const float *x, int64_t width, float *out,
                               int64_t row, int64_t end) {
    for (; row < end; row++) norm_row(norm, x + row * width, width, out + row * width);
}

/* Norm, then quantise; `scratch` holds a row. */
ISA_CODE static void ISA(norm_quantise)(const norm_weights *norm, const float *x, int64_t width,
                                        const quantised_rows *out, int64_t row, int64_t end,
                                        float *scratch) {
    for (; row < end; row++) {
        norm_row(norm, x + row * width, width, scratch);
        quantise_row(scratch, width, out, row);
    }
}

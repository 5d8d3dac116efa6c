/* From a row of logits to the weights of its tokens, in blocks of DRAW_BLOCK. */

/* The largest of each block. */
ISA_CODE static void ISA(peaks)(const float *x, int64_t n, float *peaks) {
    for (int64_t from = 0; from < n; from += DRAW_BLOCK) {
        const int64_t end = smaller(from + DRAW_BLOCK, n);
        vfloat top = v_set(-INFINITY);
        int64_t i = from;
        for (; i + LANES <= end; i += LANES) top = v_max(v_load(x + i), top);
        float peak = v_largest(top);
        for (; i < end; i++) peak = x[i] > peak ? x[i] : peak;
        *peaks++ = peak;
    }
}

/* Sixteen sums side by side whatever the lanes, so that the bits are the same. */
FN double weight_of_block(const float *weights, int64_t n) {
    double part[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) part[j] += (double)weights[i + j];
    for (int j = 0; i < n; i++, j++) part[j] += (double)weights[i];
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++) part[j] += part[j + half];
    return part[0];
}

/* e^((x - peak) * inverse), and its sum over each block. */
ISA_CODE static void ISA(weigh)(const float *x, int64_t n, float peak, float inverse, float *weights,
                                double *sums) {
    for (int64_t from = 0; from < n; from += DRAW_BLOCK) {
        const int64_t end = smaller(from + DRAW_BLOCK, n);
        int64_t i = from;
        for (; i + LANES <= end; i += LANES)
            v_store(weights + i,
                    v_exp_of_negative((v_load(x + i) - v_set(peak)) * v_set(inverse)));
        if (i < end) {
            vfloat gap = (v_load_part(x + i, end - i) - v_set(peak)) * v_set(inverse);
            v_store_part(weights + i, v_exp_of_negative(gap), end - i);
        }
        *sums++ = weight_of_block(weights + from, end - from);
    }
}

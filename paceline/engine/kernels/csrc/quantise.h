/* From a row of floats to int8 in groups.

   A group's scale is its largest size / 127. A group whose largest size is tiny is all zeros; one
   with an infinity or a NaN has the scale NaN, so that no damage is hidden. */

/* Below, 127 / size would not be a normal float. */
#define TINY_GROUP 0x1p-90f

static const float ROUND_TO_INT = 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the integer */

/* Sizes as bits, which order them as integers and put NaN above infinity. */
FN float largest_size(const float *x, int64_t n) {
    vint top = (vint)v_set(0);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vint size = (vint)v_load(x + i) & 0x7FFFFFFF;
        top = (vint)v_select(size > top, (vfloat)size, (vfloat)top);
    }
    if (i < n) {
        vint size = (vint)v_load_part(x + i, n - i) & 0x7FFFFFFF;
        top = (vint)v_select(size > top, (vfloat)size, (vfloat)top);
    }
    int32_t bits = v_int_largest(top);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    return largest;
}

/* Writes n values and returns their sum. */
FN int32_t round_to_bytes(const float *x, int64_t n, float inverse, int8_t *values) {
    const vint zero = (vint)v_set(ROUND_TO_INT);
    vint sum = (vint)v_set(0);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vint whole = (vint)(v_load(x + i) * v_set(inverse) + v_set(ROUND_TO_INT)) - zero;
        v_store_bytes(values + i, whole);
        sum += whole;
    }
    if (i < n) {
        int8_t last[LANES];
        vint whole = (vint)(v_load_part(x + i, n - i) * v_set(inverse) + v_set(ROUND_TO_INT)) - zero;
        v_store_bytes(last, whole);
        memcpy(values + i, last, (size_t)(n - i));
        sum += whole;
    }
    return v_int_sum(sum);
}

/* The n floats of a row's group. */
FN void quantise_group(const float *x, int64_t n, const quantised_rows *out, int64_t row, int64_t g) {
    int8_t *values = out->values + row * out->depth + g * out->group;
    float *scale = out->scales + row * out->groups + g;
    int32_t *offset = out->offsets + row * out->groups + g;
    float largest = largest_size(x, n);
    if (n < out->group) memset(values, 0, (size_t)out->group);
    if (largest >= TINY_GROUP && largest <= FLT_MAX) {
        *scale = largest * (1.0f / 127.0f);
        *offset = -WEIGHT_ZERO * round_to_bytes(x, n, 127.0f / largest, values);
    } else {
        memset(values, 0, (size_t)out->group);
        *scale = largest < TINY_GROUP ? 0.0f : NAN;
        *offset = 0;
    }
}

/* x: `width` floats, so many to a group that out->groups of them are the row. */
FN void quantise_row(const float *x, int64_t width, const quantised_rows *out, int64_t row) {
    const int64_t n = width / out->groups;
    for (int64_t g = 0; g < out->groups; g++) quantise_group(x + g * n, n, out, row, g);
}

ISA_CODE static void ISA(quantise)(const float *x, int64_t width, const quantised_rows *out,
                                   int64_t row, int64_t end) {
    for (; row < end; row++) quantise_row(x + row * width, width, out, row);
}

/* Whether n floats are free of NaN and infinities. */
ISA_CODE static bool ISA(finite)(const float *x, int64_t n) { return largest_size(x, n) <= FLT_MAX; }

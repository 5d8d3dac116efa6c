/* From int8 steps to int4 weights: what engine/encode.py specifies, reckoned in the same integers. */

enum {
    PARTS_BITS = INT4_STEP_BITS,
    PARTS = 1 << PARTS_BITS,
    MOST_CODE = 15,
    MOST_STEP = 255,
    MOST_WEIGHT = 127,
    FITS = 2
};

/* Weights that share a step and a low, in parts. */
typedef struct {
    int32_t of[INT4_SHARING];
} int4_whole;

typedef struct {
    int32_t step, low;
} int4_levels;

FN int32_t within(int32_t value, int32_t least, int32_t most) {
    return value < least ? least : value > most ? most : value;
}

FN int4_levels levels_within(int64_t step, int32_t low) {
    low = within(low, -MOST_WEIGHT, MOST_WEIGHT);
    int32_t room = (MOST_WEIGHT - low) * PARTS / MOST_CODE;
    int32_t most = within(room, 1, MOST_STEP);
    return (int4_levels){step < 1 ? 1 : step > most ? most : (int32_t)step, low};
}

/* A right shift rounds down. */
FN int4_levels first_levels(const int4_whole *w, int32_t span) {
    int32_t least = w->of[0], most = w->of[0];
    for (int i = 1; i < INT4_SHARING; i++) {
        least = w->of[i] < least ? w->of[i] : least;
        most = w->of[i] > most ? w->of[i] : most;
    }
    int32_t step = ((most - least) * span + 16 * MOST_CODE) / (32 * MOST_CODE);
    return levels_within(step, (least + most - step * MOST_CODE + PARTS - 1 + PARTS) >> (PARTS_BITS + 1));
}

/* Quotients of integers so small are rounded to whole numbers by none but whole ones. */
FN void codes_of(const int4_whole *w, int4_levels levels, int4_whole *codes) {
    const float twice_step = (float)(2 * levels.step);
    for (int i = 0; i < INT4_SHARING; i++) {
        int32_t twice = 2 * (w->of[i] - levels.low * PARTS) + levels.step + PARTS - 1;
        int32_t code = (int32_t)((float)(twice < 0 ? 0 : twice) / twice_step);
        codes->of[i] = code > MOST_CODE ? MOST_CODE : code;
    }
}

FN int4_levels nearest_levels(const int4_whole *w, const int4_whole *codes) {
    int32_t c = 0, x = 0, cc = 0, cx = 0;
    for (int i = 0; i < INT4_SHARING; i++) {
        c += codes->of[i];
        x += w->of[i];
        cc += codes->of[i] * codes->of[i];
        cx += codes->of[i] * w->of[i];
    }
    int64_t spread = INT4_SHARING * cc - c * c, both = INT4_SHARING * (int64_t)cx - (int64_t)c * x;
    int64_t step = (2 * both + spread) / (spread ? 2 * spread : 1); /* codes rise with weights */
    enum { HALVES = INT4_SHARING * (PARTS - 1) / 2 + INT4_SHARING * PARTS / 2, SHARING_BITS = 5 };
    _Static_assert(INT4_SHARING == 1 << SHARING_BITS, "a shift divides by it");
    return levels_within(step, (int32_t)((x - step * c + HALVES) >> (PARTS_BITS + SHARING_BITS)));
}

FN int64_t error_of(const int4_whole *w, int4_levels levels, const int4_whole *codes) {
    int32_t sum = 0;
    for (int i = 0; i < INT4_SHARING; i++) {
        int32_t level = ((codes->of[i] * levels.step >> INT4_STEP_BITS) + levels.low) * PARTS;
        sum += (level - w->of[i]) * (level - w->of[i]);
    }
    return sum;
}

FN void encode_shared(const int4_whole *w, uint8_t *out_codes, uint8_t *out_step, int8_t *out_low) {
    static const int32_t spans[] = {32, 29}, shifts[] = {0, 1, -1};
    int4_whole codes, best_codes = {{0}};
    int4_levels best = {0, 0};
    int64_t least_error = INT64_MAX;
    for (int s = 0; s < 2; s++) {
        int4_levels levels = first_levels(w, spans[s]);
        for (int fit = 0; fit < FITS; fit++) {
            codes_of(w, levels, &codes);
            levels = nearest_levels(w, &codes);
        }
        for (int i = 0; i < 3; i++) {
            int4_levels shifted = levels_within(levels.step, levels.low + shifts[i]);
            codes_of(w, shifted, &codes);
            int64_t error = error_of(w, shifted, &codes);
            if (error >= least_error) continue;
            least_error = error, best = shifted, best_codes = codes;
        }
    }
    for (int i = 0; i < INT4_SHARING; i++) out_codes[i] = (uint8_t)best_codes.of[i];
    *out_step = (uint8_t)best.step, *out_low = (int8_t)best.low;
}

/* Weights that share a step follow each other. */
ISA_CODE static void ISA(encode)(const float *x, const int4_codes *out, int64_t from, int64_t end) {
    for (int64_t n = from; n < end; n++) {
        int4_whole w;
        for (int i = 0; i < INT4_SHARING; i++) {
            const float most = MOST_WEIGHT * PARTS, whole = x[n * INT4_SHARING + i] * PARTS;
            const float inside = whole > most ? most : whole < -most ? -most : whole;
            w.of[i] = (int32_t)(inside + ROUND_TO_INT - ROUND_TO_INT);
        }
        encode_shared(&w, out->codes + n * INT4_SHARING, out->steps + n, out->lows + n);
    }
}

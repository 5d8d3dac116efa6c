/* Dot products, the one building block of linear layers and attention scores.

   Invariant: an output's bits depend on its two vectors alone. Lane l of one accumulator sums the
   products l, l + LANES, ... in this order, zeros fill the last step, and v_sum4 adds the lanes
   in one fixed tree, however many outputs are computed side by side. */

enum { TILE_COLUMNS = 4 };

/* A tile of up to TILE_ROWS by TILE_COLUMNS outputs: out[r][c] = x[r] . w[c], or += if `add`. */
typedef struct {
    const float *x[TILE_ROWS];
    const float *w[TILE_COLUMNS];
    float *out[TILE_ROWS];
    int64_t columns, depth;
    int64_t ahead; /* from a column to the one that is needed next in its place */
    bool add;
} dots_tile;

FN void dots_store(const dots_tile *t, int row, const vfloat sum[TILE_COLUMNS]) {
    float sums[TILE_COLUMNS], *out = t->out[row];
    v_sum4(sum[0], sum[1], sum[2], sum[3], sums);
    if (t->add)
        for (int64_t c = 0; c < t->columns; c++) sums[c] = out[c] + sums[c];
    if (t->columns == TILE_COLUMNS)
        memcpy(out, sums, sizeof sums);
    else
        for (int64_t c = 0; c < t->columns; c++) out[c] = sums[c];
}

/* `rows` is a constant after inlining, so that all sums stay in registers. */
static inline __attribute__((always_inline)) ISA_CODE void dots_rows(const int rows,
                                                                     const dots_tile *t) {
    const float *w0 = t->w[0], *w1 = t->w[1], *w2 = t->w[2], *w3 = t->w[3];
    vfloat sum[TILE_ROWS][TILE_COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = v_set(0);
    int64_t k = 0;
    for (; k + LANES <= t->depth; k += LANES) {
        __builtin_prefetch(w0 + k + t->ahead);
        __builtin_prefetch(w1 + k + t->ahead);
        __builtin_prefetch(w2 + k + t->ahead);
        __builtin_prefetch(w3 + k + t->ahead);
        vfloat b0 = v_load(w0 + k), b1 = v_load(w1 + k), b2 = v_load(w2 + k), b3 = v_load(w3 + k);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vfloat a = v_load(t->x[r] + k);
            sum[r][0] = v_mul_add(a, b0, sum[r][0]);
            sum[r][1] = v_mul_add(a, b1, sum[r][1]);
            sum[r][2] = v_mul_add(a, b2, sum[r][2]);
            sum[r][3] = v_mul_add(a, b3, sum[r][3]);
        }
    }
    int64_t n = t->depth - k;
#pragma GCC unroll 8
    for (int r = 0; n > 0 && r < rows; r++) {
        vfloat a = v_load_part(t->x[r] + k, n);
        sum[r][0] = v_mul_add(a, v_load_part(w0 + k, n), sum[r][0]);
        sum[r][1] = v_mul_add(a, v_load_part(w1 + k, n), sum[r][1]);
        sum[r][2] = v_mul_add(a, v_load_part(w2 + k, n), sum[r][2]);
        sum[r][3] = v_mul_add(a, v_load_part(w3 + k, n), sum[r][3]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) dots_store(t, r, sum[r]);
}

FN void dots_rows_by_number(int64_t rows, const dots_tile *t) {
    switch (rows) {
        case 1: dots_rows(1, t); break;
        case 2: dots_rows(2, t); break;
        case 3: dots_rows(3, t); break;
#if TILE_ROWS == 6
        case 4: dots_rows(4, t); break;
        case 5: dots_rows(5, t); break;
        case 6: dots_rows(6, t); break;
#endif
    }
}

/* out[i][j] = x[i] . (w + j * stride), or += if `add`, for i < rows and j < columns. */
FN void dots(int64_t rows, const float *const *x, int64_t columns, const float *w, int64_t stride,
             int64_t depth, float *const *out, bool add) {
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        int64_t n = smaller(rows - i, TILE_ROWS);
        dots_tile t = {.depth = depth, .ahead = TILE_COLUMNS * stride, .add = add};
        for (int64_t r = 0; r < n; r++) t.x[r] = x[i + r];
        for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
            t.columns = smaller(columns - j, TILE_COLUMNS);
            for (int64_t c = 0; c < TILE_COLUMNS; c++)
                t.w[c] = w + (j + smaller(c, t.columns - 1)) * stride;
            for (int64_t r = 0; r < n; r++) t.out[r] = out[i + r] + j;
            dots_rows_by_number(n, &t);
        }
    }
}

/* Products of queries or weights with one page of keys or values, float32 or float16.

   Invariant: every output is one chain of fused multiply-adds in a fixed order (along the head for
   a score, along the keys for a value), so its bits depend neither on what is computed beside it
   nor on the vector's width. */

enum { VECTORS = 4, CACHE_LINE = 64 };

FN const void *cell_at(const void *cells, int64_t index, const bool half) {
    return half ? (const void *)((const uint16_t *)cells + index)
                : (const void *)((const float *)cells + index);
}

FN vfloat load_cells(const void *cells, int64_t index, const bool half) {
    const void *p = cell_at(cells, index, half);
    return half ? v_load_half(p) : v_load(p);
}

FN vfloat load_last_cells(const void *cells, int64_t index, int64_t n, const bool half) {
    const void *p = cell_at(cells, index, half);
    if (!half) return v_load_part(p, n);
    uint16_t last[LANES] = {0};
    memcpy(last, p, (size_t)n * sizeof *last);
    return v_load_half(last);
}

/* A tile of `rows` outputs by `vectors` vectors, or by a part of one, `lanes` wide:
   out[r][c] = the sum over i in [from, to) of by[r][i] * cells[i * stride + c].
   At each i one more line of `ahead` is fetched, unless that is NULL: the first half of a page, or
   less; the CPU's own prefetchers go on. */
typedef struct {
    const void *cells;
    const float *const *by;
    float *const *out;
    int64_t stride, from, to, lanes;
    const char *ahead;
} paged_tile;

/* `rows`, `vectors`, `part` and `half` are constants after inlining, so that all sums stay in
   registers. */
static inline __attribute__((always_inline)) ISA_CODE void paged_product(
    const int rows, const int vectors, const bool part, const bool half, const paged_tile *t,
    int64_t column) {
    const char *ahead = column == 0 ? t->ahead : NULL;
    vfloat sum[TILE_ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < vectors; c++) sum[r][c] = v_set(0);
    for (int64_t i = t->from; i < t->to; i++) {
        int64_t at = i * t->stride + column;
        if (ahead) __builtin_prefetch(ahead + (i - t->from) * CACHE_LINE);
#pragma GCC unroll 4
        for (int c = 0; c < vectors; c++) {
            vfloat cell = part ? load_last_cells(t->cells, at, t->lanes, half)
                               : load_cells(t->cells, at + c * LANES, half);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sum[r][c] = v_fma(v_set(t->by[r][i]), cell, sum[r][c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < vectors; c++)
            if (part)
                v_store_part(t->out[r] + column, sum[r][c], t->lanes);
            else
                v_store(t->out[r] + column + c * LANES, sum[r][c]);
}

static inline __attribute__((always_inline)) ISA_CODE void paged_columns(
    const int rows, const bool half, paged_tile *t, int64_t columns) {
    int64_t column = 0;
    for (; column + VECTORS * LANES <= columns; column += VECTORS * LANES)
        paged_product(rows, VECTORS, false, half, t, column);
    switch ((columns - column) / LANES) {
        case 1: paged_product(rows, 1, false, half, t, column); break;
        case 2: paged_product(rows, 2, false, half, t, column); break;
        case 3: paged_product(rows, 3, false, half, t, column); break;
    }
    t->lanes = columns % LANES;
    if (t->lanes) paged_product(rows, 1, true, half, t, columns - t->lanes);
}

static inline __attribute__((always_inline)) ISA_CODE void paged_rows(
    int64_t rows, const bool half, paged_tile *t, int64_t columns) {
    switch (rows) {
        case 1: paged_columns(1, half, t, columns); break;
        case 2: paged_columns(2, half, t, columns); break;
        case 3: paged_columns(3, half, t, columns); break;
#if TILE_ROWS == 6
        case 4: paged_columns(4, half, t, columns); break;
        case 5: paged_columns(5, half, t, columns); break;
        case 6: paged_columns(6, half, t, columns); break;
#endif
    }
}

FN void widen(const void *cells, int64_t from, int64_t to, float *out) {
    int64_t i = from;
    for (; i + LANES <= to; i += LANES) v_store(out + i, load_cells(cells, i, true));
    if (i < to) v_store_part(out + i, load_last_cells(cells, i, to - i, true), to - i);
}

/* out[r][c] = the sum over i in [from, to) of by[r][i] * cells[i * stride + c], for r < rows and
   c < columns. A page's halves are widened once for all rows. */
FN void paged(int64_t rows, const float *const *by, const void *cells, bool half, int64_t from,
              int64_t to, int64_t stride, int64_t columns, const void *ahead, float *const *out) {
    _Alignas(64) float wide[PAGE_KEYS * MOST_HEAD_DIM];
    if (half && rows > TILE_ROWS) {
        widen(cells, from * stride, to * stride, wide);
        cells = wide;
        half = false;
        ahead = NULL; /* so many rows take longer than the next page does to come */
    }
    for (int64_t row = 0; row < rows; row += TILE_ROWS) {
        paged_tile t = {cells, by + row, out + row, stride, from, to, 0, row ? NULL : ahead};
        int64_t n = smaller(rows - row, TILE_ROWS);
        if (half)
            paged_rows(n, true, &t, columns);
        else
            paged_rows(n, false, &t, columns);
    }
}

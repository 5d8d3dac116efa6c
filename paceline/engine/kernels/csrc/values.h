/* Weighted sums of a page's values, added in key order from zero. */

/* Keys of one page, counted from its start; none if to <= from. */
typedef struct {
    int64_t from, to;
} key_range;

/* out[r] = the sum over keys of weights[r][key] * v[key], for `rows` queries that see the same keys
   and `vectors` vectors of the head (both constants after inlining), the last `lanes` wide. */
static inline __attribute__((always_inline)) ISA_CODE void values_tile(
    const int rows, const int vectors, int64_t lanes, float *const *weights, key_range seen,
    const float *v, int64_t head_dim, float *out) {
    vfloat sum[TILE_ROWS][4];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < vectors; c++) sum[r][c] = v_set(0);
    for (int64_t key = seen.from; key < seen.to; key++) {
        vfloat value[4];
#pragma GCC unroll 4
        for (int c = 0; c < vectors; c++)
            value[c] = vectors == 1 ? v_load_part(v + key * head_dim, lanes)
                                    : v_load(v + key * head_dim + c * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vfloat weight = v_set(weights[r][key]);
#pragma GCC unroll 4
            for (int c = 0; c < vectors; c++) sum[r][c] = v_fma(weight, value[c], sum[r][c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < vectors; c++)
            if (vectors == 1)
                v_store_part(out + r * head_dim, sum[r][c], lanes);
            else
                v_store(out + r * head_dim + c * LANES, sum[r][c]);
}

static inline __attribute__((always_inline)) ISA_CODE void values_tiles(
    const int rows, float *const *weights, key_range seen, const float *v, int64_t head_dim,
    float *out) {
    int64_t d = 0;
    for (; d + 4 * LANES <= head_dim; d += 4 * LANES)
        values_tile(rows, 4, LANES, weights, seen, v + d, head_dim, out + d);
    for (; d < head_dim; d += LANES)
        values_tile(rows, 1, smaller(head_dim - d, LANES), weights, seen, v + d, head_dim, out + d);
}

FN void values_by_number(int64_t rows, float *const *weights, key_range seen, const float *v,
                         int64_t head_dim, float *out) {
    switch (rows) {
        case 1: values_tiles(1, weights, seen, v, head_dim, out); break;
        case 2: values_tiles(2, weights, seen, v, head_dim, out); break;
        case 3: values_tiles(3, weights, seen, v, head_dim, out); break;
#if TILE_ROWS == 6
        case 4: values_tiles(4, weights, seen, v, head_dim, out); break;
        case 5: values_tiles(5, weights, seen, v, head_dim, out); break;
        case 6: values_tiles(6, weights, seen, v, head_dim, out); break;
#endif
    }
}

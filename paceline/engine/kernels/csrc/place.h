/* What happens to queries, keys and values between their product and attention: norm per head,
   rope, and keys and values into the cache. */

/* Halves of the head are the coordinates of the pairs that turn. */
FN void rotate(float *head, int64_t half, const float *cos, const float *sin) {
    for (int64_t i = 0; i < half; i += LANES) {
        int64_t n = smaller(half - i, LANES);
        vfloat a = v_load_part(head + i, n), b = v_load_part(head + half + i, n);
        vfloat c = v_load_part(cos + i, n), s = v_load_part(sin + i, n);
        v_store_part(head + i, a * c - b * s, n);
        v_store_part(head + half + i, b * c + a * s, n);
    }
}

FN void store_halves(uint16_t *out, const float *x, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store_half(out + i, v_load(x + i));
    if (i < n) {
        uint16_t last[LANES];
        v_store_half(last, v_load_part(x + i, n - i));
        memcpy(out + i, last, (size_t)(n - i) * sizeof *last);
    }
}

/* Keys stand element by element, so that a page's 64 lie beside each other for each. */
FN void store_key(uint16_t *out, const float *key, int64_t head_dim) {
    uint16_t halves[MOST_HEAD_DIM];
    store_halves(halves, key, head_dim);
    for (int64_t d = 0; d < head_dim; d++) out[d * PAGE_KEYS] = halves[d];
}

/* Of a row's first head; those of the others follow, each in a page of its own. */
typedef struct {
    uint16_t *key, *value;
} cache_place;

FN cache_place place_of(const placing *p, int64_t row) {
    const int32_t *pages = p->tables + p->row_table[row] * p->table_pages;
    int64_t position = p->row_pos[row], within = position % PAGE_KEYS;
    int64_t page = pages[position / PAGE_KEYS] * p->kv_heads * PAGE_KEYS * p->head_dim;
    return (cache_place){p->keys + page + within, p->values + page + within * p->head_dim};
}

/* Each element of a key has a line of its own, and stores wait for lines one after another; rows of
   one sequence share them. Inlined always: the compiler leaves out calls of functions that do
   nothing but this. */
__attribute__((always_inline)) FN void fetch_key_lines(const placing *p, int64_t row) {
    const uint16_t *key = place_of(p, row).key;
    for (int64_t d = 0; d < p->kv_heads * p->head_dim; d++)
        __builtin_prefetch(key + d * PAGE_KEYS, 1);
}

/* qkv: [rows, (heads + 2 kv_heads) * head_dim], whose queries and keys are changed in place. */
ISA_CODE static void ISA(place)(const placing *p, float *qkv, int64_t row, int64_t end) {
    const int64_t d = p->head_dim, width = (p->heads + 2 * p->kv_heads) * d;
    if (row < end) fetch_key_lines(p, row);
    for (; row < end; row++) {
        if (row + 1 < end && p->row_table[row + 1] != p->row_table[row]) fetch_key_lines(p, row + 1);
        float *q = qkv + row * width, *k = q + p->heads * d, *v = k + p->kv_heads * d;
        int64_t position = p->row_pos[row];
        for (int64_t h = 0; h < p->heads + p->kv_heads; h++) {
            const norm_weights *norm = h < p->heads ? p->q_norm : p->k_norm;
            if (norm) norm_row(norm, q + h * d, d, q + h * d);
            if (p->cos)
                rotate(q + h * d, d / 2, p->cos + position * d / 2, p->sin + position * d / 2);
        }
        cache_place at = place_of(p, row);
        for (int64_t h = 0; h < p->kv_heads; h++) {
            store_key(at.key + h * PAGE_KEYS * d, k + h * d, d);
            store_halves(at.value + h * PAGE_KEYS * d, v + h * d, d);
        }
    }
}

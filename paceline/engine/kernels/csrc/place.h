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
FN void store_key(uint16_t *page, int64_t place, const float *key, int64_t head_dim) {
    uint16_t halves[MOST_HEAD_DIM];
    store_halves(halves, key, head_dim);
    for (int64_t d = 0; d < head_dim; d++) page[d * PAGE_KEYS + place] = halves[d];
}

/* qkv: [rows, (heads + 2 kv_heads) * head_dim], whose queries and keys are changed in place. */
ISA_CODE static void ISA(place)(const placing *p, float *qkv, int64_t row, int64_t end) {
    const int64_t d = p->head_dim, width = (p->heads + 2 * p->kv_heads) * d;
    for (; row < end; row++) {
        float *q = qkv + row * width, *k = q + p->heads * d, *v = k + p->kv_heads * d;
        int64_t position = p->row_pos[row];
        for (int64_t h = 0; h < p->heads + p->kv_heads; h++) {
            const norm_weights *norm = h < p->heads ? p->q_norm : p->k_norm;
            if (norm) norm_row(norm, q + h * d, d, q + h * d);
            if (p->cos)
                rotate(q + h * d, d / 2, p->cos + position * d / 2, p->sin + position * d / 2);
        }
        const int32_t *pages = p->tables + p->row_table[row] * p->table_pages;
        int64_t page = pages[position / PAGE_KEYS] * p->kv_heads, place = position % PAGE_KEYS;
        for (int64_t h = 0; h < p->kv_heads; h++) {
            int64_t start = (page + h) * PAGE_KEYS * d;
            store_key(p->keys + start, place, k + h * d, d);
            store_halves(p->values + start + place * d, v + h * d, d);
        }
    }
}

/* Causal attention over a paged cache.

   Invariant: an output's bits depend on its query, its position and its sequence's keys and values
   alone. For each query and each page: scores (see paged.h), weights against the exact maximum over
   all pages, and the page's weighted values added in key order from zero; then the pages' sums
   are added in page order. A key outside the query's view has weight 0, which leaves a sum as it
   is; a value outside every view of the tile is not read.

   A unit of work is a tile (neighbouring rows of one sequence) and one key-value head, so that a
   page is read once for all its queries. Units are computed whole, each by one thread, or, when
   few long ones would leave threads idle, page by page. */

enum { TILE_QUERIES = 48, TILE_SCORES = 256 * 1024, PAGES_PER_TASK = 4, SPLIT_FROM_PAGES = 8 };

_Static_assert((int)MOST_GROUP >= (int)TILE_QUERIES, "a unit's arrays hold a tile or one row's group");

/* Keys of one page, counted from its start; none if to <= from. */
typedef struct {
    int64_t from, to;
} key_range;

typedef struct {
    int64_t row, rows, first_page, pages;
} attention_tile;

typedef struct {
    const attention_call *call;
    const attention_tile *tiles;
    int64_t units, group;
    int64_t page_groups; /* of the longest tile, when split by pages */
    int64_t unit_floats;
} attention_job;

/* A unit and its working memory. Query i belongs to row i / group of the tile. */
typedef struct {
    const attention_call *call;
    attention_tile tile;
    int64_t kv_head, group, queries;
    float *scores;  /* [queries, pages * PAGE_KEYS], later the weights */
    float *peaks;   /* [pages, queries]: the largest score of the page */
    float *sums;    /* [pages, queries]: the sum of the page's weights */
    float *partial; /* [pages or 1, queries, head_dim]: the page's weighted values */
    const void *then; /* the page that its thread goes on with, to be fetched; or NULL */
} attention_unit;

FN int64_t first_key(const attention_call *call, int64_t row) {
    return call->window ? larger(call->row_pos[row] - call->window + 1, 0) : 0;
}

/* The keys of a page that the row sees, counted from the page's start; to <= from if none. */
FN key_range visible(const attention_call *call, int64_t row, int64_t page) {
    int64_t start = page * PAGE_KEYS;
    int64_t end = smaller(call->row_pos[row] + 1 - start, PAGE_KEYS);
    return (key_range){larger(first_key(call, row) - start, 0), end};
}

FN int64_t unit_floats(int64_t queries, int64_t pages, int64_t partials, int64_t head_dim) {
    return queries * (pages * (PAGE_KEYS + 2) + partials * head_dim);
}

/* Without its memory. */
FN attention_unit unit_of(const attention_job *job, int64_t index) {
    attention_unit u = {.call = job->call, .group = job->group};
    u.tile = job->tiles[index / job->call->kv_heads];
    u.kv_head = index % job->call->kv_heads;
    u.queries = u.tile.rows * u.group;
    return u;
}

FN attention_unit unit_at(const attention_job *job, int64_t index, float *memory) {
    attention_unit u = unit_of(job, index);
    u.scores = memory;
    u.peaks = u.scores + u.queries * u.tile.pages * PAGE_KEYS;
    u.sums = u.peaks + u.queries * u.tile.pages;
    u.partial = u.sums + u.queries * u.tile.pages;
    return u;
}

FN int64_t unit_row(const attention_unit *u, int64_t query) {
    return u->tile.row + query / u->group;
}

FN int64_t unit_head(const attention_unit *u, int64_t query) {
    return u->kv_head * u->group + query % u->group;
}

FN const float *unit_query(const attention_unit *u, int64_t query) {
    const attention_call *call = u->call;
    return call->q + unit_row(u, query) * call->q_stride + unit_head(u, query) * call->head_dim;
}

FN float *unit_out(const attention_unit *u, int64_t query) {
    const attention_call *call = u->call;
    return call->out + (unit_row(u, query) * call->heads + unit_head(u, query)) * call->head_dim;
}

FN float *unit_scores(const attention_unit *u, int64_t query, int64_t page) {
    return u->scores + (query * u->tile.pages + page) * PAGE_KEYS;
}

/* The page (counted from the tile's first) of this key-value head in the keys or the values. */
FN const void *page_of(const attention_unit *u, const void *cells, int64_t page) {
    const attention_call *call = u->call;
    const int32_t *table = call->tables + call->row_table[u->tile.row] * call->table_pages;
    int64_t id = table[u->tile.first_page + page] * call->kv_heads + u->kv_head;
    return cell_at(cells, id * PAGE_KEYS * call->head_dim, call->half);
}

/* What to fetch: memory delivers pages slower than they are computed, and prefetchers stop at their
   ends. It may be a page whose id was never checked; fetching never fails. */
FN const void *after_keys(const attention_unit *u, int64_t page) {
    bool more = page + 1 < u->tile.pages;
    return more ? page_of(u, u->call->keys, page + 1) : page_of(u, u->call->values, 0);
}

FN const void *after_values(const attention_unit *u, int64_t page) {
    return page + 1 < u->tile.pages ? page_of(u, u->call->values, page + 1) : u->then;
}

/* Turns a page's dot products into scores, -inf where the query does not see the key, whatever
   stands there, and returns the largest. */
FN float finish_scores(const attention_call *call, float *scores, key_range seen) {
    const vfloat hidden = v_set(-INFINITY);
    vfloat peak = hidden;
    vint key;
    for (int i = 0; i < LANES; i++) key[i] = i;
    for (int64_t j = 0; j < PAGE_KEYS; j += LANES, key += LANES) {
        vfloat s = v_load(scores + j) * v_set(call->scale);
        if (call->softcap > 0) s = v_tanh(s / v_set(call->softcap)) * v_set(call->softcap);
        vint see = (key >= (int32_t)seen.from) & (key < (int32_t)seen.to);
        s = v_select(see, s, hidden);
        v_store(scores + j, s);
        peak = v_max(peak, s);
    }
    return v_largest(peak);
}

/* From the first to the last key of the page that any row of the tile sees. */
FN key_range visible_to_any(const attention_unit *u, int64_t page) {
    key_range any = {PAGE_KEYS, 0};
    for (int64_t row = u->tile.row; row < u->tile.row + u->tile.rows; row++) {
        key_range seen = visible(u->call, row, u->tile.first_page + page);
        if (seen.from >= seen.to) continue;
        any.from = smaller(any.from, seen.from);
        any.to = larger(any.to, seen.to);
    }
    return any;
}

/* Keys in whole vectors, as far as any row sees. A page that no row sees lies between two rows'
   views; its id was never checked. */
FN void score_page(const attention_unit *u, int64_t page) {
    const attention_call *call = u->call;
    const float *q[MOST_GROUP];
    float *scores[MOST_GROUP];
    key_range any = visible_to_any(u, page);
    for (int64_t i = 0; i < u->queries; i++) {
        q[i] = unit_query(u, i);
        scores[i] = unit_scores(u, i, page);
    }
    if (any.from < any.to)
        paged(u->queries, q, page_of(u, call->keys, page), call->half, 0, call->head_dim, PAGE_KEYS,
              (any.to + LANES - 1) / LANES * LANES, after_keys(u, page), scores);
    for (int64_t i = 0; i < u->queries; i++) {
        key_range seen = visible(call, unit_row(u, i), u->tile.first_page + page);
        u->peaks[page * u->queries + i] = finish_scores(call, scores[i], seen);
    }
}

/* The exact maximum over all pages, left in the first page's place. */
FN void join_peaks(const attention_unit *u) {
    for (int64_t page = 1; page < u->tile.pages; page++)
        for (int64_t i = 0; i < u->queries; i++) {
            float peak = u->peaks[page * u->queries + i];
            if (peak > u->peaks[i]) u->peaks[i] = peak;
        }
}

FN float scores_to_weights(float *scores, float peak) {
    vfloat sum[SUM_LANES / LANES];
    for (int p = 0; p < SUM_LANES / LANES; p++) sum[p] = v_set(0);
    for (int64_t j = 0; j < PAGE_KEYS; j += SUM_LANES)
        for (int p = 0; p < SUM_LANES / LANES; p++) {
            float *part = scores + j + p * LANES;
            vfloat weight = v_exp_of_negative(v_load(part) - v_set(peak));
            v_store(part, weight);
            sum[p] = sum[p] + weight;
        }
    return v_sum16(sum);
}

/* Leaves the page's weights, their sums, and in `partial` its weighted values. A query that does
   not see the page gets weights and sum of 0. */
FN void weigh_page(const attention_unit *u, int64_t page, float *partial) {
    const attention_call *call = u->call;
    const float *weights[MOST_GROUP];
    float *out[MOST_GROUP];
    for (int64_t i = 0; i < u->queries; i++) {
        key_range seen = visible(call, unit_row(u, i), u->tile.first_page + page);
        float *scores = unit_scores(u, i, page), *sum = &u->sums[page * u->queries + i];
        if (seen.from < seen.to) {
            *sum = scores_to_weights(scores, u->peaks[i]);
        } else {
            *sum = 0;
            memset(scores, 0, PAGE_KEYS * sizeof *scores);
        }
        weights[i] = scores;
        out[i] = partial + i * call->head_dim;
    }
    key_range any = visible_to_any(u, page);
    if (any.from < any.to)
        paged(u->queries, weights, page_of(u, call->values, page), call->half, any.from, any.to,
              call->head_dim, call->head_dim, after_values(u, page), out);
}

/* Adds a page to the outputs and to the first page's sums, in page order. */
FN void join_page(const attention_unit *u, int64_t page, const float *partial) {
    int64_t head_dim = u->call->head_dim;
    for (int64_t i = 0; i < u->queries; i++) {
        key_range seen = visible(u->call, unit_row(u, i), u->tile.first_page + page);
        float *out = unit_out(u, i);
        if (page == 0)
            for (int64_t d = 0; d < head_dim; d++) out[d] = 0;
        else
            u->sums[i] += u->sums[page * u->queries + i];
        if (seen.from >= seen.to) continue;
        for (int64_t d = 0; d < head_dim; d++) out[d] += partial[i * head_dim + d];
    }
}

FN void divide_by_sums(const attention_unit *u) {
    for (int64_t i = 0; i < u->queries; i++) {
        float *out = unit_out(u, i);
        for (int64_t d = 0; d < u->call->head_dim; d++) out[d] /= u->sums[i];
    }
}

ISA_CODE static void whole_unit_task(void *arg, int64_t index, int thread) {
    const attention_job *job = arg;
    attention_unit u = unit_at(job, index, scratch_of(thread));
    if (index + 1 < job->units) {
        attention_unit next = unit_of(job, index + 1);
        u.then = page_of(&next, job->call->keys, 0);
    }
    for (int64_t page = 0; page < u.tile.pages; page++) score_page(&u, page);
    join_peaks(&u);
    for (int64_t page = 0; page < u.tile.pages; page++) {
        weigh_page(&u, page, u.partial);
        join_page(&u, page, u.partial);
    }
    divide_by_sums(&u);
}

FN attention_unit shared_unit(const attention_job *job, int64_t index) {
    float *memory = scratch_of(SCRATCH_SHARED);
    return unit_at(job, index, memory + index * job->unit_floats);
}

ISA_CODE static void score_pages_task(void *arg, int64_t index, int thread) {
    (void)thread;
    const attention_job *job = arg;
    attention_unit u = shared_unit(job, index / job->page_groups);
    int64_t page = index % job->page_groups * PAGES_PER_TASK;
    int64_t end = smaller(page + PAGES_PER_TASK, u.tile.pages);
    for (; page < end; page++) score_page(&u, page);
}

ISA_CODE static void weigh_pages_task(void *arg, int64_t index, int thread) {
    (void)thread;
    const attention_job *job = arg;
    attention_unit u = shared_unit(job, index / job->page_groups);
    int64_t page = index % job->page_groups * PAGES_PER_TASK;
    int64_t end = smaller(page + PAGES_PER_TASK, u.tile.pages);
    for (; page < end; page++)
        weigh_page(&u, page, u.partial + page * u.queries * job->call->head_dim);
}

FN void attend_by_pages(attention_job *job) {
    int64_t tasks = job->units * job->page_groups;
    pool_run(score_pages_task, job, tasks);
    for (int64_t i = 0; i < job->units; i++) {
        attention_unit u = shared_unit(job, i);
        join_peaks(&u);
    }
    pool_run(weigh_pages_task, job, tasks);
    for (int64_t i = 0; i < job->units; i++) {
        attention_unit u = shared_unit(job, i);
        for (int64_t page = 0; page < u.tile.pages; page++)
            join_page(&u, page, u.partial + page * u.queries * job->call->head_dim);
        divide_by_sums(&u);
    }
}

/* Takes in neighbouring rows of the same sequence as far as their queries and scores stay few. */
FN attention_tile next_tile(const attention_call *call, int64_t row) {
    int64_t group = call->heads / call->kv_heads;
    int64_t first = first_key(call, row) / PAGE_KEYS, last = call->row_pos[row] / PAGE_KEYS;
    int64_t end = row + 1;
    for (; end < call->rows && call->row_table[end] == call->row_table[row]; end++) {
        int64_t from = smaller(first, first_key(call, end) / PAGE_KEYS);
        int64_t to = larger(last, call->row_pos[end] / PAGE_KEYS);
        int64_t queries = (end + 1 - row) * group;
        if (queries > TILE_QUERIES || queries * (to - from + 1) * PAGE_KEYS > TILE_SCORES) break;
        first = from;
        last = to;
    }
    return (attention_tile){row, end - row, first, last - first + 1};
}

ISA_CODE static int ISA(attention)(const attention_call *call) {
    int threads = pool_threads();
    int64_t tiles = 0, pages = 0, whole_floats = 0, split_floats = 0;
    attention_tile *tile = scratch_reserve(SCRATCH_TILES, call->rows * sizeof *tile);
    if (!tile) return STATUS_NO_MEMORY;
    attention_job job = {.call = call, .tiles = tile, .group = call->heads / call->kv_heads};
    for (int64_t row = 0; row < call->rows; row += tile[tiles++].rows) {
        attention_tile t = tile[tiles] = next_tile(call, row);
        int64_t queries = t.rows * job.group, d = call->head_dim;
        pages = larger(pages, t.pages);
        whole_floats = larger(whole_floats, unit_floats(queries, t.pages, 1, d));
        split_floats = larger(split_floats, unit_floats(queries, t.pages, t.pages, d));
    }
    job.units = tiles * call->kv_heads;
    if (threads > 1 && job.units < 4 * threads && pages >= SPLIT_FROM_PAGES) {
        job.page_groups = (pages + PAGES_PER_TASK - 1) / PAGES_PER_TASK;
        job.unit_floats = split_floats;
        size_t bytes = (size_t)(job.units * split_floats) * sizeof(float);
        if (!scratch_reserve(SCRATCH_SHARED, bytes)) return STATUS_NO_MEMORY;
        attend_by_pages(&job);
        return STATUS_OK;
    }
    for (int thread = 0; thread < threads; thread++)
        if (!scratch_reserve(thread, (size_t)whole_floats * sizeof(float))) return STATUS_NO_MEMORY;
    pool_run(whole_unit_task, &job, job.units);
    return STATUS_OK;
}

#include "layer.h"

#include "middle.h"
#include "multiply.h"
#include "pool.h"
#include "rows.h"
#include "scratch.h"

/* Buffers of a step, which all layers use in turn. */
typedef struct {
    float *wide;   /* [rows, qkv or up columns] */
    float *narrow; /* [rows, heads * head_dim] */
} layer_buffers;

typedef struct {
    const kernel_level *level;
    const layer_shape *shape;
    const layer_weights *layer, *next; /* NULL behind the last */
    const step_rows *step;
    layer_buffers buffers;
    float *x;
} layer_run_state;

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t middle_width(const mlp_middle *mlp) { return mlp->width * (mlp->gated ? 2 : 1); }
static int64_t q_width(const layer_shape *s) { return s->heads * s->head_dim; }
static int64_t qkv_width(const layer_shape *s) { return q_width(s) + 2 * s->kv_heads * s->head_dim; }

static bool reserve_buffers(const layer_shape *s, int64_t rows, layer_buffers *buffers) {
    int64_t wide = larger(qkv_width(s), middle_width(&s->mlp));
    buffers->wide = scratch_reserve(SCRATCH_WIDE, (size_t)(rows * wide) * sizeof(float));
    buffers->narrow = scratch_reserve(SCRATCH_NARROW, (size_t)(rows * q_width(s)) * sizeof(float));
    return buffers->wide && buffers->narrow;
}

typedef struct {
    const kernel_level *level;
    const placing *placing;
    float *qkv;
} place_job;

static void place_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    (void)scratch;
    const place_job *j = arg;
    j->level->floats->place(j->placing, j->qkv, row, end);
}

/* Keys of neighbouring rows lie within one line of the cache, which threads had better not share. */
static int64_t rows_placed_at_once(int64_t rows) {
    int64_t even = rows / (2 * pool_threads());
    return even < 1 ? 1 : even < PAGE_KEYS ? even : PAGE_KEYS;
}

static int place(const layer_run_state *r) {
    const layer_shape *s = r->shape;
    const layer_weights *l = r->layer;
    placing p = {
        .q_norm = l->q_norm.weight ? &l->q_norm : NULL,
        .k_norm = l->k_norm.weight ? &l->k_norm : NULL,
        .cos = l->cos,
        .sin = l->sin,
        .keys = l->keys,
        .values = l->values,
        .row_pos = r->step->row_pos,
        .row_table = r->step->row_table,
        .tables = r->step->tables,
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .table_pages = r->step->table_pages,
    };
    place_job job = {r->level, &p, r->buffers.wide};
    return rows_run_by(place_rows, &job, r->step->rows, rows_placed_at_once(r->step->rows), 0);
}

static int attend(const layer_run_state *r) {
    const layer_shape *s = r->shape;
    attention_call call = {
        .q = r->buffers.wide,
        .keys = r->layer->keys,
        .values = r->layer->values,
        .row_pos = r->step->row_pos,
        .row_table = r->step->row_table,
        .tables = r->step->tables,
        .out = r->buffers.narrow,
        .rows = r->step->rows,
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .q_stride = qkv_width(s),
        .pages = r->step->pages,
        .spans = r->step->spans,
        .table_pages = r->step->table_pages,
        .window = r->layer->window,
        .scale = r->layer->query_scale,
        .softcap = r->layer->softcap,
        .half = true,
    };
    return r->level->floats->attention(&call);
}

static multiplied rows_of(const layer_run_state *r, const float *x, int64_t width) {
    return (multiplied){.level = r->level, .x = x, .rows = r->step->rows, .width = width};
}

static int normed_times(const layer_run_state *r, const norm_weights *norm,
                        const quantised_matrix *w, const quantised_matrix *next) {
    multiplied m = rows_of(r, r->x, r->shape->width);
    m.norm = norm;
    return multiply(&m, w, next, r->buffers.wide, false);
}

static int attention_block(const layer_run_state *r) {
    int status = normed_times(r, &r->layer->attn_norm, &r->layer->qkv, &r->layer->o);
    if (!status) status = place(r);
    if (!status) status = attend(r);
    if (status) return status;
    multiplied attended = rows_of(r, r->buffers.narrow, q_width(r->shape));
    return multiply(&attended, &r->layer->o, &r->layer->up, r->x, true);
}

static const quantised_matrix *after_the_layer(const layer_run_state *r) {
    return r->next ? &r->next->qkv : NULL;
}

static int mlp_of_many_rows(const layer_run_state *r) {
    const mlp_middle *mlp = &r->shape->mlp;
    quantised_rows normed, activated;
    multiplied m = rows_of(r, r->x, r->shape->width);
    m.norm = &r->layer->mlp_norm;
    int status = quantised_of(&m, &normed);
    if (!status) status = middle_run(r->level, &normed, &r->layer->up, mlp, &activated);
    if (status) return status;
    return multiply_quantised(r->level, &activated, &r->layer->down, after_the_layer(r), r->x, true);
}

static int mlp_block(const layer_run_state *r) {
    if (middle_fits(&r->shape->mlp, r->step->rows)) return mlp_of_many_rows(r);
    int status = normed_times(r, &r->layer->mlp_norm, &r->layer->up, &r->layer->down);
    if (status) return status;
    multiplied m = rows_of(r, r->buffers.wide, r->shape->mlp.width);
    m.middle = &r->shape->mlp;
    return multiply(&m, &r->layer->down, after_the_layer(r), r->x, true);
}

int layers_run(const kernel_level *level, const layer_shape *shape, const layer_weights *layers,
               int64_t count, const step_rows *step, float *x) {
    layer_run_state r = {.level = level, .shape = shape, .step = step, .x = x};
    if (!reserve_buffers(shape, step->rows, &r.buffers)) return STATUS_NO_MEMORY;
    for (int64_t i = 0; i < count; i++) {
        r.layer = &layers[i];
        r.next = i + 1 < count ? &layers[i + 1] : NULL;
        int status = attention_block(&r);
        if (!status) status = mlp_block(&r);
        if (status) return status;
    }
    return STATUS_OK;
}

int head_run(const kernel_level *level, int64_t width, const head_weights *head, const float *x,
             int64_t rows, float *logits) {
    multiplied m = {.level = level, .norm = &head->norm, .x = x, .rows = rows, .width = width};
    return multiply(&m, &head->head, NULL, logits, false);
}

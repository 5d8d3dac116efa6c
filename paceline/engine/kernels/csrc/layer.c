#include "layer.h"

#include "pool.h"
#include "product.h"
#include "rows.h"
#include "scratch.h"

/* Buffers of a step, which all layers use in turn. */
typedef struct {
    float *wide;   /* [rows, qkv or up columns] */
    float *narrow; /* [rows, heads * head_dim] */
    void *bytes;   /* quantised rows of any width */
} layer_buffers;

typedef struct {
    const kernel_level *level;
    const layer_shape *shape;
    const layer_weights *layer;
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
    size_t bytes = rows_bytes(rows, s->width);
    if (rows_bytes(rows, q_width(s)) > bytes) bytes = rows_bytes(rows, q_width(s));
    if (rows_bytes(rows, s->mlp.width) > bytes) bytes = rows_bytes(rows, s->mlp.width);
    buffers->wide = scratch_reserve(SCRATCH_WIDE, (size_t)(rows * wide) * sizeof(float));
    buffers->narrow = scratch_reserve(SCRATCH_NARROW, (size_t)(rows * q_width(s)) * sizeof(float));
    buffers->bytes = scratch_reserve(SCRATCH_BYTES, bytes);
    return buffers->wide && buffers->narrow && buffers->bytes;
}

/* Row functions as the pool's tasks. */

typedef struct {
    const kernel_level *level;
    const norm_weights *norm;
    const mlp_middle *mlp;
    const float *x;
    int64_t width;
    const quantised_rows *out;
} quantise_job;

static void norm_quantise_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    const quantise_job *j = arg;
    j->level->floats->norm_quantise(j->norm, j->x, j->width, j->out, row, end, scratch);
}

static void quantise_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    (void)scratch;
    const quantise_job *j = arg;
    j->level->floats->quantise(j->x, j->width, j->out, row, end);
}

static void activate_quantise_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    const quantise_job *j = arg;
    j->level->floats->activate_quantise(j->mlp, j->x, j->out, row, end, scratch);
}

typedef struct {
    const kernel_level *level;
    const norm_weights *norm;
    const mlp_middle *mlp;
    const float *x;
    int64_t width;
    float *out;
} float_job;

static void norm_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    (void)scratch;
    const float_job *j = arg;
    j->level->floats->norm(j->norm, j->x, j->width, j->out, row, end);
}

static void activate_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    (void)scratch;
    const float_job *j = arg;
    j->level->floats->activate(j->mlp, j->x, j->out, row, end);
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

static int multiply(const kernel_level *level, const quantised_rows *x, const quantised_matrix *w,
                    float *out, bool add) {
    product_job job = {x, w, out, add};
    return product_run(level->products, &job) ? STATUS_OK : STATUS_NO_MEMORY;
}

static int norm_and_multiply(const kernel_level *level, const norm_weights *norm,
                             const quantised_matrix *w, const float *x, int64_t width,
                             int64_t rows, void *bytes, float *out) {
    quantised_rows q = rows_in(bytes, rows, width);
    quantise_job job = {.level = level, .norm = norm, .x = x, .width = width, .out = &q};
    int64_t scratch = width * (int64_t)sizeof(float);
    int status = rows_run(norm_quantise_rows, &job, rows, width, scratch);
    return status ? status : multiply(level, &q, w, out, false);
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
    return rows_run(place_rows, &job, r->step->rows, qkv_width(s), 0);
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

/* x += what the row function makes of `from`, quantised, by w. */
static int add_product(const layer_run_state *r, row_function quantise, const float *from,
                       int64_t width, const quantised_matrix *w) {
    quantised_rows q = rows_in(r->buffers.bytes, r->step->rows, width);
    quantise_job job = {r->level, NULL, &r->shape->mlp, from, width, &q};
    int64_t scratch = width * (int64_t)sizeof(float);
    int status = rows_run(quantise, &job, r->step->rows, width, scratch);
    return status ? status : multiply(r->level, &q, w, r->x, true);
}

static int attention_block(const layer_run_state *r) {
    const layer_weights *l = r->layer;
    int status = norm_and_multiply(r->level, &l->attn_norm, &l->qkv, r->x, r->shape->width,
                                   r->step->rows, r->buffers.bytes, r->buffers.wide);
    if (!status) status = place(r);
    if (!status) status = attend(r);
    if (status) return status;
    return add_product(r, quantise_rows, r->buffers.narrow, q_width(r->shape), &l->o);
}

static int mlp_block(const layer_run_state *r) {
    const layer_weights *l = r->layer;
    int status = norm_and_multiply(r->level, &l->mlp_norm, &l->up, r->x, r->shape->width,
                                   r->step->rows, r->buffers.bytes, r->buffers.wide);
    if (status) return status;
    return add_product(r, activate_quantise_rows, r->buffers.wide, r->shape->mlp.width, &l->down);
}

int layer_run(const kernel_level *level, const layer_shape *shape, const layer_weights *layer,
              const step_rows *step, float *x) {
    layer_run_state r = {level, shape, layer, step, {0}, x};
    if (!reserve_buffers(shape, step->rows, &r.buffers)) return STATUS_NO_MEMORY;
    int status = attention_block(&r);
    return status ? status : mlp_block(&r);
}

int head_run(const kernel_level *level, int64_t width, const head_weights *head, const float *x,
             int64_t rows, float *logits) {
    void *bytes = scratch_reserve(SCRATCH_BYTES, rows_bytes(rows, width));
    if (!bytes) return STATUS_NO_MEMORY;
    return norm_and_multiply(level, &head->norm, &head->head, x, width, rows, bytes, logits);
}

int linear_run(const kernel_level *level, const float *x, int64_t rows, int64_t width,
               const quantised_matrix *w, float *out) {
    void *bytes = scratch_reserve(SCRATCH_BYTES, rows_bytes(rows, width));
    if (!bytes) return STATUS_NO_MEMORY;
    quantised_rows q = rows_in(bytes, rows, width);
    quantise_job job = {.level = level, .x = x, .width = width, .out = &q};
    int status = rows_run(quantise_rows, &job, rows, width, 0);
    return status ? status : multiply(level, &q, w, out, false);
}

int norm_run(const kernel_level *level, const norm_weights *norm, const float *x, int64_t rows,
             int64_t width, float *out) {
    float_job job = {.level = level, .norm = norm, .x = x, .width = width, .out = out};
    return rows_run(norm_rows, &job, rows, width, 0);
}

int activate_run(const kernel_level *level, const mlp_middle *mlp, const float *x, int64_t rows,
                 float *out) {
    float_job job = {.level = level, .mlp = mlp, .x = x, .width = mlp->width, .out = out};
    return rows_run(activate_rows, &job, rows, mlp->width, 0);
}

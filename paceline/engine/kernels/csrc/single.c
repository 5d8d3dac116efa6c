#include "single.h"

#include <stdatomic.h>

#include "multiply.h"
#include "product.h"
#include "rows.h"

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

int linear_run(const kernel_level *level, const float *x, int64_t rows, int64_t width,
               const quantised_matrix *w, float *out) {
    multiplied m = {.level = level, .x = x, .rows = rows, .width = width};
    return multiply(&m, w, NULL, out, false);
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

typedef struct {
    const quantised_matrix *w;
    const int64_t *ids;
    int64_t width;
    float *out;
} table_job;

/* Groups of the packed column are filled up to a QUAD. */
static void table_row(const table_job *j, int64_t row) {
    const int64_t id = j->ids[row], group = group_of(j->width);
    const int64_t filled = group < QUAD ? QUAD : group;
    const uint8_t *strip = j->w->packed + id / STRIP * STRIP * j->w->depth + id % STRIP * QUAD;
    const float scale = j->w->scales[id];
    float *out = j->out + row * j->width;
    for (int64_t k = 0, from = 0; from < j->width; from += group, k += filled)
        for (int64_t i = 0; i < group; i++) {
            int64_t at = (k + i) / QUAD * STRIP * QUAD + (k + i) % QUAD;
            out[from + i] = (float)(int8_t)strip[at] * scale;
        }
}

static void table_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    (void)scratch;
    for (; row < end; row++) table_row(arg, row);
}

int table_run(const quantised_matrix *w, int64_t width, const int64_t *ids, int64_t count,
              float *out) {
    table_job job = {w, ids, width, out};
    return rows_run(table_rows, &job, count, width, 0);
}

typedef struct {
    const kernel_level *level;
    const float *x;
    const int4_codes *out;
} encode_job;

static void encode_shared_ones(const void *arg, int64_t from, int64_t end, void *scratch) {
    (void)scratch;
    const encode_job *j = arg;
    j->level->floats->encode(j->x, j->out, from, end);
}

int encode_run(const kernel_level *level, const float *x, int64_t count, const int4_codes *out) {
    encode_job job = {level, x, out};
    return rows_run(encode_shared_ones, &job, count, INT4_SHARING, 0);
}

typedef struct {
    const kernel_level *level;
    const float *x;
    int64_t width;
    atomic_bool *damaged;
} finite_job;

static void check_finite_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    (void)scratch;
    const finite_job *j = arg;
    const float *x = j->x + row * j->width;
    if (!j->level->floats->finite(x, (end - row) * j->width)) atomic_store(j->damaged, true);
}

int finite_run(const kernel_level *level, const float *x, int64_t rows, int64_t width,
               int32_t *finite) {
    atomic_bool damaged = false;
    finite_job job = {level, x, width, &damaged};
    int status = rows_run(check_finite_rows, &job, rows, width, 0);
    *finite = !damaged;
    return status;
}

#include "multiply.h"

#include "product.h"
#include "rows.h"
#include "scratch.h"

typedef struct {
    const multiplied *m;
    const quantised_rows *out;
} quantise_job;

static void quantise_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    const quantise_job *j = arg;
    const multiplied *m = j->m;
    const kernel_set *floats = m->level->floats;
    if (m->norm)
        floats->norm_quantise(m->norm, m->x, m->width, j->out, row, end, scratch);
    else if (m->middle)
        floats->activate_quantise(m->middle, m->x, j->out, row, end, scratch);
    else
        floats->quantise(m->x, m->width, j->out, row, end);
}

int quantised_of(const multiplied *m, quantised_rows *rows) {
    void *bytes = scratch_reserve(SCRATCH_BYTES, rows_bytes(m->rows, m->width));
    if (!bytes) return STATUS_NO_MEMORY;
    *rows = rows_in(bytes, m->rows, m->width);
    quantise_job job = {m, rows};
    int64_t scratch = m->width * (int64_t)sizeof(float);
    return rows_run(quantise_rows, &job, m->rows, m->width, scratch);
}

product_kernel kernel_for(const kernel_level *level, const quantised_matrix *w, int64_t rows) {
    bool many = level->many_products.int8 && rows >= level->many_rows;
    product_kernels who = many ? level->many_products : level->products;
    return w->bits == 4 ? who.int4 : who.int8;
}

int multiply_quantised(const kernel_level *level, const quantised_rows *x, const quantised_matrix *w,
                       const quantised_matrix *next, float *out, bool add) {
    product_job product = {.x = x, .w = w, .out = out, .stride = w->columns, .add = add};
    return product_run(kernel_for(level, w, x->rows), &product, next) ? STATUS_OK : STATUS_NO_MEMORY;
}

int multiply(const multiplied *m, const quantised_matrix *w, const quantised_matrix *next, float *out,
             bool add) {
    quantised_rows rows;
    int status = quantised_of(m, &rows);
    return status ? status : multiply_quantised(m->level, &rows, w, next, out, add);
}

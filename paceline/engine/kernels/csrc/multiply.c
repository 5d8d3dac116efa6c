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

int multiply(const multiplied *m, const quantised_matrix *w, const quantised_matrix *next, float *out,
             bool add) {
    void *bytes = scratch_reserve(SCRATCH_BYTES, rows_bytes(m->rows, m->width));
    if (!bytes) return STATUS_NO_MEMORY;
    quantised_rows rows = rows_in(bytes, m->rows, m->width);
    quantise_job job = {m, &rows};
    int64_t scratch = m->width * (int64_t)sizeof(float);
    if (rows_run(quantise_rows, &job, m->rows, m->width, scratch)) return STATUS_NO_MEMORY;
    product_job product = {&rows, w, out, add};
    bool many = m->level->many_products && m->rows >= m->level->many_rows;
    product_kernel kernel = many ? m->level->many_products : m->level->products;
    return product_run(kernel, &product, next) ? STATUS_OK : STATUS_NO_MEMORY;
}

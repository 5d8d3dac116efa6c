/* The functions that are called from outside. One caller at a time. */
#include <stddef.h>

#include "cpu.h"
#include "draw.h"
#include "layer.h"
#include "pool.h"
#include "single.h"

#if !defined(PACELINE_KERNELS_BUILD)
#define PACELINE_KERNELS_BUILD "unknown"
#endif

#define EXPORT __attribute__((visibility("default")))

#define PRODUCTS(isa) {products_##isa, products_int4_##isa}

enum { ISA_PORTABLE, ISA_AVX2, ISA_AVXVNNI, ISA_AVX512, ISA_AVX512VNNI, ISA_AMX, ISA_COUNT };

static kernel_level levels[ISA_COUNT] = {
    [ISA_PORTABLE] = {&kernels_portable, PRODUCTS(portable), {NULL, NULL}, 0},
#if defined(__x86_64__)
    [ISA_AVX2] = {&kernels_avx2, PRODUCTS(avx2), {NULL, NULL}, 0},
    [ISA_AVXVNNI] = {&kernels_avx2, PRODUCTS(avxvnni), {NULL, NULL}, 0},
    [ISA_AVX512] = {&kernels_avx512, PRODUCTS(avx2), {NULL, NULL}, 0},
    [ISA_AVX512VNNI] = {&kernels_avx512, PRODUCTS(avx512vnni), {NULL, NULL}, 0},
    [ISA_AMX] = {&kernels_avx512, PRODUCTS(avx512vnni), PRODUCTS(amx), 6},
#endif
};

EXPORT const char *paceline_build(void);
EXPORT int paceline_has_isa(int isa);
EXPORT void paceline_set_threads(int threads);
EXPORT int paceline_threads(void);
EXPORT int paceline_has_many(int isa);
EXPORT void paceline_set_many_rows(int isa, int64_t rows);
EXPORT void paceline_linear(int isa, const float *x, const float *w, const float *bias, float *out,
                            int64_t rows, int64_t depth, int64_t columns);
EXPORT int paceline_attention(int isa, const attention_call *call, int64_t *culprit);
EXPORT int paceline_quantised_linear(int isa, const float *x, int64_t rows, int64_t width,
                                     const quantised_matrix *w, float *out);
EXPORT int paceline_norm(int isa, const norm_weights *norm, const float *x, int64_t rows,
                         int64_t width, float *out);
EXPORT int paceline_activate(int isa, const mlp_middle *mlp, const float *x, int64_t rows,
                             float *out);
EXPORT int paceline_table(int isa, const quantised_matrix *w, int64_t width, const int64_t *ids,
                          int64_t count, float *out);
EXPORT int paceline_encode(int isa, const float *x, int64_t count, const int4_codes *out);
EXPORT int paceline_finite(int isa, const float *x, int64_t rows, int64_t width, int32_t *finite);
EXPORT int paceline_layers(int isa, const layer_shape *shape, const layer_weights *layers,
                           int64_t count, const step_rows *step, float *x, int64_t *culprit);
EXPORT int paceline_head(int isa, int64_t width, const head_weights *head, const float *x,
                         int64_t rows, float *logits);
EXPORT int paceline_draw(int isa, draw_row *rows, int64_t count, int64_t vocab);

const char *paceline_build(void) { return PACELINE_KERNELS_BUILD; }

int paceline_has_isa(int isa) {
    switch (isa) {
        case ISA_PORTABLE: return true;
#if defined(__x86_64__)
        case ISA_AVX2: return cpu_has_avx2();
        case ISA_AVXVNNI: return cpu_has_avxvnni();
        case ISA_AVX512: return cpu_has_avx512();
        case ISA_AVX512VNNI: return cpu_has_avx512vnni();
        case ISA_AMX: return cpu_has_amx();
#endif
    }
    return false;
}

void paceline_set_threads(int threads) { pool_resize(threads); }

int paceline_threads(void) { return pool_threads(); }

/* Whether products of many rows have a kernel of their own. */
int paceline_has_many(int isa) { return levels[isa].many_products.int8 != NULL; }

void paceline_set_many_rows(int isa, int64_t rows) { levels[isa].many_rows = rows; }

void paceline_linear(int isa, const float *x, const float *w, const float *bias, float *out,
                     int64_t rows, int64_t depth, int64_t columns) {
    if (rows == 0 || columns == 0) return;
    levels[isa].floats->linear(x, w, bias, out, rows, depth, columns);
}

/* Every page that the row will read. */
static int check_row(const attention_call *call, int64_t row) {
    int64_t position = call->row_pos[row], table = call->row_table[row];
    if (position < 0 || position / PAGE_KEYS >= call->table_pages) return STATUS_BAD_POSITION;
    if (table < 0 || table >= call->spans) return STATUS_BAD_TABLE;
    int64_t first = call->window && position >= call->window ? position - call->window + 1 : 0;
    const int32_t *pages = call->tables + table * call->table_pages;
    for (int64_t i = first / PAGE_KEYS; i <= position / PAGE_KEYS; i++)
        if (pages[i] < 0 || pages[i] >= call->pages) return STATUS_BAD_PAGE;
    return STATUS_OK;
}

static int check_rows(const attention_call *call, int64_t *culprit) {
    for (int64_t row = 0; row < call->rows; row++) {
        int status = check_row(call, row);
        *culprit = row;
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

/* Reads nothing out of bounds whatever the positions, tables and pages say: on a bad one it
   computes nothing, and `culprit` is the row. */
int paceline_attention(int isa, const attention_call *call, int64_t *culprit) {
    int status = check_rows(call, culprit);
    if (status != STATUS_OK || call->rows == 0) return status;
    return levels[isa].floats->attention(call);
}

int paceline_quantised_linear(int isa, const float *x, int64_t rows, int64_t width,
                              const quantised_matrix *w, float *out) {
    if (rows == 0) return STATUS_OK;
    return linear_run(&levels[isa], x, rows, width, w, out);
}

int paceline_norm(int isa, const norm_weights *norm, const float *x, int64_t rows, int64_t width,
                  float *out) {
    return norm_run(&levels[isa], norm, x, rows, width, out);
}

int paceline_activate(int isa, const mlp_middle *mlp, const float *x, int64_t rows, float *out) {
    return activate_run(&levels[isa], mlp, x, rows, out);
}

int paceline_table(int isa, const quantised_matrix *w, int64_t width, const int64_t *ids,
                   int64_t count, float *out) {
    (void)isa;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= w->columns) return STATUS_BAD_ID;
    return count ? table_run(w, width, ids, count, out) : STATUS_OK;
}

int paceline_encode(int isa, const float *x, int64_t count, const int4_codes *out) {
    return encode_run(&levels[isa], x, count, out);
}

int paceline_finite(int isa, const float *x, int64_t rows, int64_t width, int32_t *finite) {
    return finite_run(&levels[isa], x, rows, width, finite);
}

static int check_step(const step_rows *step, int64_t window, int64_t *culprit) {
    const attention_call views = {
        .row_pos = step->row_pos,
        .row_table = step->row_table,
        .tables = step->tables,
        .rows = step->rows,
        .pages = step->pages,
        .spans = step->spans,
        .table_pages = step->table_pages,
        .window = window,
    };
    return check_rows(&views, culprit);
}

/* Computes nothing where one of the layers would read out of bounds. What layers read differs by
   their windows alone, and is no more where a window is smaller. */
int paceline_layers(int isa, const layer_shape *shape, const layer_weights *layers, int64_t count,
                    const step_rows *step, float *x, int64_t *culprit) {
    int64_t widest = count ? layers[0].window : 0;
    for (int64_t i = 1; i < count && widest; i++)
        if (layers[i].window == 0 || layers[i].window > widest) widest = layers[i].window;
    int status = check_step(step, widest, culprit);
    if (status != STATUS_OK) return status;
    return step->rows ? layers_run(&levels[isa], shape, layers, count, step, x) : STATUS_OK;
}

int paceline_head(int isa, int64_t width, const head_weights *head, const float *x, int64_t rows,
                  float *logits) {
    if (rows == 0) return STATUS_OK;
    return head_run(&levels[isa], width, head, x, rows, logits);
}

int paceline_draw(int isa, draw_row *rows, int64_t count, int64_t vocab) {
    return draw_run(&levels[isa], rows, count, vocab);
}

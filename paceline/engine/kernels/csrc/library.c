/* The functions that are called from outside. One caller at a time. */
#include "kernels.h"
#include "pool.h"

#if !defined(PACELINE_KERNELS_BUILD)
#define PACELINE_KERNELS_BUILD "unknown"
#endif

#define EXPORT __attribute__((visibility("default")))

enum { ISA_PORTABLE, ISA_AVX2, ISA_AVX512, ISA_COUNT };

static const kernel_set *const sets[ISA_COUNT] = {
    [ISA_PORTABLE] = &kernels_portable,
#if defined(__x86_64__)
    [ISA_AVX2] = &kernels_avx2,
    [ISA_AVX512] = &kernels_avx512,
#endif
};

EXPORT const char *paceline_build(void);
EXPORT int paceline_has_isa(int isa);
EXPORT void paceline_set_threads(int threads);
EXPORT int paceline_threads(void);
EXPORT void paceline_linear(int isa, const float *x, const float *w, const float *bias, float *out,
                            int64_t rows, int64_t depth, int64_t columns);
EXPORT int paceline_attention(int isa, const attention_call *call, int64_t *culprit);
EXPORT void paceline_rms_norm(int isa, const float *x, const float *weight, float *out,
                              int64_t rows, int64_t width, float eps);
EXPORT void paceline_silu_mul(int isa, const float *gate, const float *up, float *out,
                              int64_t count);

const char *paceline_build(void) { return PACELINE_KERNELS_BUILD; }

int paceline_has_isa(int isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa == ISA_AVX512) return __builtin_cpu_supports("avx512f") != 0;
    if (isa == ISA_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == ISA_PORTABLE;
}

void paceline_set_threads(int threads) { pool_resize(threads); }

int paceline_threads(void) { return pool_threads(); }

void paceline_linear(int isa, const float *x, const float *w, const float *bias, float *out,
                     int64_t rows, int64_t depth, int64_t columns) {
    if (rows == 0 || columns == 0) return;
    sets[isa]->linear(x, w, bias, out, rows, depth, columns);
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

/* Reads nothing out of bounds whatever the positions, tables and pages say: on a bad one it
   computes nothing, and `culprit` is the row. */
int paceline_attention(int isa, const attention_call *call, int64_t *culprit) {
    for (int64_t row = 0; row < call->rows; row++) {
        int status = check_row(call, row);
        *culprit = row;
        if (status != STATUS_OK) return status;
    }
    if (call->rows == 0) return STATUS_OK;
    return sets[isa]->attention(call);
}

void paceline_rms_norm(int isa, const float *x, const float *weight, float *out, int64_t rows,
                       int64_t width, float eps) {
    sets[isa]->rms_norm(x, weight, out, rows, width, eps);
}

void paceline_silu_mul(int isa, const float *gate, const float *up, float *out, int64_t count) {
    sets[isa]->silu_mul(gate, up, out, count);
}

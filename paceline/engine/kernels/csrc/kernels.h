/* What each instruction set provides. All tensors are contiguous float32. */
#ifndef PACELINE_KERNELS_H
#define PACELINE_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_KEYS = 64, MOST_HEAD_DIM = 256, MOST_GROUP = 64 };

enum { STATUS_OK, STATUS_NO_MEMORY, STATUS_BAD_POSITION, STATUS_BAD_TABLE, STATUS_BAD_PAGE };

/* Shapes: q and out [rows, heads, head_dim]; k and v [pages, kv_heads, PAGE_KEYS, head_dim];
   row_pos and row_table [rows]; tables [spans, table_pages]. Row r stands at position row_pos[r] of
   the sequence whose pages tables[row_table[r]] lists, and sees the keys up to and including its
   own, at most `window` of them (0: all). Scores are capped at +-softcap (0: not). */
typedef struct {
    const float *q, *k, *v;
    const int64_t *row_pos;
    const int32_t *row_table, *tables;
    float *out;
    int64_t rows, heads, kv_heads, head_dim, pages, spans, table_pages, window;
    float scale, softcap;
} attention_call;

typedef struct {
    void (*linear)(const float *x, const float *w, const float *bias, float *out, int64_t rows,
                   int64_t depth, int64_t columns);
    int (*attention)(const attention_call *call);
    void (*rms_norm)(const float *x, const float *weight, float *out, int64_t rows, int64_t width,
                     float eps);
    void (*silu_mul)(const float *gate, const float *up, float *out, int64_t count);
} kernel_set;

extern const kernel_set kernels_portable;
#if defined(__x86_64__)
extern const kernel_set kernels_avx2, kernels_avx512;
#endif

#endif

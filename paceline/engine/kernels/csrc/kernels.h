/* What each instruction set provides. All tensors are contiguous, and float32 where nothing else is
   said. Row functions work on rows [row, end). */
#ifndef PACELINE_KERNELS_H
#define PACELINE_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "quantised.h"

enum { PAGE_KEYS = 64, MOST_HEAD_DIM = 256, MOST_GROUP = 64, SUM_LANES = 16, DRAW_BLOCK = 256 };

enum {
    STATUS_OK,
    STATUS_NO_MEMORY,
    STATUS_BAD_POSITION,
    STATUS_BAD_TABLE,
    STATUS_BAD_PAGE,
    STATUS_BAD_ID,
    STATUS_BAD_LOGITS
};

/* Shapes: q [rows, q_stride], of which the first heads * head_dim; out [rows, heads, head_dim];
   keys [pages, kv_heads, head_dim, PAGE_KEYS]; values [pages, kv_heads, PAGE_KEYS, head_dim], both
   float16 if `half`; row_pos and row_table [rows]; tables [spans, table_pages]. Row r stands at
   position row_pos[r] of the sequence whose pages tables[row_table[r]] lists, and sees the keys up
   to and including its own, at most `window` of them (0: all). Scores are capped at +-softcap (0:
   not). */
typedef struct {
    const float *q;
    const void *keys, *values;
    const int64_t *row_pos;
    const int32_t *row_table, *tables;
    float *out;
    int64_t rows, heads, kv_heads, head_dim, q_stride, pages, spans, table_pages, window;
    float scale, softcap;
    int32_t half;
} attention_call;

typedef enum { NORM_RMS, NORM_LAYER } norm_kind;

/* `bias` may be NULL. */
typedef struct {
    const float *weight, *bias;
    float eps;
    int32_t kind;
} norm_weights;

typedef enum { ACTIVATION_SILU, ACTIVATION_GELU, ACTIVATION_GELU_TANH } activation;

typedef struct {
    int64_t width;
    int32_t kind, gated;
} mlp_middle;

/* Norms, and cos and sin [positions, head_dim / 2], may be NULL. Keys and values are float16. */
typedef struct {
    const norm_weights *q_norm, *k_norm;
    const float *cos, *sin;
    uint16_t *keys, *values;
    const int64_t *row_pos;
    const int32_t *row_table, *tables;
    int64_t heads, kv_heads, head_dim, table_pages;
} placing;

typedef struct {
    void (*linear)(const float *x, const float *w, const float *bias, float *out, int64_t rows,
                   int64_t depth, int64_t columns);
    int (*attention)(const attention_call *call);
    void (*quantise)(const float *x, int64_t width, const quantised_rows *out, int64_t row,
                     int64_t end);
    bool (*finite)(const float *x, int64_t n);
    void (*norm)(const norm_weights *norm, const float *x, int64_t width, float *out, int64_t row,
                 int64_t end);
    void (*norm_quantise)(const norm_weights *norm, const float *x, int64_t width,
                          const quantised_rows *out, int64_t row, int64_t end, float *scratch);
    void (*activate)(const mlp_middle *mlp, const float *x, float *out, int64_t row, int64_t end);
    void (*activate_quantise)(const mlp_middle *mlp, const float *x, const quantised_rows *out,
                              int64_t row, int64_t end, float *scratch);
    void (*activate_group)(const mlp_middle *mlp, const float *x, const quantised_rows *out,
                           int64_t row, int64_t end, int64_t group);
    void (*encode)(const float *x, const int4_codes *out, int64_t from, int64_t end);
    void (*peaks)(const float *x, int64_t n, float *peaks);
    void (*weigh)(const float *x, int64_t n, float peak, float inverse, float *weights,
                  double *sums);
    void (*place)(const placing *p, float *qkv, int64_t row, int64_t end);
} kernel_set;

extern const kernel_set kernels_portable;
#if defined(__x86_64__)
extern const kernel_set kernels_avx2, kernels_avx512;
#endif

#endif

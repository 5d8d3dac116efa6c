/* Decoder layers, from the residual stream to the residual stream, and the head. */
#ifndef PACELINE_LAYER_H
#define PACELINE_LAYER_H

#include "level.h"

/* What a model's layers have in common; widths in elements. */
typedef struct {
    int64_t width, heads, kv_heads, head_dim;
    mlp_middle mlp;
} layer_shape;

/* Norms of queries and keys have no weight where the model has none; cos and sin, of [positions,
   head_dim / 2], are NULL where positions are learned. Keys and values are as in `attention_call`,
   float16. */
typedef struct {
    norm_weights attn_norm, mlp_norm, q_norm, k_norm;
    quantised_matrix qkv, o, up, down;
    const float *cos, *sin;
    uint16_t *keys, *values;
    int64_t window;
    float query_scale, softcap;
} layer_weights;

/* As in `attention_call`. */
typedef struct {
    const int64_t *row_pos;
    const int32_t *row_table, *tables;
    int64_t rows, pages, spans, table_pages;
} step_rows;

typedef struct {
    norm_weights norm;
    quantised_matrix head;
} head_weights;

/* x [rows, width] becomes what `count` layers make of it, one after the other. Positions and pages
   have been checked. */
int layers_run(const kernel_level *level, const layer_shape *shape, const layer_weights *layers,
               int64_t count, const step_rows *step, float *x);

/* Logits [rows, columns] of rows of x [rows, width]. */
int head_run(const kernel_level *level, int64_t width, const head_weights *head, const float *x,
             int64_t rows, float *logits);

#endif

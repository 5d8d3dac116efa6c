/* Tokens from rows of logits, as engine/sampling/draw.py has it by the book. */
#ifndef PACELINE_DRAW_H
#define PACELINE_DRAW_H

#include "level.h"

/* `logits` [vocab], not changed. A temperature of 0 takes the likeliest; 0 for top_k and min_p, and 1
   for top_p, leave all. The token is what `u` in [0, 1) picks.
   A NaN among the logits is seen where there is a temperature; the likeliest is that of the others. */
typedef struct {
    const float *logits;
    double u, top_p;
    float temperature, min_p;
    int64_t top_k, token;
} draw_row;

/* Writes each row's token. STATUS_BAD_LOGITS where the largest logit of a row, or the sum of its
   weights, is not finite. */
int draw_run(const kernel_level *level, draw_row *rows, int64_t count, int64_t vocab);

#endif

/* int4 weights: how they lie, and how they become int8 ones for those who multiply these alone.

   A group is INT4_GROUP deep and STRIP columns wide. It begins with a line of, for each of its halves
   (INT4_SHARING deep), every column's step and low; then come the codes, a line for 2 quads: a byte's
   low bits are of the first quad, its high bits of the second, and neighbouring bytes have changed
   places. A weight is low + (step * code >> INT4_STEP_BITS), and never more than a byte. */
#ifndef PACELINE_INT4_H
#define PACELINE_INT4_H

#include <stddef.h>

#include "quantised.h"

enum { INT4_LINE = STRIP * QUAD, INT4_HALF_LINES = INT4_SHARING / QUAD / 2 };

#define INT4_INLINE static inline __attribute__((always_inline))

/* One group: what a strip of int8 weights holds of it, [INT4_GROUP / QUAD, STRIP, QUAD]. */
typedef void (*int4_unpacker)(const uint8_t *packed, uint8_t *out);

INT4_INLINE void int4_unpack(const uint8_t *packed, uint8_t *out) {
    const uint8_t *line = packed + INT4_LINE;
    for (int half = 0; half < 2; half++, packed += 2 * STRIP) {
        uint8_t steps[INT4_LINE], lows[INT4_LINE], codes[INT4_LINE];
        for (int i = 0; i < INT4_LINE; i++) steps[i] = packed[i / QUAD];
        for (int i = 0; i < INT4_LINE; i++) lows[i] = packed[STRIP + i / QUAD];
        for (int l = 0; l < INT4_HALF_LINES; l++, line += INT4_LINE, out += 2 * INT4_LINE) {
            for (int i = 0; i < INT4_LINE; i += 2) codes[i] = line[i + 1], codes[i + 1] = line[i];
            for (int i = 0; i < INT4_LINE; i++) {
                uint16_t first = codes[i] & 15, second = codes[i] >> 4;
                out[i] = (uint8_t)(lows[i] + (steps[i] * first >> INT4_STEP_BITS));
                out[INT4_LINE + i] = (uint8_t)(lows[i] + (steps[i] * second >> INT4_STEP_BITS));
            }
        }
    }
}

/* Strip by strip through the second half of `scratch`. Both functions are constants after inlining. */
INT4_INLINE void int4_products(int4_unpacker unpack, product_kernel kernel, const product_job *job,
                               const product_part *part, uint8_t *scratch) {
    const quantised_matrix *w = job->w;
    const int64_t groups = w->depth / INT4_GROUP, bytes = INT4_GROUP * STRIP;
    const uint8_t *packed = strips_at(w, part->strip);
    uint8_t *unpacked = scratch + w->depth * STRIP;
    for (int64_t strip = part->strip; strip < part->strip_end; strip++) {
        for (int64_t g = 0; g < groups; g++, packed += INT4_GROUP_BYTES) {
            const uint8_t *ahead = weights_ahead(part, packed, WEIGHTS_AHEAD);
            for (int i = 0; i < INT4_GROUP_BYTES; i += INT4_LINE) __builtin_prefetch(ahead + i, 0, 2);
            unpack(packed, unpacked + g * bytes);
        }
        const int64_t first = strip * STRIP, left = w->columns - first;
        quantised_matrix one = {
            .packed = unpacked,
            .scales = w->scales + first,
            .bias = w->bias ? w->bias + first : NULL,
            .columns = left < STRIP ? left : STRIP,
            .depth = w->depth,
            .bits = 8,
        };
        product_job of_one = *job;
        of_one.w = &one;
        of_one.first_column -= first;
        product_part its_part = {part->row, part->row_end, 0, 1, unpacked + groups * bytes, NULL};
        kernel(&of_one, its_part, scratch);
    }
}

#endif

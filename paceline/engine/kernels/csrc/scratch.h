/* Working memory that is kept between calls, a slot for each thread and some for the caller. */
#ifndef PACELINE_SCRATCH_H
#define PACELINE_SCRATCH_H

#include <stddef.h>

#include "pool.h"

enum {
    SCRATCH_TILES = POOL_MAX_THREADS,
    SCRATCH_SHARED,
    SCRATCH_WIDE,
    SCRATCH_NARROW,
    SCRATCH_BYTES,
    SCRATCH_MIDDLE,
    SCRATCH_SLOTS
};

/* The slot's memory, 64-byte aligned and at least `bytes` long, or NULL if there is none to be had.
   Earlier contents may be lost. */
void *scratch_reserve(int slot, size_t bytes);

/* The slot's memory as last reserved. */
void *scratch_of(int slot);

#endif

#include "scratch.h"

#include <stdlib.h>

static struct {
    void *memory;
    size_t bytes;
} slots[SCRATCH_SLOTS];

void *scratch_reserve(int slot, size_t bytes) {
    if (bytes <= slots[slot].bytes) return slots[slot].memory;
    free(slots[slot].memory);
    slots[slot].memory = NULL;
    slots[slot].bytes = 0;
    if (posix_memalign(&slots[slot].memory, 64, bytes)) return slots[slot].memory = NULL;
    slots[slot].bytes = bytes;
    return slots[slot].memory;
}

void *scratch_of(int slot) { return slots[slot].memory; }

/* Quantised products with AMX: a strip of weights, as it lies in memory, is a column of tiles, one
   for each group, and up to 16 rows are multiplied by a tile at once. */
#if defined(__x86_64__)
#define CODE __attribute__((target("avx512f,avx512bw,avx512vl,amx-tile,amx-int8")))

#include "int4_avx512.h"

enum { TILE_ROWS = 16, ROW_BYTES = STRIP * (int)sizeof(int32_t), TILE_BYTES = TILE_ROWS * ROW_BYTES };

/* Tiles are read too far apart in time for the prefetchers of the CPU. A block of strips passes by
   all rows before the next: meanwhile the next comes into the second-level cache, an even part with each
   pass, and shortly before its use a tile comes into the first. */
enum { BLOCK_BYTES = 64 * 1024, NEAR = 4 * TILE_BYTES };

/* Tiles of activations, weights and sums; the last rows have lower ones. The compiler wants plain
   numbers. */
#define X 0
#define W 1
#define SUMS 2
#define LAST_X 3
#define LAST_SUMS 4

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

typedef struct {
    _Alignas(64) int32_t row[TILE_ROWS][STRIP];
} tile_sums;

CODE static void shape_tiles(int64_t group, int64_t last_rows) {
    tile_shapes t = {.palette = 1};
    t.row_bytes[X] = t.row_bytes[LAST_X] = (uint16_t)group;
    t.row_bytes[W] = t.row_bytes[SUMS] = t.row_bytes[LAST_SUMS] = ROW_BYTES;
    t.rows[X] = t.rows[SUMS] = TILE_ROWS;
    t.rows[LAST_X] = t.rows[LAST_SUMS] = (uint8_t)last_rows;
    t.rows[W] = (uint8_t)(group / QUAD);
    _tile_loadconfig(&t);
}

CODE static inline void finish(const product_job *job, int64_t row, int64_t strip, __m512 total) {
    const quantised_matrix *w = job->w;
    int64_t first = strip * STRIP, left = w->columns - first;
    __mmask16 lanes = left >= STRIP ? 0xFFFF : (__mmask16)((1u << left) - 1);
    float *out = out_at(job, row, first);
    __m512 y = _mm512_mul_ps(total, _mm512_maskz_loadu_ps(lanes, w->scales + first));
    if (w->bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(lanes, w->bias + first));
    if (job->add) y = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, out), y);
    _mm512_mask_storeu_ps(out, lanes, y);
}

/* `rows` is a constant after inlining, so that all sums stay in registers. */
__attribute__((always_inline)) CODE static inline void add_group(const int rows,
                                                                 const tile_sums *sums,
                                                                 const quantised_rows *x,
                                                                 int64_t first, __m512 *total) {
    const int32_t *offsets = x->offsets + first;
    const float *scales = x->scales + first;
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums->row[r]),
                                       _mm512_set1_epi32(offsets[r * x->groups]));
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scales[r * x->groups]),
                                   total[r]);
    }
}

typedef struct {
    const product_part *part;
    int64_t distance, from, to; /* rows of the tile so far away that a pass fetches */
} far_reader;

/* Inlined always: the compiler leaves out calls of functions that do nothing but this. */
__attribute__((always_inline)) CODE static inline void read_ahead(const far_reader *far,
                                                                  const uint8_t *w,
                                                                  int64_t tile_rows) {
    const char *later = (const char *)weights_ahead(far->part, w, far->distance);
    for (int64_t i = far->from; i < far->to; i++) _mm_prefetch(later + i * ROW_BYTES, _MM_HINT_T1);
    for (int64_t i = 0; i < tile_rows; i++)
        _mm_prefetch((const char *)w + NEAR + i * ROW_BYTES, _MM_HINT_T0);
}

/* `last` is a constant after inlining. */
__attribute__((always_inline)) CODE static inline void multiply_tiles(const bool last,
                                                                      const int8_t *x,
                                                                      int64_t depth,
                                                                      const uint8_t *w,
                                                                      tile_sums *sums) {
    _tile_loadd(W, w, STRIP * QUAD);
    if (last) {
        _tile_zero(LAST_SUMS);
        _tile_loadd(LAST_X, x, depth);
        _tile_dpbsud(LAST_SUMS, LAST_X, W);
        _tile_stored(LAST_SUMS, sums->row, ROW_BYTES);
    } else {
        _tile_zero(SUMS);
        _tile_loadd(X, x, depth);
        _tile_dpbsud(SUMS, X, W);
        _tile_stored(SUMS, sums->row, ROW_BYTES);
    }
}

/* Sums of one group are added up while the tiles of the next are at work. */
__attribute__((always_inline)) CODE static inline void rows_by_strip(const int rows,
                                                                     const product_job *job,
                                                                     const far_reader *far,
                                                                     int64_t row, int64_t strip) {
    const quantised_rows *x = job->x;
    const int8_t *values = x->values + row * x->depth;
    const uint8_t *w = job->w->packed + strip * STRIP * x->depth;
    const int64_t first = row * x->groups;
    tile_sums sums[2];
    __m512 total[TILE_ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < x->groups; g++, values += x->group, w += x->group * STRIP) {
        read_ahead(far, w, x->group / QUAD);
        multiply_tiles(rows < TILE_ROWS, values, x->depth, w, &sums[g & 1]);
        if (g > 0) add_group(rows, &sums[(g - 1) & 1], x, first + g - 1, total);
    }
    add_group(rows, &sums[(x->groups - 1) & 1], x, first + x->groups - 1, total);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) finish(job, row + r, strip, total[r]);
}

CODE static void last_rows(int64_t rows, const product_job *job, const far_reader *far, int64_t row,
                           int64_t strip) {
    switch (rows) {
        case 1: rows_by_strip(1, job, far, row, strip); break;
        case 2: rows_by_strip(2, job, far, row, strip); break;
        case 3: rows_by_strip(3, job, far, row, strip); break;
        case 4: rows_by_strip(4, job, far, row, strip); break;
        case 5: rows_by_strip(5, job, far, row, strip); break;
        case 6: rows_by_strip(6, job, far, row, strip); break;
        case 7: rows_by_strip(7, job, far, row, strip); break;
        case 8: rows_by_strip(8, job, far, row, strip); break;
        case 9: rows_by_strip(9, job, far, row, strip); break;
        case 10: rows_by_strip(10, job, far, row, strip); break;
        case 11: rows_by_strip(11, job, far, row, strip); break;
        case 12: rows_by_strip(12, job, far, row, strip); break;
        case 13: rows_by_strip(13, job, far, row, strip); break;
        case 14: rows_by_strip(14, job, far, row, strip); break;
        case 15: rows_by_strip(15, job, far, row, strip); break;
    }
}

/* All rows by the strips [strip, end). */
CODE static void rows_by_block(const product_job *job, const product_part *part, int64_t distance,
                               int64_t strip, int64_t end) {
    const int64_t rows = part->row_end - part->row, tile_rows = job->x->group / QUAD;
    const int64_t passes = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t pass = 0; pass < passes; pass++) {
        far_reader far = {part, distance, tile_rows * pass / passes, tile_rows * (pass + 1) / passes};
        int64_t row = part->row + pass * TILE_ROWS, left = part->row_end - row;
        for (int64_t s = strip; s < end; s++)
            if (left >= TILE_ROWS)
                rows_by_strip(TILE_ROWS, job, &far, row, s);
            else
                last_rows(left, job, &far, row, s);
    }
}

CODE void products_amx(const product_job *job, product_part part, void *scratch) {
    (void)scratch;
    const int64_t strip_bytes = STRIP * job->x->depth, last = (part.row_end - part.row) % TILE_ROWS;
    const int64_t strips = part.strip_end - part.strip;
    const int64_t most = BLOCK_BYTES > strip_bytes ? BLOCK_BYTES / strip_bytes : 1;
    const int64_t block = strips < most ? strips : most;
    shape_tiles(job->x->group, last ? last : 1);
    for (int64_t strip = part.strip; strip < part.strip_end; strip += block) {
        int64_t end = strip + block < part.strip_end ? strip + block : part.strip_end;
        rows_by_block(job, &part, block * strip_bytes, strip, end);
    }
    _tile_release();
}

CODE static void unpack(const uint8_t *packed, uint8_t *out) {
    const uint8_t *line = packed + INT4_LINE;
    for (int half = 0; half < 2; half++, packed += 2 * STRIP) {
        const int4_shared shared = int4_shared_of(packed);
        for (int i = 0; i < INT4_LINES; i++, line += INT4_LINE, out += 2 * INT4_LINE) {
            int4_weights quads = int4_weights_of(&shared, _mm512_loadu_si512(line));
            _mm512_store_si512(out, quads.first);
            _mm512_store_si512(out + INT4_LINE, quads.second);
        }
    }
}

CODE void products_int4_amx(const product_job *job, product_part part, void *scratch) {
    int4_products(unpack, products_amx, job, &part, scratch);
}
#endif

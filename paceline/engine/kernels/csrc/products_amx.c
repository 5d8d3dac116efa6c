/* Quantised products with AMX: a strip of weights, as it lies in memory, is a column of tiles, one
   for each group, and up to 16 rows are multiplied by a tile at once. */
#if defined(__x86_64__)
#define CODE __attribute__((target("avx512f,avx512bw,avx512vl,amx-tile,amx-int8")))

#include "int4_avx512.h"
#include "strip_avx512.h"

enum { TILE_ROWS = 16, ROW_BYTES = STRIP * (int)sizeof(int32_t), TILE_BYTES = TILE_ROWS * ROW_BYTES };

/* Tiles are read too far apart in time for the prefetchers of the CPU. A block of strips passes by
   all rows before the next: meanwhile the next comes into the second-level cache, an even part with each
   pass of 16 rows, and in the block's first pass its tiles come into the first shortly before use. Of
   int4 weights there is one strip at a time, unpacked and near already. */
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
    __asm__ volatile("" : : "r"(&t) : "memory"); /* all of it is read, more than compilers know */
    _tile_loadconfig(&t);
}

/* 16 rows or fewer by a block. Their scales, [groups, TILE_ROWS], lie in the order in which they are
   asked for. */
typedef struct {
    const product_job *job;
    const product_part *part;
    int64_t distance, from, to; /* it fetches these rows of tiles so many bytes away, */
    int64_t near_rows;          /* and so many of tiles NEAR by */
    float *scales;
    tile_sums *sums; /* two */
} row_pass;

/* `rows` is a constant after inlining, so that all sums stay in registers. */
INLINE void add_group(const int rows, const tile_sums *sums, const float *scales, __m512 *total) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums->row[r])),
                                   _mm512_set1_ps(scales[r]), total[r]);
}

/* Inlined always: the compiler leaves out calls of functions that do nothing but this. */
INLINE void read_ahead(const row_pass *pass, const uint8_t *w) {
    const char *later = (const char *)weights_ahead(pass->part, w, pass->distance);
    for (int64_t i = pass->from; i < pass->to; i++) _mm_prefetch(later + i * ROW_BYTES, _MM_HINT_T1);
    for (int64_t i = 0; i < pass->near_rows; i++)
        _mm_prefetch((const char *)w + NEAR + i * ROW_BYTES, _MM_HINT_T0);
}

/* `last` is a constant after inlining. */
INLINE void multiply_tiles(const bool last, const int8_t *x, int64_t depth, const uint8_t *w,
                           tile_sums *sums) {
    _tile_loadd(W, w, STRIP * QUAD);
    if (last) {
        _tile_zero(LAST_SUMS);
        _tile_loadd(LAST_X, x, depth);
        _tile_dpbssd(LAST_SUMS, LAST_X, W);
        _tile_stored(LAST_SUMS, sums->row, ROW_BYTES);
    } else {
        _tile_zero(SUMS);
        _tile_loadd(X, x, depth);
        _tile_dpbssd(SUMS, X, W);
        _tile_stored(SUMS, sums->row, ROW_BYTES);
    }
}

/* Sums of one group are added up while the tiles of the next are at work. */
INLINE void rows_by_strip(const int rows, const row_pass *pass, int64_t row, int64_t strip) {
    const quantised_rows *x = pass->job->x;
    const int64_t depth = x->depth, groups = x->groups, group = x->group;
    const int8_t *values = x->values + row * depth;
    const uint8_t *w = pass->job->w->packed + strip * STRIP * depth;
    const float *scales = pass->scales;
    tile_sums *now = pass->sums, *before = now + 1;
    __m512 total[TILE_ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, values += group, w += group * STRIP) {
        read_ahead(pass, w);
        multiply_tiles(rows < TILE_ROWS, values, depth, w, now);
        if (g > 0) add_group(rows, before, scales + (g - 1) * TILE_ROWS, total);
        tile_sums *after = before;
        before = now, now = after;
    }
    add_group(rows, before, scales + (groups - 1) * TILE_ROWS, total);
    const strip_view v = strip_view_of(pass->job, strip);
    strip_finish(rows, &v, row, total);
}

CODE static void last_rows(int64_t rows, const row_pass *pass, int64_t row, int64_t strip) {
    switch (rows) {
        case 1: rows_by_strip(1, pass, row, strip); break;
        case 2: rows_by_strip(2, pass, row, strip); break;
        case 3: rows_by_strip(3, pass, row, strip); break;
        case 4: rows_by_strip(4, pass, row, strip); break;
        case 5: rows_by_strip(5, pass, row, strip); break;
        case 6: rows_by_strip(6, pass, row, strip); break;
        case 7: rows_by_strip(7, pass, row, strip); break;
        case 8: rows_by_strip(8, pass, row, strip); break;
        case 9: rows_by_strip(9, pass, row, strip); break;
        case 10: rows_by_strip(10, pass, row, strip); break;
        case 11: rows_by_strip(11, pass, row, strip); break;
        case 12: rows_by_strip(12, pass, row, strip); break;
        case 13: rows_by_strip(13, pass, row, strip); break;
        case 14: rows_by_strip(14, pass, row, strip); break;
        case 15: rows_by_strip(15, pass, row, strip); break;
    }
}

CODE static void put_side_by_side(const quantised_rows *x, int64_t row, int64_t rows, float *scales) {
    const float *from = x->scales + row * x->groups;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < x->groups; g++) scales[g * TILE_ROWS + r] = from[r * x->groups + g];
}

/* All rows by the strips [strip, end). */
CODE static void rows_by_block(row_pass pass, int64_t strip, int64_t end) {
    const quantised_rows *x = pass.job->x;
    const int64_t rows = pass.part->row_end - pass.part->row, tile_rows = x->group / QUAD;
    const int64_t passes = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t i = 0; i < passes; i++) {
        const int64_t row = pass.part->row + i * TILE_ROWS, left = pass.part->row_end - row;
        pass.from = tile_rows * i / passes;
        pass.to = tile_rows * (i + 1) / passes;
        pass.near_rows = i == 0 ? tile_rows : 0;
        put_side_by_side(x, row, left < TILE_ROWS ? left : TILE_ROWS, pass.scales);
        for (int64_t s = strip; s < end; s++)
            if (left >= TILE_ROWS)
                rows_by_strip(TILE_ROWS, &pass, row, s);
            else
                last_rows(left, &pass, row, s);
    }
}

CODE void products_amx(const product_job *job, product_part part, void *scratch) {
    const int64_t strip_bytes = STRIP * job->x->depth, last = (part.row_end - part.row) % TILE_ROWS;
    const int64_t strips = part.strip_end - part.strip;
    const int64_t most = BLOCK_BYTES > strip_bytes ? BLOCK_BYTES / strip_bytes : 1;
    const int64_t block = strips < most ? strips : most;
    tile_sums sums[2];
    row_pass pass = {job, &part, block * strip_bytes, 0, 0, 0, scratch, sums};
    shape_tiles(job->x->group, last ? last : 1);
    for (int64_t strip = part.strip; strip < part.strip_end; strip += block) {
        int64_t end = strip + block < part.strip_end ? strip + block : part.strip_end;
        rows_by_block(pass, strip, end);
    }
    _tile_release();
}

CODE static void unpack(const uint8_t *packed, uint8_t *out) {
    const uint8_t *line = packed + INT4_LINE;
    for (int half = 0; half < 2; half++, packed += 2 * STRIP) {
        const int4_shared shared = int4_shared_of(packed);
        for (int i = 0; i < INT4_HALF_LINES; i++, line += INT4_LINE, out += 2 * INT4_LINE) {
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

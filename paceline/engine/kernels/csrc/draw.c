#include "draw.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "rows.h"

/* A token that may be drawn. Keys are in the order of logits. */
typedef struct {
    int32_t key, id;
    float weight;
} candidate;

typedef struct {
    double *sums;
    float *peaks, *weights;
    candidate *candidates, *active;
    int64_t vocab, blocks;
    float peak;
} weighed;

typedef struct {
    const kernel_level *level;
    draw_row *rows;
    int64_t vocab;
    atomic_bool *damaged;
} draw_job;

enum { DEPTHS = 3 };

/* Nats below the peak in which most heads end. */
static const float depths[DEPTHS] = {4.0f, 10.0f, INFINITY};

/* In nats: weights decide, and logarithms only where to look. */
#define MIN_P_SLACK 0.01f

static int64_t blocks_of(int64_t vocab) { return (vocab + DRAW_BLOCK - 1) / DRAW_BLOCK; }

static int64_t scratch_bytes(int64_t vocab) {
    const int64_t per_block = sizeof(double) + sizeof(float);
    const int64_t per_token = sizeof(float) + 2 * sizeof(candidate);
    return blocks_of(vocab) * per_block + vocab * per_token;
}

static weighed in_scratch(void *scratch, int64_t vocab) {
    weighed w = {.vocab = vocab, .blocks = blocks_of(vocab), .sums = scratch};
    w.peaks = (float *)(w.sums + w.blocks);
    w.weights = w.peaks + w.blocks;
    w.candidates = (candidate *)(w.weights + vocab);
    w.active = w.candidates + vocab;
    return w;
}

static int64_t block_end(const weighed *w, int64_t block) {
    const int64_t end = (block + 1) * DRAW_BLOCK;
    return end < w->vocab ? end : w->vocab;
}

/* The first of the likeliest; there is one. */
static int64_t likeliest(const weighed *w, const float *logits) {
    int64_t block = 0;
    while (w->peaks[block] != w->peak) block++;
    int64_t id = block * DRAW_BLOCK;
    while (logits[id] != w->peak) id++;
    return id;
}

/* Equal logits, also zeros of either sign, have equal keys. */
static int32_t key_of(float logit) {
    int32_t bits;
    logit += 0.0f;
    memcpy(&bits, &logit, sizeof bits);
    return bits >= 0 ? bits : bits ^ INT32_MAX;
}

static float logit_of(int32_t key) {
    const int32_t bits = key >= 0 ? key : key ^ INT32_MAX;
    float logit;
    memcpy(&logit, &bits, sizeof logit);
    return logit;
}

/* Those of at least this logit and weight, in the order of ids. */
static int64_t gather(const weighed *w, const float *logits, float least, float min_p) {
    int64_t n = 0;
    for (int64_t block = 0; block < w->blocks; block++) {
        if (w->peaks[block] < least) continue;
        const int64_t end = block_end(w, block);
        for (int64_t id = block * DRAW_BLOCK; id < end; id++)
            if (logits[id] >= least && w->weights[id] >= min_p)
                w->candidates[n++] = (candidate){key_of(logits[id]), (int32_t)id, w->weights[id]};
    }
    return n;
}

static double mass_of(const candidate *one, bool counted) { return counted ? 1.0 : one->weight; }

static double total_mass(const candidate *c, int64_t n, bool counted) {
    double mass = 0;
    for (int64_t i = 0; i < n; i++) mass += mass_of(c + i, counted);
    return mass;
}

/* Leaves those whose keys are `key` or more, or less. */
static int64_t leave(candidate *c, int64_t n, int32_t key, bool more) {
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++)
        if ((c[i].key >= key) == more) c[left++] = c[i];
    return left;
}

/* The largest key which, with those above it, has the mass; the least key if all have not.
   `c`, of which there is one at least, is used up. */
static int32_t cut_of(candidate *c, int64_t n, double enough, bool counted) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int64_t i = 0; i < n; i++) {
        low = c[i].key < low ? c[i].key : low;
        high = c[i].key > high ? c[i].key : high;
    }
    double above = 0;
    while (low < high) {
        const int32_t middle = (int32_t)(high - ((int64_t)high - low) / 2);
        double mass = above;
        for (int64_t i = 0; i < n; i++)
            if (c[i].key >= middle) mass += mass_of(c + i, counted);
        const bool is_enough = mass >= enough;
        n = leave(c, n, middle, is_enough);
        if (is_enough) {
            low = middle;
        } else {
            above = mass;
            high = middle - 1;
        }
    }
    return low;
}

/* Leaves the shortest head of the ranking, by logit and among equals by id, that has the mass, or
   all; at least one, in the order of ids. */
static int64_t leave_head(const weighed *w, int64_t n, double enough, bool counted) {
    candidate *c = w->candidates;
    memcpy(w->active, c, (size_t)n * sizeof *c);
    const int32_t cut = cut_of(w->active, n, enough, counted);
    double mass = 0;
    for (int64_t i = 0; i < n; i++)
        if (c[i].key > cut) mass += mass_of(c + i, counted);
    bool is_first = true;
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++) {
        if (c[i].key < cut) continue;
        if (c[i].key == cut) {
            if (!is_first && mass >= enough) continue;
            mass += mass_of(c + i, counted);
            is_first = false;
        }
        c[left++] = c[i];
    }
    return left;
}

static double total_weight(const weighed *w) {
    double total = 0;
    for (int64_t block = 0; block < w->blocks; block++) total += w->sums[block];
    return total;
}

/* The block's peak that so many reach: no fewer tokens do. */
static float peak_number(const weighed *w, double number) {
    for (int64_t i = 0; i < w->blocks; i++) w->active[i] = (candidate){.key = key_of(w->peaks[i])};
    return logit_of(cut_of(w->active, w->blocks, number, true));
}

/* All that min_p leaves, or a head of it that is long enough. */
static int64_t gather_enough(const weighed *w, const draw_row *row, double enough, bool counted) {
    if (row->min_p > 0) {
        const float nats = logf(row->min_p) - MIN_P_SLACK;
        return gather(w, row->logits, w->peak + nats * row->temperature, row->min_p);
    }
    if (counted && enough <= (double)w->blocks)
        return gather(w, row->logits, peak_number(w, enough), 0);
    int64_t n = 0;
    for (int i = 0; i < DEPTHS; i++) {
        n = gather(w, row->logits, w->peak - depths[i] * row->temperature, 0);
        if (total_mass(w->candidates, n, counted) >= enough) break;
    }
    return n;
}

/* What min_p, top_k and top_p, in this order, leave. */
static int64_t survivors(const weighed *w, const draw_row *row) {
    const bool counted = row->top_k > 0;
    double total = total_weight(w);
    int64_t n = gather_enough(w, row, counted ? row->top_k : row->top_p * total, counted);
    if (counted) n = leave_head(w, n, row->top_k, true);
    if (counted || row->min_p > 0) total = total_mass(w->candidates, n, false);
    return row->top_p < 1.0 ? leave_head(w, n, row->top_p * total, false) : n;
}

/* Rounding may leave `target` where nothing is any more: then it is the last that weighs anything. */
static int64_t pick_survivor(const candidate *c, int64_t n, double u) {
    const double target = u * total_mass(c, n, false);
    double mass = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        mass += c[i].weight;
        if (c[i].weight > 0) last = i;
        if (mass > target) break;
    }
    return c[last].id;
}

static int64_t pick_of_all(const weighed *w, double u) {
    const double target = u * total_weight(w);
    double before = 0, mass = 0;
    int64_t block = 0;
    for (int64_t i = 0; i < w->blocks; i++) {
        if (w->sums[i] == 0) continue;
        before = mass;
        block = i;
        mass += w->sums[i];
        if (mass > target) break;
    }
    int64_t last = 0;
    mass = before;
    for (int64_t id = block * DRAW_BLOCK; id < block_end(w, block); id++) {
        mass += w->weights[id];
        if (w->weights[id] > 0) last = id;
        if (mass > target) break;
    }
    return last;
}

static bool is_truncated(const draw_row *row) {
    return row->min_p > 0 || row->top_k > 0 || row->top_p < 1.0;
}

/* Whether the row's numbers are sound. */
static bool draw_one(const draw_job *job, draw_row *row, void *scratch) {
    const kernel_set *floats = job->level->floats;
    weighed w = in_scratch(scratch, job->vocab);
    floats->peaks(row->logits, w.vocab, w.peaks);
    w.peak = w.peaks[0];
    for (int64_t i = 1; i < w.blocks; i++) w.peak = w.peaks[i] > w.peak ? w.peaks[i] : w.peak;
    if (!(fabsf(w.peak) <= FLT_MAX)) return false;
    if (row->temperature == 0) {
        row->token = likeliest(&w, row->logits);
        return true;
    }
    floats->weigh(row->logits, w.vocab, w.peak, 1.0f / row->temperature, w.weights, w.sums);
    if (!(total_weight(&w) <= DBL_MAX)) return false;
    row->token = is_truncated(row)
                     ? pick_survivor(w.candidates, survivors(&w, row), row->u)
                     : pick_of_all(&w, row->u);
    return true;
}

static void draw_rows(const void *arg, int64_t row, int64_t end, void *scratch) {
    const draw_job *job = arg;
    for (; row < end; row++)
        if (!draw_one(job, job->rows + row, scratch)) atomic_store(job->damaged, true);
}

int draw_run(const kernel_level *level, draw_row *rows, int64_t count, int64_t vocab) {
    atomic_bool damaged = false;
    draw_job job = {level, rows, vocab, &damaged};
    int status = rows_run_by(draw_rows, &job, count, 1, scratch_bytes(vocab));
    return status == STATUS_OK && damaged ? STATUS_BAD_LOGITS : status;
}

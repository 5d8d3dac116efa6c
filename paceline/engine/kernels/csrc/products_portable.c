/* Quantised products in plain C. */
#include "fused.h"
#include "int4.h"

enum { LANES = 4, PARTS = STRIP / LANES };

typedef struct {
    int32_t lane[STRIP];
} sums;

static inline void add_quad(sums *sum, const uint8_t *w, const int8_t *x) {
    for (int lane = 0; lane < STRIP; lane++)
        for (int i = 0; i < QUAD; i++)
            sum->lane[lane] += (int8_t)w[lane * QUAD + i] * x[i];
}

static void row_by_strip(const product_job *job, int64_t row, int64_t strip) {
    const quantised_rows *x = job->x;
    const int8_t *values = x->values + row * x->depth;
    const uint8_t *w = job->w->packed + strip * STRIP * x->depth;
    float4 total[PARTS] = {{0}};
    for (int64_t g = 0; g < x->groups; g++) {
        sums sum = {{0}};
        for (int64_t k = 0; k < x->group; k += QUAD, values += QUAD, w += STRIP * QUAD)
            add_quad(&sum, w, values);
        float scale = x->scales[row * x->groups + g];
        for (int p = 0; p < PARTS; p++) {
            const int32_t *s = sum.lane + p * LANES;
            float4 exact = {(float)s[0], (float)s[1], (float)s[2], (float)s[3]};
            total[p] = fused4(exact, (float4){scale, scale, scale, scale}, total[p]);
        }
    }
    int64_t first = strip * STRIP, left = job->w->columns - first;
    float *out = out_at(job, row, first);
    for (int64_t i = 0; i < (left < STRIP ? left : STRIP); i++) {
        float y = total[i / LANES][i % LANES] * job->w->scales[first + i];
        if (job->w->bias) y += job->w->bias[first + i];
        out[i] = job->add ? out[i] + y : y;
    }
}

void products_portable(const product_job *job, product_part part, void *scratch) {
    (void)scratch;
    for (int64_t strip = part.strip; strip < part.strip_end; strip++)
        for (int64_t row = part.row; row < part.row_end; row++) row_by_strip(job, row, strip);
}

void products_int4_portable(const product_job *job, product_part part, void *scratch) {
    int4_products(int4_unpack, products_portable, job, &part, scratch);
}

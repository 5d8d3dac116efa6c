#include "middle.h"

#include "multiply.h"
#include "pool.h"
#include "product.h"
#include "scratch.h"

/* Fewer rows of floats stay in the cache as they are. */
enum { LEAST_ROWS = 64, GROUP = MOST_QUANTISED_GROUP, GROUP_STRIPS = GROUP / STRIP };

typedef struct {
    const kernel_level *level;
    const quantised_rows *x;
    const quantised_matrix *up;
    const mlp_middle *mlp;
    const quantised_rows *out;
    product_kernel kernel;
    int64_t row_tasks, rows_per_task;
} middle_job;

bool middle_fits(const mlp_middle *mlp, int64_t rows) {
    return rows >= LEAST_ROWS && group_of(mlp->width) == GROUP;
}

/* What is multiplied after a half of a group's columns, by the same task or the next; or NULL. */
static const uint8_t *next_strips(const middle_job *j, int64_t group, int64_t half) {
    const int64_t column = group * GROUP;
    if (half == 0 && j->mlp->gated) return strips_at(j->up, (j->mlp->width + column) / STRIP);
    return column + GROUP < j->mlp->width ? strips_at(j->up, (column + GROUP) / STRIP) : NULL;
}

/* The product's columns of one group: the gate's, and behind them the other half's. */
static void group_task(void *arg, int64_t index, int thread) {
    const middle_job *j = arg;
    const int64_t group = index / j->row_tasks, row = index % j->row_tasks * j->rows_per_task;
    const int64_t left = j->x->rows - row;
    const int64_t end = row + (left < j->rows_per_task ? left : j->rows_per_task);
    const int64_t halves = j->mlp->gated ? 2 : 1;
    char *scratch = scratch_of(thread);
    float *columns = (float *)(scratch + product_scratch_bytes(j->x->depth));
    for (int64_t half = 0; half < halves; half++) {
        const int64_t first = half * j->mlp->width + group * GROUP;
        const product_job product = {
            .x = j->x,
            .w = j->up,
            .out = columns + half * GROUP,
            .stride = halves * GROUP,
            .first_row = row,
            .first_column = first,
        };
        const int64_t strip = first / STRIP, strip_end = strip + GROUP_STRIPS;
        const product_part part = {
            .row = row,
            .row_end = end,
            .strip = strip,
            .strip_end = strip_end,
            .stretch_end = strips_at(j->up, strip_end),
            .then = next_strips(j, group, half),
        };
        j->kernel(&product, part, scratch);
    }
    j->level->floats->activate_group(j->mlp, columns, j->out, row, end, group);
}

int middle_run(const kernel_level *level, const quantised_rows *x, const quantised_matrix *up,
               const mlp_middle *mlp, quantised_rows *out) {
    const int64_t rows = x->rows, per_task = rows_per_task(rows);
    const size_t columns = (size_t)(per_task * 2 * GROUP) * sizeof(float);
    void *memory = scratch_reserve(SCRATCH_MIDDLE, rows_bytes(rows, mlp->width));
    if (!memory) return STATUS_NO_MEMORY;
    for (int thread = 0; thread < pool_threads(); thread++)
        if (!scratch_reserve(thread, (size_t)product_scratch_bytes(x->depth) + columns))
            return STATUS_NO_MEMORY;
    *out = rows_in(memory, rows, mlp->width);
    middle_job job = {
        .level = level,
        .x = x,
        .up = up,
        .mlp = mlp,
        .out = out,
        .kernel = kernel_for(level, up, rows),
        .row_tasks = (rows + per_task - 1) / per_task,
        .rows_per_task = per_task,
    };
    pool_run(group_task, &job, mlp->width / GROUP * job.row_tasks);
    return STATUS_OK;
}

#include "product.h"

#include "pool.h"
#include "scratch.h"

/* A task's weights stay in the second-level cache while its rows pass by, and so do its rows; it is
   worth handing to another thread; and there are enough of them to even out slow threads. */
enum {
    TASK_BYTES = 192 * 1024,
    WORTH_BYTES = 16 * 1024,
    WORTH_PRODUCTS = 256 * 1024,
    BLOCK_ROWS = 16, /* which kernels take at once; some fewer */
    TASKS_PER_THREAD = 4
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t group_of(int64_t width) { return smaller(width & -width, MOST_QUANTISED_GROUP); }

static int64_t packed_group(int64_t width) { return larger(group_of(width), QUAD); }

int64_t packed_depth(int64_t width) { return width / group_of(width) * packed_group(width); }

size_t rows_bytes(int64_t rows, int64_t width) {
    size_t groups = (size_t)(width / group_of(width));
    return aligned((size_t)(rows * packed_depth(width))) + 2 * aligned((size_t)rows * groups * 4);
}

quantised_rows rows_in(void *memory, int64_t rows, int64_t width) {
    quantised_rows q = {.rows = rows, .depth = packed_depth(width), .group = packed_group(width)};
    q.groups = width / group_of(width);
    q.values = memory;
    q.scales = (float *)((char *)memory + aligned((size_t)(rows * q.depth)));
    q.offsets = (int32_t *)((char *)q.scales + aligned((size_t)(rows * q.groups) * 4));
    return q;
}

typedef struct {
    product_kernel kernel;
    const product_job *job;
    int64_t strips_per_task, rows_per_task, row_tasks;
} product_tasks;

static void product_task(void *arg, int64_t index, int thread) {
    const product_tasks *tasks = arg;
    const product_job *job = tasks->job;
    int64_t strip = index / tasks->row_tasks * tasks->strips_per_task;
    int64_t row = index % tasks->row_tasks * tasks->rows_per_task;
    product_part part = {
        .row = row,
        .row_end = smaller(row + tasks->rows_per_task, job->x->rows),
        .strip = strip,
        .strip_end = smaller(strip + tasks->strips_per_task, strips_of(job->w->columns)),
    };
    tasks->kernel(job, part, scratch_of(thread));
}

bool product_run(product_kernel kernel, const product_job *job) {
    const int64_t rows = job->x->rows, strip_bytes = job->x->depth * STRIP;
    const int64_t strips = strips_of(job->w->columns), threads = pool_threads();
    if (rows == 0 || strips == 0) return true;
    for (int thread = 0; thread < threads; thread++)
        if (!scratch_reserve(thread, (size_t)product_scratch_bytes(job->x->depth))) return false;
    int64_t row_tasks = (rows + MOST_TASK_ROWS - 1) / MOST_TASK_ROWS;
    int64_t even = strips * row_tasks / (threads * TASKS_PER_THREAD);
    int64_t worth = larger(WORTH_BYTES / strip_bytes, WORTH_PRODUCTS / (strip_bytes * rows));
    int64_t per_task = larger(smaller(larger(even, worth), TASK_BYTES / strip_bytes), 1);
    int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    int64_t rows_per_task = (blocks + row_tasks - 1) / row_tasks * BLOCK_ROWS;
    row_tasks = (rows + rows_per_task - 1) / rows_per_task;
    product_tasks tasks = {kernel, job, per_task, rows_per_task, row_tasks};
    pool_run(product_task, &tasks, (strips + per_task - 1) / per_task * row_tasks);
    return true;
}

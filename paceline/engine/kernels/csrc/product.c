#include "product.h"

#include "pool.h"
#include "scratch.h"

/* A task's weights stay in the second-level cache while its rows pass by, and so do its rows; it is
   worth handing to another thread; and there are enough of them to even out slow threads. */
enum {
    TASK_BYTES = 192 * 1024,
    WORTH_BYTES = 16 * 1024,
    WORTH_PRODUCTS = 256 * 1024,
    MOST_TASK_ROWS = 144, /* quantised, they and the weights they meet stay in the cache too */
    BLOCK_ROWS = 16, /* which kernels take at once; some fewer */
    TASKS_PER_THREAD = 8,
    READ_AHEAD = 256 * 1024 /* of the next matrix: an eighth of a large second-level cache */
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

/* How a product is cut; a task has neighbouring strips and some or all rows. */
typedef struct {
    int64_t strips_per_task, rows_per_task, row_tasks, tasks;
} product_cut;

typedef struct {
    product_kernel kernel;
    const product_job *job;
    const quantised_matrix *next;
    product_cut cut, next_cut;
} product_tasks;

/* A task's first weights, also of the one behind the last. */
static const uint8_t *weights_of(const quantised_matrix *w, const product_cut *cut, int64_t task) {
    int64_t strip = task / cut->row_tasks * cut->strips_per_task;
    return strips_at(w, smaller(strip, strips_of(w->columns)));
}

static void product_task(void *arg, int64_t index, int thread) {
    const product_tasks *tasks = arg;
    const product_job *job = tasks->job;
    const product_cut *cut = &tasks->cut;
    int64_t strip = index / cut->row_tasks * cut->strips_per_task;
    int64_t row = index % cut->row_tasks * cut->rows_per_task;
    pool_share own = pool_share_of(cut->tasks, thread);
    bool mine = own.from <= index && index < own.end;
    product_part part = {
        .row = row,
        .row_end = smaller(row + cut->rows_per_task, job->x->rows),
        .strip = strip,
        .strip_end = smaller(strip + cut->strips_per_task, strips_of(job->w->columns)),
        .stretch_end = weights_of(job->w, cut, mine ? own.end : index + 1),
    };
    if (mine && tasks->next) {
        pool_share later = pool_share_of(tasks->next_cut.tasks, thread);
        const uint8_t *end = weights_of(tasks->next, &tasks->next_cut, later.end);
        part.then = weights_of(tasks->next, &tasks->next_cut, later.from);
        pool_will_read(part.then, end - part.then < READ_AHEAD ? end : part.then + READ_AHEAD);
    }
    tasks->kernel(job, part, scratch_of(thread));
}

int64_t rows_per_task(int64_t rows) {
    int64_t tasks = (rows + MOST_TASK_ROWS - 1) / MOST_TASK_ROWS;
    int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    return (blocks + tasks - 1) / tasks * BLOCK_ROWS;
}

static product_cut cut_of(const quantised_matrix *w, int64_t rows) {
    const int64_t strip_bytes = strip_bytes_of(w), strips = strips_of(w->columns);
    int64_t task_rows = rows_per_task(rows), row_tasks = (rows + task_rows - 1) / task_rows;
    int64_t even = strips * row_tasks / (pool_threads() * TASKS_PER_THREAD);
    int64_t worth = larger(WORTH_BYTES / strip_bytes, WORTH_PRODUCTS / (w->depth * STRIP * rows));
    int64_t per_task = larger(smaller(larger(even, worth), TASK_BYTES / strip_bytes), 1);
    return (product_cut){per_task, task_rows, row_tasks,
                         (strips + per_task - 1) / per_task * row_tasks};
}

bool product_run(product_kernel kernel, const product_job *job, const quantised_matrix *next) {
    const int64_t rows = job->x->rows;
    if (rows == 0 || job->w->columns == 0) return true;
    for (int thread = 0; thread < pool_threads(); thread++)
        if (!scratch_reserve(thread, (size_t)product_scratch_bytes(job->x->depth))) return false;
    product_tasks tasks = {kernel, job, next, cut_of(job->w, rows), {0}};
    if (next) tasks.next_cut = cut_of(next, rows);
    pool_run(product_task, &tasks, tasks.cut.tasks);
    return true;
}

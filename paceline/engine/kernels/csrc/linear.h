/* out = x w^T + bias.

   The depth is cut into equal blocks whose sums are added in order. The cut depends on the depth
   alone, so it is the same for any number of rows and threads. */

enum { MOST_BLOCK = 768 }; /* a tile's rows and the columns beside it fit the first-level cache */

typedef struct {
    const float *x, *w, *bias;
    float *out;
    int64_t rows, depth, columns, block, columns_per_task;
} linear_job;

FN int64_t depth_block(int64_t depth) {
    int64_t blocks = (depth + MOST_BLOCK - 1) / MOST_BLOCK;
    return ((depth + blocks - 1) / blocks + LANES - 1) / LANES * LANES;
}

/* A task's weights should stay in the second-level cache while the rows pass by; a task should be
   worth handing to another thread; and there should be enough tasks to even out slow threads. */
FN int64_t columns_per_task(int64_t rows, int64_t depth, int64_t columns) {
    enum { CACHED_FLOATS = 96 * 1024, WORTH_PRODUCTS = 16 * 1024, TASKS_PER_THREAD = 4 };
    int64_t even = columns / (pool_threads() * TASKS_PER_THREAD);
    int64_t worth = WORTH_PRODUCTS / (depth * smaller(rows, 8));
    int64_t n = smaller(larger(even, worth), CACHED_FLOATS / depth_block(depth));
    return larger(n / TILE_COLUMNS, 1) * TILE_COLUMNS;
}

ISA_CODE static void linear_task(void *arg, int64_t index, int thread) {
    (void)thread;
    const linear_job *job = arg;
    int64_t first = index * job->columns_per_task;
    int64_t columns = smaller(job->columns - first, job->columns_per_task);
    for (int64_t k = 0; k < job->depth; k += job->block) {
        const float *w = job->w + first * job->depth + k;
        int64_t depth = smaller(job->depth - k, job->block);
        for (int64_t row = 0; row < job->rows; row += TILE_ROWS) {
            int64_t n = smaller(job->rows - row, TILE_ROWS);
            const float *x[TILE_ROWS];
            float *out[TILE_ROWS];
            for (int64_t r = 0; r < n; r++) {
                x[r] = job->x + (row + r) * job->depth + k;
                out[r] = job->out + (row + r) * job->columns + first;
            }
            dots(n, x, columns, w, job->depth, depth, out, k > 0);
        }
    }
    for (int64_t row = 0; job->bias && row < job->rows; row++) {
        float *out = job->out + row * job->columns + first;
        for (int64_t c = 0; c < columns; c++) out[c] += job->bias[first + c];
    }
}

ISA_CODE static void ISA(linear)(const float *x, const float *w, const float *bias, float *out,
                                 int64_t rows, int64_t depth, int64_t columns) {
    int64_t per_task = columns_per_task(rows, depth, columns);
    linear_job job = {x, w, bias, out, rows, depth, columns, depth_block(depth), per_task};
    pool_run(linear_task, &job, (columns + per_task - 1) / per_task);
}

#include "rows.h"

#include "kernels.h"
#include "pool.h"
#include "scratch.h"

enum { WORTH_ELEMENTS = 8 * 1024 };

typedef struct {
    row_function function;
    const void *job;
    int64_t rows, per_task;
} row_tasks;

static void row_task(void *arg, int64_t index, int thread) {
    const row_tasks *tasks = arg;
    int64_t row = index * tasks->per_task, end = row + tasks->per_task;
    tasks->function(tasks->job, row, end < tasks->rows ? end : tasks->rows, scratch_of(thread));
}

int rows_run_by(row_function function, const void *job, int64_t rows, int64_t per_task,
                int64_t scratch_bytes) {
    for (int thread = 0; thread < pool_threads(); thread++)
        if (!scratch_reserve(thread, (size_t)scratch_bytes + 64)) return STATUS_NO_MEMORY;
    row_tasks tasks = {function, job, rows, per_task};
    pool_run(row_task, &tasks, (rows + per_task - 1) / per_task);
    return STATUS_OK;
}

int rows_run(row_function function, const void *job, int64_t rows, int64_t width,
             int64_t scratch_bytes) {
    int64_t per_task = WORTH_ELEMENTS / width > 1 ? WORTH_ELEMENTS / width : 1;
    return rows_run_by(function, job, rows, per_task, scratch_bytes);
}

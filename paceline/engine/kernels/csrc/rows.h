/* Row functions over the pool's threads. */
#ifndef PACELINE_ROWS_H
#define PACELINE_ROWS_H

#include <stdint.h>

/* Works on rows [row, end); `scratch` is the thread's own. */
typedef void (*row_function)(const void *job, int64_t row, int64_t end, void *scratch);

/* Calls the function for all rows, in parts that are worth it; a row is about `width` elements of
   work and needs `scratch_bytes`. STATUS_OK or STATUS_NO_MEMORY. */
int rows_run(row_function function, const void *job, int64_t rows, int64_t width,
             int64_t scratch_bytes);

/* Likewise, `per_task` rows at once. */
int rows_run_by(row_function function, const void *job, int64_t rows, int64_t per_task,
                int64_t scratch_bytes);

#endif

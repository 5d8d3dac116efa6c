/* A small pool of threads that share one job at a time. */
#ifndef PACELINE_POOL_H
#define PACELINE_POOL_H

#include <stdint.h>

enum { POOL_MAX_THREADS = 256 };

/* One task of a job. `thread` is 0 for the caller and 1.. for the pool's workers. */
typedef void (*pool_task)(void *job, int64_t index, int thread);

/* Use `threads` threads in all, the caller included. Ends workers that are there already. */
void pool_resize(int threads);

/* How many threads the pool was asked to use. */
int pool_threads(void);

/* Run task(job, i) for every i below count, which is below 2^31, and return when all are done. One
   caller at a time. A thread does its own share from the first to the last, then takes over others'
   tasks, theirs from the last to the first. */
void pool_run(pool_task task, void *job, int64_t count);

/* What the calling thread will read in its next task: while it waits for that, it has the memory
   fetched into its cache. The newest call counts; the memory may be gone by then. */
void pool_will_read(const uint8_t *from, const uint8_t *end);

/* Tasks [from, end) of a job. */
typedef struct {
    int64_t from, end;
} pool_share;

/* The thread's own share of `count` tasks. */
pool_share pool_share_of(int64_t count, int thread);

#endif

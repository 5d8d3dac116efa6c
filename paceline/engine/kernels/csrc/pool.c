#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

/* A decode step issues hundreds of jobs a few microseconds apart, so an idle worker looks for the
   next one this long before it sleeps. */
enum { SPIN_NANOSECONDS = 50000, PAUSES_PER_LOOK = 16 };

/* `unclaimed` is the only gate to a job: a thread reads `task` and `job` after it has claimed a
   task, and the caller changes them only when `unfinished` is 0, so no thread sees a job half
   replaced. */
static struct {
    pool_task task;
    void *job;
    _Atomic int64_t unclaimed;
    _Atomic int64_t unfinished;
    _Atomic int sleepers;
    _Atomic bool caller_sleeps;
    _Atomic bool quit;
    int wanted;
    int workers;
    pthread_t worker[POOL_MAX_THREADS];
    pthread_mutex_t mutex;
    pthread_cond_t work;
    pthread_cond_t done;
} pool = {
    .wanted = 1,
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .work = PTHREAD_COND_INITIALIZER,
    .done = PTHREAD_COND_INITIALIZER,
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool work_or_quit(void) { return atomic_load(&pool.unclaimed) > 0 || atomic_load(&pool.quit); }

static bool all_finished(void) { return atomic_load(&pool.unfinished) == 0; }

static bool spin_until(bool (*condition)(void)) {
    int64_t deadline = now() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (condition()) return true;
            relax();
        }
    } while (now() < deadline);
    return condition();
}

static void work_while_there_is_some(int thread) {
    int64_t left = atomic_load(&pool.unclaimed);
    while (left > 0) {
        if (!atomic_compare_exchange_weak(&pool.unclaimed, &left, left - 1)) continue;
        pool.task(pool.job, left - 1, thread);
        if (atomic_fetch_sub(&pool.unfinished, 1) == 1 && atomic_load(&pool.caller_sleeps)) {
            pthread_mutex_lock(&pool.mutex);
            pthread_cond_signal(&pool.done);
            pthread_mutex_unlock(&pool.mutex);
        }
        left = atomic_load(&pool.unclaimed);
    }
}

static void *worker_main(void *arg) {
    int thread = (int)(intptr_t)arg;
    while (!atomic_load(&pool.quit)) {
        work_while_there_is_some(thread);
        if (spin_until(work_or_quit)) continue;
        pthread_mutex_lock(&pool.mutex);
        atomic_fetch_add(&pool.sleepers, 1);
        while (!work_or_quit()) pthread_cond_wait(&pool.work, &pool.mutex);
        atomic_fetch_sub(&pool.sleepers, 1);
        pthread_mutex_unlock(&pool.mutex);
    }
    return NULL;
}

/* A forked child has none of its parent's threads; it starts its own at its first job. */
static void forget_workers(void) {
    pool.workers = 0;
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.unclaimed, 0);
    atomic_store(&pool.unfinished, 0);
    atomic_store(&pool.caller_sleeps, false);
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
}

__attribute__((constructor)) static void watch_for_forks(void) {
    pthread_atfork(NULL, NULL, forget_workers);
}

/* Signals belong to the program's own threads. Where the system grants fewer threads than wanted,
   the job runs on those there are. */
static void start_workers(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.workers < pool.wanted - 1) {
        int thread = pool.workers + 1;
        if (pthread_create(&pool.worker[pool.workers], NULL, worker_main, (void *)(intptr_t)thread)) {
            pool.wanted = thread;
            break;
        }
        pool.workers = thread;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void pool_resize(int threads) {
    pthread_mutex_lock(&pool.mutex);
    atomic_store(&pool.quit, true);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.mutex);
    for (int i = 0; i < pool.workers; i++) pthread_join(pool.worker[i], NULL);
    atomic_store(&pool.quit, false);
    pool.workers = 0;
    pool.wanted = threads;
}

int pool_threads(void) { return pool.wanted; }

static void wait_for_the_others(void) {
    if (spin_until(all_finished)) return;
    pthread_mutex_lock(&pool.mutex);
    atomic_store(&pool.caller_sleeps, true);
    while (!all_finished()) pthread_cond_wait(&pool.done, &pool.mutex);
    atomic_store(&pool.caller_sleeps, false);
    pthread_mutex_unlock(&pool.mutex);
}

void pool_run(pool_task task, void *job, int64_t count) {
    if (pool.wanted == 1 || count == 1) {
        for (int64_t i = count - 1; i >= 0; i--) task(job, i, 0);
        return;
    }
    if (pool.workers < pool.wanted - 1) start_workers();
    pool.task = task;
    pool.job = job;
    atomic_store(&pool.unfinished, count);
    atomic_store(&pool.unclaimed, count);
    if (atomic_load(&pool.sleepers) > 0) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&pool.work);
        pthread_mutex_unlock(&pool.mutex);
    }
    work_while_there_is_some(0);
    wait_for_the_others();
}

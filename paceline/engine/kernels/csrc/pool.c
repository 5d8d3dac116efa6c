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

enum { CACHE_LINE = 64, LINES_AT_ONCE = 4 };

/* What is left of a thread's share: the next task in the high half, the end in the low one. */
typedef struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t left;
} open_share;

/* The shares are the only gate to a job: a thread reads `task` and `job` after it has claimed a
   task, and the caller changes them only when `unfinished` is 0, so no thread sees a job half
   replaced. */
static struct {
    open_share shares[POOL_MAX_THREADS];
    _Alignas(CACHE_LINE) _Atomic int64_t unfinished;
    _Alignas(CACHE_LINE) pool_task task;
    void *job;
    _Atomic int sleepers;
    _Atomic bool caller_sleeps;
    _Atomic bool quit;
    _Atomic int wanted;
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

/* See pool_will_read. */
static _Thread_local const uint8_t *read_next, *read_end;

void pool_will_read(const uint8_t *from, const uint8_t *end) {
    read_next = from;
    read_end = end;
}

static void fetch_or_relax(void) {
    if (read_next >= read_end) {
        relax();
        return;
    }
    for (int i = 0; i < LINES_AT_ONCE; i++, read_next += CACHE_LINE)
        __builtin_prefetch(read_next, 0, 2);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t packed(int64_t next, int64_t end) { return (uint64_t)next << 32 | (uint64_t)end; }
static int64_t next_of(uint64_t left) { return (int64_t)(left >> 32); }
static int64_t end_of(uint64_t left) { return (int64_t)(left & UINT32_MAX); }
static bool is_empty(uint64_t left) { return next_of(left) >= end_of(left); }

/* Caller and workers ask for different things; `thread` is whose they are. */
typedef bool (*condition)(int thread);

static bool work_or_quit(int thread) {
    return !is_empty(atomic_load(&pool.shares[thread].left)) || atomic_load(&pool.quit);
}

static bool all_finished(int thread) {
    (void)thread;
    return atomic_load(&pool.unfinished) == 0;
}

static bool spin_until(condition holds, int thread) {
    int64_t deadline = now() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (holds(thread)) return true;
            fetch_or_relax();
        }
    } while (now() < deadline);
    return holds(thread);
}

/* The first task of one's own share, or the last of another's; -1 if none is left. */
static int64_t claim(int of, bool own) {
    uint64_t left = atomic_load(&pool.shares[of].left);
    while (!is_empty(left)) {
        int64_t next = next_of(left), end = end_of(left);
        uint64_t rest = own ? packed(next + 1, end) : packed(next, end - 1);
        if (atomic_compare_exchange_weak(&pool.shares[of].left, &left, rest))
            return own ? next : end - 1;
    }
    return -1;
}

static void finished(int64_t tasks) {
    if (tasks == 0 || atomic_fetch_sub(&pool.unfinished, tasks) != tasks) return;
    if (!atomic_load(&pool.caller_sleeps)) return;
    pthread_mutex_lock(&pool.mutex);
    pthread_cond_signal(&pool.done);
    pthread_mutex_unlock(&pool.mutex);
}

static void work_off(int of, int thread) {
    int64_t tasks = 0;
    for (int64_t index; (index = claim(of, of == thread)) >= 0; tasks++)
        pool.task(pool.job, index, thread);
    finished(tasks);
}

static void work_while_there_is_some(int thread) {
    for (int i = 0; i < pool.wanted; i++) work_off((thread + i) % pool.wanted, thread);
}

static void *worker_main(void *arg) {
    int thread = (int)(intptr_t)arg;
    while (!atomic_load(&pool.quit)) {
        work_while_there_is_some(thread);
        if (spin_until(work_or_quit, thread)) continue;
        pthread_mutex_lock(&pool.mutex);
        atomic_fetch_add(&pool.sleepers, 1);
        while (!work_or_quit(thread)) pthread_cond_wait(&pool.work, &pool.mutex);
        atomic_fetch_sub(&pool.sleepers, 1);
        pthread_mutex_unlock(&pool.mutex);
    }
    return NULL;
}

/* A forked child has none of its parent's threads; it starts its own at its first job. */
static void forget_workers(void) {
    pool.workers = 0;
    atomic_store(&pool.sleepers, 0);
    for (int i = 0; i < POOL_MAX_THREADS; i++) atomic_store(&pool.shares[i].left, 0);
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
        void *thread = (void *)(intptr_t)(pool.workers + 1);
        if (pthread_create(&pool.worker[pool.workers], NULL, worker_main, thread)) break;
        pool.workers++;
    }
    pool.wanted = pool.workers + 1;
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

pool_share pool_share_of(int64_t count, int thread) {
    int64_t threads = pool.wanted;
    return (pool_share){(count * thread + threads - 1) / threads,
                        (count * (thread + 1) + threads - 1) / threads};
}

static void wait_for_the_others(void) {
    if (spin_until(all_finished, 0)) return;
    pthread_mutex_lock(&pool.mutex);
    atomic_store(&pool.caller_sleeps, true);
    while (!all_finished(0)) pthread_cond_wait(&pool.done, &pool.mutex);
    atomic_store(&pool.caller_sleeps, false);
    pthread_mutex_unlock(&pool.mutex);
}

static void open_shares(int64_t count) {
    atomic_store_explicit(&pool.unfinished, count, memory_order_relaxed);
    for (int thread = pool.wanted - 1; thread >= 0; thread--) {
        pool_share share = pool_share_of(count, thread);
        uint64_t left = packed(share.from, share.end);
        atomic_store_explicit(&pool.shares[thread].left, left, memory_order_release);
    }
    /* Whoever goes to sleep counts itself before it looks at its share a last time. */
    atomic_thread_fence(memory_order_seq_cst);
}

void pool_run(pool_task task, void *job, int64_t count) {
    if (pool.wanted == 1 || count == 1) {
        for (int64_t i = 0; i < count; i++) task(job, i, 0);
        return;
    }
    if (pool.workers < pool.wanted - 1) start_workers();
    pool.task = task;
    pool.job = job;
    open_shares(count);
    if (atomic_load(&pool.sleepers) > 0) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&pool.work);
        pthread_mutex_unlock(&pool.mutex);
    }
    work_while_there_is_some(0);
    wait_for_the_others();
}

/* Row and element functions. An element's bits depend on its row, or on itself, alone. */

enum { ELEMENTS_PER_TASK = 16 * 1024 };

typedef struct {
    const float *x, *weight;
    float *out;
    int64_t rows, width, rows_per_task;
    float eps;
} rms_norm_job;

FN void rms_norm_row(const rms_norm_job *job, int64_t row) {
    const float *x = job->x + row * job->width;
    float *out = job->out + row * job->width;
    vfloat squares = v_set(0);
    for (int64_t i = 0; i < job->width; i += LANES) {
        vfloat a = v_load_part(x + i, smaller(job->width - i, LANES));
        squares = v_fma(a, a, squares);
    }
    vfloat factor = v_set(1.0f / sqrtf(v_sum(squares) / (float)job->width + job->eps));
    for (int64_t i = 0; i < job->width; i += LANES) {
        int64_t n = smaller(job->width - i, LANES);
        vfloat a = v_load_part(x + i, n) * factor * v_load_part(job->weight + i, n);
        v_store_part(out + i, a, n);
    }
}

ISA_CODE static void rms_norm_task(void *arg, int64_t index, int thread) {
    (void)thread;
    const rms_norm_job *job = arg;
    int64_t row = index * job->rows_per_task;
    int64_t end = smaller(row + job->rows_per_task, job->rows);
    for (; row < end; row++) rms_norm_row(job, row);
}

ISA_CODE static void ISA(rms_norm)(const float *x, const float *weight, float *out, int64_t rows,
                                   int64_t width, float eps) {
    int64_t per_task = larger(ELEMENTS_PER_TASK / width, 1);
    rms_norm_job job = {x, weight, out, rows, width, per_task, eps};
    pool_run(rms_norm_task, &job, (rows + per_task - 1) / per_task);
}

typedef struct {
    const float *gate, *up;
    float *out;
    int64_t count;
} silu_mul_job;

ISA_CODE static void silu_mul_task(void *arg, int64_t index, int thread) {
    (void)thread;
    const silu_mul_job *job = arg;
    int64_t i = index * ELEMENTS_PER_TASK;
    int64_t end = smaller(i + ELEMENTS_PER_TASK, job->count);
    for (; i < end; i += LANES) {
        int64_t n = smaller(end - i, LANES);
        vfloat g = v_load_part(job->gate + i, n);
        vfloat silu = g / (v_set(1) + v_exp(v_set(0) - g));
        v_store_part(job->out + i, silu * v_load_part(job->up + i, n), n);
    }
}

ISA_CODE static void ISA(silu_mul)(const float *gate, const float *up, float *out, int64_t count) {
    silu_mul_job job = {gate, up, out, count};
    pool_run(silu_mul_task, &job, (count + ELEMENTS_PER_TASK - 1) / ELEMENTS_PER_TASK);
}

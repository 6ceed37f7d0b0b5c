/* The depthwise causal convolution of conv.py on a CPU, forward and backward, float32.
 *
 *     y_t = bias + sum_back tap_back u_{t - back}      du_t = sum_back tap_back dy_{t + back}      dtap_back = sum_t dy_{t + back} u_t
 *
 * A few channels at a time go through all steps of a row, so that the last steps are still near when the next one asks for them:
 * what is read comes from memory once. Sums are those of a row first, then over the rows of a part.
 */

#include <stdint.h>
#include <string.h>

#include "native.h"

#define EXPORT __attribute__((visibility("default")))

enum { VERSION = 1, MOST_TAPS = 16, BLOCK = 512 }; /* BLOCK: channels at a time; 2 KiB a step */

struct conv {
    int64_t steps, channels, taps;           /* L, D, K */
    int64_t first_row, end_row;              /* the rows of this part */
    int64_t u_row, u_step;                   /* numbers between u's rows, and between its steps */
    const float *u;                          /* (B, L, D); channels are neighbours */
    const float *tap;                        /* (K, D): of the step itself, of the one before it, ... */
    const float *bias;                       /* (D,) */
    float *y;                                /* (B, L, D) */
    const float *dy;                         /* backward only: (B, L, D) */
    float *du;                               /* (B, L, D) */
    float *dtap, *dbias;                     /* (K, D), (D,): what this part's rows give is added */
};

#define INLINE static inline __attribute__((always_inline))

INLINE void forward_rows(const struct conv *c)
{
    const int64_t L = c->steps, D = c->channels;
    for (int64_t row = c->first_row; row < c->end_row; row++)
        for (int64_t from = 0; from < D; from += BLOCK) {
            const int64_t count = D - from < BLOCK ? D - from : BLOCK;
            for (int64_t t = 0; t < L; t++) {
                const float *u = c->u + row * c->u_row + t * c->u_step + from;
                const float *tap = c->tap + from, *bias = c->bias + from;
                float *restrict y = c->y + (row * L + t) * D + from;
                for (int64_t d = 0; d < count; d++)
                    y[d] = bias[d] + tap[d] * u[d];
                for (int64_t back = 1; back < c->taps && back <= t; back++) {
                    u -= c->u_step, tap += D;
                    for (int64_t d = 0; d < count; d++)
                        y[d] += tap[d] * u[d];
                }
            }
        }
}

INLINE void backward_rows(const struct conv *c)
{
    const int64_t L = c->steps, D = c->channels;
    float sums[MOST_TAPS + 1][BLOCK]; /* of a row; the last: of the bias */
    for (int64_t row = c->first_row; row < c->end_row; row++)
        for (int64_t from = 0; from < D; from += BLOCK) {
            const int64_t count = D - from < BLOCK ? D - from : BLOCK;
            float *restrict sum_bias = sums[c->taps];
            memset(sums, 0, sizeof sums[0] * (size_t)(c->taps + 1));
            for (int64_t t = 0; t < L; t++) {
                const float *u = c->u + row * c->u_row + t * c->u_step + from, *tap = c->tap + from;
                const float *dy = c->dy + (row * L + t) * D + from;
                float *restrict du = c->du + (row * L + t) * D + from, *restrict sum = sums[0];
                for (int64_t d = 0; d < count; d++) {
                    du[d] = tap[d] * dy[d];
                    sum[d] += dy[d] * u[d];
                    sum_bias[d] += dy[d];
                }
                for (int64_t back = 1; back < c->taps && t + back < L; back++) {
                    float *restrict older = sums[back];
                    dy += D, tap += D;
                    for (int64_t d = 0; d < count; d++) {
                        du[d] += tap[d] * dy[d];
                        older[d] += dy[d] * u[d];
                    }
                }
            }
            for (int64_t back = 0; back < c->taps; back++)
                for (int64_t d = 0; d < count; d++)
                    c->dtap[back * D + from + d] += sums[back][d];
            for (int64_t d = 0; d < count; d++)
                c->dbias[from + d] += sum_bias[d];
        }
}

/* The same loops in the machine's widest vectors. */
#define COMPILED(NAME, TARGET) \
    TARGET static void NAME(const struct conv *c) { c->dy ? backward_rows(c) : forward_rows(c); }
COMPILED(run_baseline, )
#if defined(__x86_64__)
COMPILED(run_avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))))
COMPILED(run_avx2, __attribute__((target("avx2,fma"))))
#endif

static int32_t run(const void *parts, int32_t part)
{
    const struct conv *c = (const struct conv *)parts + part;
    const int64_t row = c->steps * c->channels;
    large_pages((c->dy ? c->du : c->y) + c->first_row * row, (c->end_row - c->first_row) * row * (int64_t)sizeof(float));
#if defined(__x86_64__)
    if (best_instructions() == 3)
        run_avx512(c);
    else if (best_instructions() == 2)
        run_avx2(c);
    else
#endif
        run_baseline(c);
    return 0;
}

EXPORT int32_t mambavl_conv_version(void) { return VERSION; }
EXPORT int32_t mambavl_conv_most_taps(void) { return MOST_TAPS; }

EXPORT int32_t mambavl_conv_run(const struct conv *parts, int32_t count, int32_t threads)
{
    return in_threads(threads, count, run, parts);
}

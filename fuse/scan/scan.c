/* The selective scan on a CPU, forward and backward: plain C over raw pointers, no Python, no torch, no OpenMP.
 *
 *     h_t = exp(delta_t A) h_{t-1} + gain_t B_t u_t      y_t = (C_t h_t + D u_t) silu(z_t)      gain: delta, or exact ZOH
 *
 * One call does some rows of a batch and some channels; cpu.py shares them among threads. Neighbouring channels are the lanes of a vector, a
 * block; it goes through all steps with its states in cache. Forward notes the state before every CHUNK-th step. Backward takes
 * the chunks from the last to the first: it computes the states within one anew, then walks back through them. So exp() is
 * computed twice for each state, and 1 / CHUNK of the states is all that is kept in between.
 *
 * kernel.h holds the loops. It is compiled once for each instruction set; which one runs is chosen when the program does.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EXPORT __attribute__((visibility("default")))

enum { VERSION = 1, CHUNK = 32, MAX_STATES = 256 };

/* A call. Absent tensors are NULL; all are contiguous float32. States lie as (N, D), so that channels are neighbours. */
struct scan {
    int64_t steps, channels, states, groups;            /* L, D, N, G */
    int64_t from, to;                                   /* the channels of this call */
    int32_t softplus, zoh, constant_b, constant_c;      /* constant: (N, D) in place of (B, L, G, N) */
    int32_t pooled;                                     /* y and dy are (B, D): the mean over a row's steps */
    int32_t instructions;                               /* 0: the best there is; 1, 2, 3: baseline, AVX2, AVX-512 */
    const float *u, *delta, *z;                         /* (B, L, D) */
    const float *a, *b, *c;                             /* (N, D); (B, L, G, N) or (N, D) */
    const float *d, *bias;                              /* (D,) */
    const int64_t *lengths;                             /* (B,); NULL: all L */
    const float *initial;                               /* (B, N, D); NULL: zeros */
    float *y;                                           /* (B, L, D) or (B, D) */
    float *last;                                        /* (B, N, D): the state after each row's last step; or NULL */
    float *checkpoints;                                 /* (B, ceil(L / CHUNK), N, D); NULL: nobody goes back */
    /* backward only: gradients of y and of the last state, then those asked for */
    const float *dy, *dlast;                            /* as y; (B, N, D) or NULL */
    float *du, *ddelta, *dz;                            /* (B, L, D) */
    float *db, *dc;                                     /* (B, L, G, N), sums over the channels of this call; or (N, D), as da */
    float *dinitial;                                    /* (B, N, D) */
    float *da, *dd, *dbias;                             /* (N, D), (D,), (D,): sums over the rows of this call */
};

enum { DONE = 0, NO_MEMORY = 1, NO_INSTRUCTIONS = 2 };

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define W 16
#define NAME(x) x##_avx512
#define MAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define MIN(a, b) ((vec)_mm512_min_ps((__m512)(a), (__m512)(b)))
#include "kernel.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define W 8
#define NAME(x) x##_avx2
#define MAX(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MIN(a, b) ((vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#include "kernel.h"
#pragma GCC pop_options
#endif

#define W 4
#define NAME(x) x##_baseline
#define MAX(a, b) NAME(pick)((ivec)((a) > (b)), a, b)
#define MIN(a, b) NAME(pick)((ivec)((a) < (b)), a, b)
#include "kernel.h"

EXPORT int32_t mambavl_scan_version(void) { return VERSION; }
EXPORT int32_t mambavl_scan_chunk(void) { return CHUNK; }
EXPORT int32_t mambavl_scan_max_states(void) { return MAX_STATES; }

/* The best instruction set that this machine has, numbered as in `struct scan`. */
EXPORT int32_t mambavl_scan_instructions(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        return 3;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 2;
#endif
    return 1;
}

/* Rows [first, last) of the batch. */
EXPORT int32_t mambavl_scan_run(const struct scan *s, int32_t backward, int64_t first, int64_t last)
{
    int32_t best = mambavl_scan_instructions(), wanted = s->instructions ? s->instructions : best;
    if (wanted > best)
        return NO_INSTRUCTIONS;
#if defined(__x86_64__)
    if (wanted == 3)
        return backward ? backward_avx512(s, first, last) : forward_avx512(s, first, last);
    if (wanted == 2)
        return backward ? backward_avx2(s, first, last) : forward_avx2(s, first, last);
#endif
    return backward ? backward_baseline(s, first, last) : forward_baseline(s, first, last);
}

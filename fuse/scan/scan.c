/* The selective scan on a CPU, forward and backward: plain C over raw pointers, no Python, no torch, no OpenMP.
 *
 *     h_t = exp(delta_t A) h_{t-1} + gain_t B_t u_t      y_t = (C_t h_t + D u_t) silu(z_t)      gain: delta, or exact ZOH
 *
 * A part is some rows of a batch and some channels; threads take one after the other. Neighbouring channels are the lanes of a
 * vector, a block. All blocks go through CHUNK steps before any goes on, a few states at a time: so memory is read in order,
 * and what a block works with stays near. Forward notes the state before every CHUNK-th step. Backward takes the chunks from the
 * last to the first: it computes the states within one again, then walks back through them. So exp() is computed twice for each
 * state, and 1 / CHUNK of the states is all that is kept in between, none of the first chunk.
 *
 * kernel.h holds the loops. It is compiled once for each instruction set; which one runs is chosen when the program does.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../native.h"

#define EXPORT __attribute__((visibility("default")))

enum { VERSION = 5, CHUNK = 32, MAX_STATES = 256, TOGETHER = 4 }; /* TOGETHER: states that are in registers at a time */
enum { FLOAT = 0, BFLOAT = 1, HALF = 2 };
#define SIZE(type) ((type) == FLOAT ? 4 : 2)
#define CHUNKS(steps) (((steps) + CHUNK - 1) / CHUNK)
#define FILLED(states) (((states) + TOGETHER - 1) / TOGETHER * TOGETHER)

/* A part. Absent tensors are NULL; all are contiguous. Those that are void here are of `type`, the others, constant b and c, and
 * all sums are float32. States lie as (N, D), so that channels are neighbours. */
struct scan {
    int64_t steps, channels, states, groups;            /* L, D, N, G */
    int64_t first_row, end_row, from, to;               /* its rows [first_row, end_row) and channels [from, to) */
    int32_t softplus, zoh, constant_b, constant_c;      /* constant: (N, D) in place of (B, L, G, N) */
    int32_t pooled;                                     /* y and dy are (B, D): the mean over a row's steps */
    int32_t instructions;                               /* 0: the best there is; 1, 2, 3: baseline, AVX2, AVX-512 */
    int32_t type;                                       /* float32, bfloat16 or float16 */
    const void *u, *delta, *z;                          /* (B, L, D) */
    const float *a;                                     /* (N, D) */
    const void *b, *c;                                  /* (B, L, G, N) or (N, D) */
    const float *d, *bias;                              /* (D,) */
    const int64_t *lengths;                             /* (B,); NULL: all L */
    const float *initial;                               /* (B, N, D); NULL: zeros */
    void *y;                                            /* (B, L, D) or (B, D) */
    float *last;                                        /* (B, N, D): the state after each row's last step; or NULL */
    float *checkpoints;                                 /* (B, ceil(L / CHUNK), N, D); NULL: nobody goes back */
    /* backward only: gradients of y and of the last state, then those asked for */
    const void *dy;                                     /* as y */
    const float *dlast;                                 /* (B, N, D) or NULL */
    void *du, *ddelta, *dz;                             /* (B, L, D) */
    float *db, *dc;                                     /* (B, L, G, N), sums over this part's channels, given as 0; or as da */
    float *dinitial;                                    /* (B, N, D) */
    float *da, *dd, *dbias;                             /* (N, D), (D,), (D,): what this part's rows give is added */
};

enum { DONE = 0, NO_MEMORY = 1, NO_INSTRUCTIONS = 2 };

/* Once for each instruction set: its vectors' width, names, and what has instructions of its own there. */
#if defined(__x86_64__)
static const float POWERS[32] __attribute__((aligned(64))) = { /* 2^(k / 32) */
    1.000000000e+00f, 1.021897149e+00f, 1.044273782e+00f, 1.067140401e+00f, 1.090507733e+00f, 1.114386743e+00f, 1.138788635e+00f, 1.163724859e+00f,
    1.189207115e+00f, 1.215247360e+00f, 1.241857812e+00f, 1.269050957e+00f, 1.296839555e+00f, 1.325236643e+00f, 1.354255547e+00f, 1.383909882e+00f,
    1.414213562e+00f, 1.445180807e+00f, 1.476826146e+00f, 1.509164428e+00f, 1.542210825e+00f, 1.575980845e+00f, 1.610490332e+00f, 1.645755478e+00f,
    1.681792831e+00f, 1.718619298e+00f, 1.756252160e+00f, 1.794709075e+00f, 1.834008086e+00f, 1.874167634e+00f, 1.915206561e+00f, 1.957144124e+00f,
};
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define W 16
#define NAME(x) x##_avx512
#define MAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define MIN(a, b) ((vec)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define WHOLE(x) ((vec)_mm512_roundscale_ps((__m512)(x), 5 << 4)) /* in steps of 2^-5 */
#define LOOKUP(x) ((vec)_mm512_permutex2var_ps(_mm512_load_ps(POWERS), (__m512i)(x), _mm512_load_ps(POWERS + 16)))
#define RECIPROCAL(x) ((vec)_mm512_rcp14_ps((__m512)(x)))
#define SCALE(x, whole) ((vec)_mm512_scalef_ps((__m512)(x), (__m512)(whole)))
#define PAIR_LOW(x, y) ((vec)_mm512_unpacklo_ps((__m512)(x), (__m512)(y))) /* x0 y0 x1 y1 of every four lanes */
#define PAIR_HIGH(x, y) ((vec)_mm512_unpackhi_ps((__m512)(x), (__m512)(y))) /* x2 y2 x3 y3 */
#define PAIRS_LOW(x, y) ((vec)_mm512_unpacklo_pd((__m512d)(x), (__m512d)(y))) /* x0 x1 y0 y1 */
#define PAIRS_HIGH(x, y) ((vec)_mm512_unpackhi_pd((__m512d)(x), (__m512d)(y)))
#define FROM_HALF(x) ((vec)_mm512_cvtph_ps((__m256i)(x)))
#define TO_HALF(x) ((halves)_mm512_cvtps_ph((__m512)(x), 0))
#include "kernel.h"

#define TARGET __attribute__((target("avx2,fma,f16c"))) /* no processor has AVX2 without F16C */
#define W 8
#define NAME(x) x##_avx2
#define MAX(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MIN(a, b) ((vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define PAIR_LOW(x, y) ((vec)_mm256_unpacklo_ps((__m256)(x), (__m256)(y)))
#define PAIR_HIGH(x, y) ((vec)_mm256_unpackhi_ps((__m256)(x), (__m256)(y)))
#define PAIRS_LOW(x, y) ((vec)_mm256_unpacklo_pd((__m256d)(x), (__m256d)(y)))
#define PAIRS_HIGH(x, y) ((vec)_mm256_unpackhi_pd((__m256d)(x), (__m256d)(y)))
#define FROM_HALF(x) ((vec)_mm256_cvtph_ps((__m128i)(x)))
#define TO_HALF(x) ((halves)_mm256_cvtps_ph((__m256)(x), 0))
#include "kernel.h"
#endif

#define TARGET
#define W 4
#define NAME(x) x##_baseline
#define MAX(a, b) NAME(pick)((ivec)((a) > (b)), a, b)
#define MIN(a, b) NAME(pick)((ivec)((a) < (b)), a, b)
#include "kernel.h"

EXPORT int32_t mambavl_scan_version(void) { return VERSION; }
EXPORT int32_t mambavl_scan_chunk(void) { return CHUNK; }

EXPORT int32_t mambavl_scan_instructions(void) { return best_instructions(); }

static int32_t run(const struct scan *s, int32_t backward)
{
    const int32_t wanted = s->instructions ? s->instructions : mambavl_scan_instructions();
    const int64_t row = s->steps * s->channels * SIZE(s->type), kept = CHUNKS(s->steps) * s->states * s->channels;
    const int64_t rows = s->end_row - s->first_row;
    char *large[3] = {s->pooled ? NULL : s->y};
    if (backward)
        large[0] = s->du, large[1] = s->ddelta, large[2] = s->dz;
    else if (s->checkpoints)
        large_pages(s->checkpoints + s->first_row * kept, rows * kept * (int64_t)sizeof(float));
    for (int i = 0; i < 3; i++)
        if (large[i])
            large_pages(large[i] + s->first_row * row, rows * row);
#if defined(__x86_64__)
    if (wanted == 3)
        return run_avx512(s, backward);
    if (wanted == 2)
        return run_avx2(s, backward);
#endif
    return run_baseline(s, backward);
}

struct call {
    const struct scan *parts;
    int32_t backward;
};

static int32_t run_part(const void *given, int32_t part)
{
    const struct call *call = given;
    return run(call->parts + part, call->backward);
}

EXPORT int32_t mambavl_scan_run(const struct scan *parts, int32_t count, int32_t threads, int32_t backward)
{
    const int32_t best = mambavl_scan_instructions();
    for (int32_t i = 0; i < count; i++)
        if (parts[i].instructions > best)
            return NO_INSTRUCTIONS;
    const struct call call = {parts, backward};
    return in_threads(threads, count, run_part, &call);
}

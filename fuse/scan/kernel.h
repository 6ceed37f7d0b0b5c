/* The loops of scan.c for vectors of W floats; included once for each instruction set, NAME(x) naming its functions.
 *
 * A block is up to W neighbouring channels of one group of B and C; where a group ends early the spare lanes hold zeros. Names
 * are those of the equations: e_t = exp(delta_t A), h_t, y_t; dx is the gradient of x.
 */

typedef float NAME(vec) __attribute__((vector_size(W * 4), may_alias));
typedef float NAME(loose) __attribute__((vector_size(W * 4), aligned(4), may_alias)); /* in tensors, which start anywhere */
typedef int32_t NAME(ivec) __attribute__((vector_size(W * 4), may_alias));
typedef uint32_t NAME(bits) __attribute__((vector_size(W * 4), may_alias));
typedef uint16_t NAME(halves) __attribute__((vector_size(W * 2), aligned(2), may_alias));
#define vec NAME(vec)
#define ivec NAME(ivec)
#define bits NAME(bits)
#define halves NAME(halves)
#define INLINE TARGET static inline __attribute__((always_inline))
#define LOG2_E 1.44269504088896341f

INLINE vec NAME(all)(float x)
{
    return x - (vec){0}; /* not +, which compilers would have to carry out, as -0 + 0 is 0 */
}

INLINE vec NAME(pick)(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

/* W numbers of a tensor. */
INLINE vec NAME(widen)(const void *from, int type)
{
    if (type == FLOAT)
        return *(const NAME(loose) *)from;
    halves x = *(const halves *)from;
    bits wide = __builtin_convertvector(x, bits);
    if (type == BFLOAT)
        return (vec)(wide << 16);
#ifdef FROM_HALF
    return FROM_HALF(x);
#else
    bits finite = (bits)((vec)((wide & 0x7fff) << 13) * 0x1p112f), special = (bits)((wide & 0x7c00) == 0x7c00) & 0x7f800000;
    return (vec)(finite | special | (wide & 0x8000) << 16);
#endif
}

/* Rounded to the nearest, to even where two are; NaN stays NaN. */
INLINE void NAME(narrow)(void *to, vec x, int type)
{
    bits wide = (bits)x, nan = (bits)(x != x);
    if (type == FLOAT)
        *(NAME(loose) *)to = x;
    else if (type == BFLOAT) {
        bits rounded = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
        *(halves *)to = __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), halves);
    } else {
#ifdef TO_HALF
        *(halves *)to = TO_HALF(x);
#else
        bits size = wide & 0x7fffffff, low = (bits)(size < 113u << 23), high = (bits)(size >= 143u << 23);
        bits rounded = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
        bits tiny = (bits)((vec)size + 0.5f) - 0x3f000000; /* below 2^-14: 0.5 has the last bit where they have theirs */
        rounded = (((rounded & ~low) | (tiny & low)) & ~high) | (0x7c00 & high) | (0x7e00 & nan);
        *(halves *)to = __builtin_convertvector(rounded | (wide >> 16 & 0x8000), halves);
#endif
    }
}

/* Fewer lanes than a vector has: at the end of a group. */
TARGET static __attribute__((noinline)) vec NAME(load_some)(const void *from, int64_t count, int type)
{
    char lanes[4 * W] = {0};
    memcpy(lanes, from, (size_t)(count * SIZE(type)));
    return NAME(widen)(lanes, type);
}

TARGET static __attribute__((noinline)) void NAME(store_some)(void *to, vec x, int64_t count, int type)
{
    char lanes[4 * W];
    NAME(narrow)(lanes, x, type);
    memcpy(to, lanes, (size_t)(count * SIZE(type)));
}

INLINE vec NAME(load)(const void *from, int64_t count, int type)
{
    return count == W ? NAME(widen)(from, type) : NAME(load_some)(from, count, type);
}

INLINE void NAME(store)(void *to, vec x, int64_t count, int type)
{
    count == W ? NAME(narrow)(to, x, type) : NAME(store_some)(to, x, count, type);
}

/* Sums over lanes, of TOGETHER vectors at once: KEPT vectors hold their parts, the m-th's at m, m + TOGETHER, ... Where lanes can
 * be paired in two instructions these are a single vector, a fourth of what would be kept near. */
#ifdef PAIR_LOW
enum { NAME(KEPT) = 1 };
#else
enum { NAME(KEPT) = TOGETHER };
#endif

INLINE void NAME(add_lanes)(vec *kept, const vec *x)
{
#ifdef PAIR_LOW
    _Static_assert(TOGETHER == 4, "pairs of pairs are added");
    vec first = PAIR_LOW(x[0], x[1]) + PAIR_HIGH(x[0], x[1]), second = PAIR_LOW(x[2], x[3]) + PAIR_HIGH(x[2], x[3]);
    *kept += PAIRS_LOW(first, second) + PAIRS_HIGH(first, second);
#else
    for (int m = 0; m < TOGETHER; m++)
        kept[m] += x[m];
#endif
}

INLINE float NAME(sum)(const vec *kept, int64_t m)
{
    float lanes[W];
    memcpy(lanes, NAME(KEPT) == 1 ? kept : kept + m, sizeof lanes);
    for (int half = W / 2; half >= (NAME(KEPT) == 1 ? TOGETHER : 1); half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[NAME(KEPT) == 1 ? m : 0];
}

/* 2^x: split into a whole and a fraction in [-1/2, 1/2], a polynomial for 2^fraction (relative error below 1e-7), the whole into
 * the exponent. Below -126 it is as good as nothing; from 128 on infinity; NaN stays NaN. Of an infinite x f is NaN, but
 * the instruction that scales by an infinite whole gives 0 or infinity even so.
 *
 * Multiplications are what the scan waits for, and a table saves three of six: with whole in steps of 1/32, 2^(its fraction) is
 * one of 32 numbers, and a parabola does for the rest, which is at most 1/64 (relative error 5.3e-8). */
INLINE vec NAME(exp2)(vec x)
{
#ifdef SCALE
    vec whole = WHOLE(x), f = x - whole;
    vec power = LOOKUP(whole + 393216.0f); /* 1.5 * 2^18: the last five bits count steps of 1/32 */
    vec p = NAME(all)(2.402270331e-01f);
    p = p * f + 6.931573400e-01f;
    p = p * f;
    return SCALE(power * p + power, whole); /* by the largest whole number below */
#else
    vec low = MIN(NAME(all)(128.0f), MAX(NAME(all)(-126.0f), x)); /* the second operand wins if one is NaN */
    vec whole = low + 12582912.0f;                                /* 1.5 * 2^23: rounds to the nearest whole number */
    vec f = low - (whole - 12582912.0f);
    vec p = NAME(all)(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    return (vec)(((ivec)whole << 23) + (ivec)p);
#endif
}

/* A division takes as long as a dozen products; where the machine knows 14 bits of 1 / x, one step of Newton's gives the rest. */
INLINE vec NAME(reciprocal)(vec x)
{
#ifdef RECIPROCAL
    vec r = RECIPROCAL(x);
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}

/* softplus(x) = max(x, 0) + log(1 + t), t = exp(-|x|) in [0, 1]; the logarithm as t times a polynomial (relative error below 4e-8,
 * for small t too). Its slope is sigmoid(x). */
INLINE vec NAME(softplus)(vec x, vec *slope)
{
    vec t = NAME(exp2)(MIN(x, -x) * LOG2_E), half = NAME(reciprocal)(t + 1.0f);
    vec p = NAME(all)(5.231951651e-03f);
    p = p * t + -2.950171134e-02f;
    p = p * t + 7.821916777e-02f;
    p = p * t + -1.366256500e-01f;
    p = p * t + 1.910562491e-01f;
    p = p * t + -2.484286360e-01f;
    p = p * t + 3.331907797e-01f;
    p = p * t + -4.999949189e-01f;
    p = p * t + 9.999999697e-01f;
    *slope = NAME(pick)((ivec)(x >= 0.0f), half, t * half);
    return MAX(NAME(all)(0.0f), x) + t * p;
}

INLINE vec NAME(sigmoid)(vec x)
{
    vec t = NAME(exp2)(MIN(x, -x) * LOG2_E), half = NAME(reciprocal)(t + 1.0f);
    return NAME(pick)((ivec)(x >= 0.0f), half, t * half);
}

/* Exact hold: gain = delta phi(x), phi(x) = (e^x - 1) / x, x = delta A; and phi'(x). Series near 0, where A may be nothing. */
INLINE vec NAME(phi)(vec x, vec e, vec *slope)
{
    ivec small = (ivec)(x < 0.25f) & (ivec)(x > -0.25f);
    vec safe = NAME(pick)(small, NAME(all)(1.0f), x), one = NAME(all)(1.0f);
    vec p = one + x / 2 * (one + x / 3 * (one + x / 4 * (one + x / 5 * (one + x / 6 * (one + x / 7)))));
    vec s = 0.5f + x * (1.0f / 3 + x * (1.0f / 8 + x * (1.0f / 30 + x * (1.0f / 144 + x * (1.0f / 840 + x / 5760)))));
    vec far = (e - 1.0f) / safe;
    *slope = NAME(pick)(small, s, (e - far) / safe);
    return NAME(pick)(small, p, far);
}

/* What a thread works with: one block on its way through one chunk, TOGETHER states at a time. */
struct NAME(work) {
    int64_t row, first, steps;                              /* the chunk */
    int64_t group, channel, count;                          /* the block; count: lanes in use */
    float b[CHUNK * MAX_STATES + W], c[CHUNK * MAX_STATES + W];     /* [step][state], where they go by step */
    vec u[CHUNK], delta[CHUNK], slope[CHUNK], y[CHUNK];     /* slope: that of delta's softplus */
    vec dy[CHUNK], dz[CHUNK], du[CHUNK], ddelta[CHUNK];
    vec h[CHUNK + 1][TOGETHER], e[CHUNK][TOGETHER];         /* h: before each step and after the last */
    vec db[MAX_STATES / TOGETHER][CHUNK][NAME(KEPT)], dc[MAX_STATES / TOGETHER][CHUNK][NAME(KEPT)]; /* over a group's blocks */
    float between[];                                        /* (N + 1, D): h between two chunks, the sum of y; going back, dh */
};

INLINE int64_t NAME(length)(const struct scan *s, int64_t row)
{
    int64_t length = s->lengths ? s->lengths[row] : s->steps;
    return length < 0 ? 0 : length < s->steps ? length : s->steps;
}

/* The block's lanes at a step of a (B, L, D) tensor. A block has but one line of cache there and the next step is far off, which
 * no prefetcher foresees: what the next block needs is called here. */
INLINE char *NAME(at_step)(const struct scan *s, const struct NAME(work) *w, const void *x, int64_t i)
{
    char *at = (char *)x + ((w->row * s->steps + w->first + i) * s->channels + w->channel) * SIZE(s->type);
    __builtin_prefetch(at + W * SIZE(s->type), 0, 2);
    return at;
}

INLINE vec NAME(load_step)(const struct scan *s, const struct NAME(work) *w, const void *from, int64_t i)
{
    return NAME(load)(NAME(at_step)(s, w, from, i), w->count, s->type);
}

INLINE void NAME(store_step)(const struct scan *s, const struct NAME(work) *w, void *to, int64_t i, vec x)
{
    NAME(store)(NAME(at_step)(s, w, to, i), x, w->count, s->type);
}

/* The block's lanes in row n of a (N, D) tensor; beyond its last row there are zeros. */
INLINE vec NAME(load_state)(const struct scan *s, const struct NAME(work) *w, const float *from, int64_t n)
{
    return n < s->states ? NAME(load)(from + n * s->channels + w->channel, w->count, FLOAT) : NAME(all)(0.0f);
}

INLINE void NAME(store_state)(const struct scan *s, const struct NAME(work) *w, float *to, int64_t n, vec x)
{
    if (n < s->states)
        NAME(store)(to + n * s->channels + w->channel, x, w->count, FLOAT);
}

INLINE void NAME(add_state)(const struct scan *s, const struct NAME(work) *w, float *to, int64_t n, vec x)
{
    NAME(store_state)(s, w, to, n, NAME(load_state)(s, w, to, n) + x);
}

/* And in a (D,) tensor. */
INLINE vec NAME(load_channel)(const struct NAME(work) *w, const float *from)
{
    return from ? NAME(load)(from + w->channel, w->count, FLOAT) : NAME(all)(0.0f);
}

INLINE void NAME(add_channel)(const struct NAME(work) *w, float *to, vec x)
{
    if (to)
        NAME(store)(to + w->channel, NAME(load)(to + w->channel, w->count, FLOAT) + x, w->count, FLOAT);
}

/* B_t or C_t of a chunk, for all blocks of a group; states are filled up with zeros. */
INLINE void NAME(read_coefficients)(const struct scan *s, const struct NAME(work) *w, const void *from, float *to)
{
    const int64_t N = s->states;
    for (int64_t i = 0; i < w->steps; i++)
        for (int64_t n = 0; n < N; n += W) { /* what is written too far is written again by the next step */
            const int64_t at = ((w->row * s->steps + w->first + i) * s->groups + w->group) * N + n;
            vec x = NAME(load)((const char *)from + at * SIZE(s->type), N - n < W ? N - n : W, s->type);
            NAME(store)(to + i * FILLED(N) + n, x, W, FLOAT);
        }
}

/* dB_t or dC_t: the sums over a group's blocks are complete, those over the lanes are left. */
INLINE void NAME(write_coefficients)(const struct scan *s, const struct NAME(work) *w, vec from[][CHUNK][NAME(KEPT)], float *to)
{
    for (int64_t i = 0; i < w->steps; i++)
        for (int64_t n = 0; n < s->states; n++)
            to[((w->row * s->steps + w->first + i) * s->groups + w->group) * s->states + n]
                = NAME(sum)(from[n / TOGETHER][i], n % TOGETHER);
}

/* u, delta and D u of a chunk. */
INLINE void NAME(read)(const struct scan *s, struct NAME(work) *w)
{
    const vec d = NAME(load_channel)(w, s->d), bias = NAME(load_channel)(w, s->bias);
    for (int64_t i = 0; i < w->steps; i++) {
        w->u[i] = NAME(load_step)(s, w, s->u, i);
        w->delta[i] = NAME(load_step)(s, w, s->delta, i) + bias;
        w->slope[i] = NAME(all)(1.0f);
        if (s->softplus)
            w->delta[i] = NAME(softplus)(w->delta[i], &w->slope[i]);
        w->y[i] = NAME(all)(0.0f);
        if (s->d)
            w->y[i] = d * w->u[i];
    }
}

/* TOGETHER states from n on, from the chunk's first step to its last; C h is added to y. state: h before it, NULL: 0. `keep`: h and e are noted for the way
 * back. `simple`: B and C by step and no exact hold, which is what nearly every head asks for. Both are known when compiling. */
INLINE void NAME(forth)(const struct scan *s, struct NAME(work) *w, const float *state, int64_t n, int keep, int simple)
{
    const int step_b = simple || !s->constant_b, step_c = simple || !s->constant_c;
    vec a[TOGETHER], h[TOGETHER]; /* a in powers of two */
    for (int m = 0; m < TOGETHER; m++) {
        a[m] = NAME(load_state)(s, w, s->a, n + m) * LOG2_E;
        h[m] = state ? NAME(load_state)(s, w, state, n + m) : NAME(all)(0.0f);
        if (keep)
            w->h[0][m] = h[m];
        if (keep && state)
            __builtin_prefetch(state + (n + m) * s->channels + w->channel + W, 0, 2);
    }
    for (int64_t i = 0; i < w->steps; i++) {
        const float *b_t = w->b + i * FILLED(s->states) + n, *c_t = w->c + i * FILLED(s->states) + n;
        vec delta = w->delta[i], delta_u = delta * w->u[i], y = w->y[i];
#pragma GCC unroll 4
        for (int m = 0; m < TOGETHER; m++) {
            vec x = delta * a[m], e = NAME(exp2)(x), gain_u = delta_u, slope;
            if (!simple && s->zoh)
                gain_u *= NAME(phi)(x / LOG2_E, e, &slope);
            vec b = step_b ? NAME(all)(b_t[m]) : NAME(load_state)(s, w, s->b, n + m);
            vec c = step_c ? NAME(all)(c_t[m]) : NAME(load_state)(s, w, s->c, n + m);
            h[m] = e * h[m] + gain_u * b;
            y += h[m] * c;
            if (keep) {
                w->h[i + 1][m] = h[m];
                w->e[i][m] = e;
            }
        }
        w->y[i] = y;
    }
    if (!keep)
        for (int m = 0; m < TOGETHER; m++)
            NAME(store_state)(s, w, w->between, n + m, h[m]);
}

/* TOGETHER states from n on, from the chunk's last step to its first, after `forth` with `keep`. */
INLINE void NAME(back)(const struct scan *s, struct NAME(work) *w, int64_t n, int simple)
{
    const int step_b = simple || !s->constant_b, step_c = simple || !s->constant_c;
    vec a[TOGETHER], h[TOGETHER], carry[TOGETHER], da[TOGETHER];
    vec(*sum_b)[NAME(KEPT)] = w->db[n / TOGETHER], (*sum_c)[NAME(KEPT)] = w->dc[n / TOGETHER];
    for (int m = 0; m < TOGETHER; m++) {
        a[m] = NAME(load_state)(s, w, s->a, n + m);
        h[m] = w->h[w->steps][m];
        carry[m] = NAME(load_state)(s, w, w->between, n + m);
        da[m] = NAME(all)(0.0f);
    }
    for (int64_t i = w->steps - 1; i >= 0; i--) {
        const float *b_t = w->b + i * FILLED(s->states) + n, *c_t = w->c + i * FILLED(s->states) + n;
        vec delta = w->delta[i], u = w->u[i], dy = w->dy[i], delta_u = delta * u, dgain = NAME(all)(0.0f), dx_a = dgain;
        vec db[TOGETHER], dc[TOGETHER];
#pragma GCC unroll 4
        for (int m = 0; m < TOGETHER; m++) {
            vec b = step_b ? NAME(all)(b_t[m]) : NAME(load_state)(s, w, s->b, n + m);
            vec c = step_c ? NAME(all)(c_t[m]) : NAME(load_state)(s, w, s->c, n + m);
            vec dh = carry[m] + dy * c, dh_b = dh * b, gain_u = delta_u;
            dc[m] = dy * h[m];
            carry[m] = dh * w->e[i][m];
            h[m] = w->h[i][m];
            vec dx = carry[m] * h[m]; /* of x = delta A */
            if (!simple && s->zoh) {  /* gain = delta phi(x) */
                vec slope, phi = NAME(phi)(delta * a[m], w->e[i][m], &slope);
                dx += dh_b * delta_u * slope;
                dh_b *= phi;
                gain_u *= phi;
            }
            dgain += dh_b;
            dx_a += dx * a[m];
            da[m] += dx * delta;
            db[m] = dh * gain_u;
            if (!step_b)
                NAME(add_state)(s, w, s->db, n + m, db[m]);
            if (!step_c)
                NAME(add_state)(s, w, s->dc, n + m, dc[m]);
        }
        if (step_b)
            NAME(add_lanes)(sum_b[i], db);
        if (step_c)
            NAME(add_lanes)(sum_c[i], dc);
        w->du[i] += delta * dgain;
        w->ddelta[i] += dx_a + u * dgain;
    }
    for (int m = 0; m < TOGETHER; m++) {
        NAME(store_state)(s, w, w->between, n + m, carry[m]);
        NAME(add_state)(s, w, s->da, n + m, da[m]);
    }
}

INLINE void NAME(forward_block)(const struct scan *s, struct NAME(work) *w, int simple)
{
    vec total = NAME(all)(0.0f);
    NAME(read)(s, w);
    for (int64_t n = 0; n < s->states; n += TOGETHER)
        NAME(forth)(s, w, w->between, n, 0, simple);
    for (int64_t i = 0; i < w->steps; i++) {
        vec y = w->y[i];
        if (s->z) {
            vec z = NAME(load_step)(s, w, s->z, i);
            y *= z * NAME(sigmoid)(z);
        }
        if (s->pooled)
            total += y;
        else
            NAME(store_step)(s, w, s->y, i, y);
    }
    if (s->pooled)
        NAME(add_channel)(w, w->between + s->states * s->channels, total);
}

INLINE void NAME(backward_block)(const struct scan *s, struct NAME(work) *w, int simple)
{
    const int64_t size = s->states * s->channels, chunk = w->row * CHUNKS(s->steps) + w->first / CHUNK;
    const float *state = w->first ? s->checkpoints + chunk * size : s->initial ? s->initial + w->row * size : NULL;
    vec d = NAME(load_channel)(w, s->d), dd = NAME(all)(0.0f), dbias = NAME(all)(0.0f), pooled;
    if (s->pooled)
        pooled = NAME(load)((const char *)s->dy + (w->row * s->channels + w->channel) * SIZE(s->type), w->count, s->type)
            / (float)NAME(length)(s, w->row);
    NAME(read)(s, w);
    for (int64_t i = 0; i < w->steps; i++) {
        vec dy = pooled;
        if (!s->pooled)
            dy = NAME(load_step)(s, w, s->dy, i);
        if (s->z) { /* y = (C h + D u) z sigmoid(z) */
            vec z = NAME(load_step)(s, w, s->z, i), gate = NAME(sigmoid)(z);
            w->dz[i] = dy * gate * (1.0f + z * (1.0f - gate)); /* but for y, which is not there yet */
            dy *= z * gate;
        }
        w->dy[i] = dy;
        w->du[i] = dy * d;
        w->ddelta[i] = NAME(all)(0.0f);
        dd += dy * w->u[i];
    }
    for (int64_t n = 0; n < s->states; n += TOGETHER) {
        NAME(forth)(s, w, state, n, 1, simple);
        NAME(back)(s, w, n, simple);
    }
    for (int64_t i = 0; i < w->steps; i++) {
        vec ddelta = w->ddelta[i] * w->slope[i];
        dbias += ddelta;
        NAME(store_step)(s, w, s->du, i, w->du[i]);
        NAME(store_step)(s, w, s->ddelta, i, ddelta);
        if (s->z)
            NAME(store_step)(s, w, s->dz, i, w->dz[i] * w->y[i]);
    }
    NAME(add_channel)(w, s->dd, dd);
    NAME(add_channel)(w, s->dbias, dbias);
}

/* All blocks of this call through one chunk. */
INLINE void NAME(chunk)(const struct scan *s, struct NAME(work) *w, int backward, int simple)
{
    const int64_t width = s->channels / s->groups;
    for (w->channel = s->from; w->channel < s->to;) {
        w->group = w->channel / width;
        const int64_t end = (w->group + 1) * width < s->to ? (w->group + 1) * width : s->to;
        if (!s->constant_b)
            NAME(read_coefficients)(s, w, s->b, w->b);
        if (!s->constant_c)
            NAME(read_coefficients)(s, w, s->c, w->c);
        if (backward) {
            for (int64_t n = 0; n < s->states; n += TOGETHER) {
                memset(w->db[n / TOGETHER], 0, sizeof *w->db[0] * (size_t)w->steps);
                memset(w->dc[n / TOGETHER], 0, sizeof *w->dc[0] * (size_t)w->steps);
            }
        }
        for (; w->channel < end; w->channel += w->count) {
            w->count = end - w->channel < W ? end - w->channel : W;
            if (backward)
                NAME(backward_block)(s, w, simple);
            else
                NAME(forward_block)(s, w, simple);
        }
        if (backward && !s->constant_b)
            NAME(write_coefficients)(s, w, w->db, s->db);
        if (backward && !s->constant_c)
            NAME(write_coefficients)(s, w, w->dc, s->dc);
    }
}

/* The channels of this call in a (N, D) tensor; from NULL: zeros. */
INLINE void NAME(copy)(const struct scan *s, float *to, const float *from)
{
    const size_t bytes = sizeof(float) * (size_t)(s->to - s->from);
    for (int64_t n = 0; n < s->states; n++)
        if (from)
            memcpy(to + n * s->channels + s->from, from + n * s->channels + s->from, bytes);
        else
            memset(to + n * s->channels + s->from, 0, bytes);
}

/* Padding: steps from a row's length on. */
INLINE void NAME(clear)(const struct scan *s, void *x, int64_t row)
{
    for (int64_t t = NAME(length)(s, row); t < s->steps && x; t++)
        memset(
            (char *)x + ((row * s->steps + t) * s->channels + s->from) * SIZE(s->type), 0,
            (size_t)((s->to - s->from) * SIZE(s->type)));
}

INLINE void NAME(forward_row)(const struct scan *s, struct NAME(work) *w, int simple)
{
    const int64_t D = s->channels, N = s->states, length = NAME(length)(s, w->row);
    float *total = w->between + N * D;
    NAME(copy)(s, w->between, s->initial ? s->initial + w->row * N * D : NULL);
    memset(total, 0, sizeof(float) * (size_t)D);
    for (w->first = 0; w->first < length; w->first += CHUNK) {
        w->steps = length - w->first < CHUNK ? length - w->first : CHUNK;
        if (s->checkpoints && w->first) /* before the first chunk is what the call was given */
            NAME(copy)(s, s->checkpoints + (w->row * CHUNKS(s->steps) + w->first / CHUNK) * N * D, w->between);
        NAME(chunk)(s, w, 0, simple);
    }
    if (s->last)
        NAME(copy)(s, s->last + w->row * N * D, w->between);
    if (s->pooled)
        for (int64_t channel = s->from; channel < s->to; channel += W) {
            const int64_t count = s->to - channel < W ? s->to - channel : W;
            vec mean = NAME(load)(total + channel, count, FLOAT) / (float)(length ? length : 1);
            NAME(store)((char *)s->y + (w->row * D + channel) * SIZE(s->type), mean, count, s->type);
        }
    else
        NAME(clear)(s, s->y, w->row);
}

INLINE void NAME(backward_row)(const struct scan *s, struct NAME(work) *w, int simple)
{
    const int64_t D = s->channels, N = s->states, length = NAME(length)(s, w->row);
    NAME(copy)(s, w->between, s->dlast ? s->dlast + w->row * N * D : NULL);
    for (w->first = (CHUNKS(length) - 1) * CHUNK; w->first >= 0; w->first -= CHUNK) {
        w->steps = length - w->first < CHUNK ? length - w->first : CHUNK;
        NAME(chunk)(s, w, 1, simple);
    }
    if (s->dinitial)
        NAME(copy)(s, s->dinitial + w->row * N * D, w->between);
    NAME(clear)(s, s->du, w->row);
    NAME(clear)(s, s->ddelta, w->row);
    NAME(clear)(s, s->dz, w->row);
}

TARGET static int32_t NAME(run)(const struct scan *s, int backward)
{
    const int simple = !s->constant_b && !s->constant_c && !s->zoh;
    struct NAME(work) *w;
    if (posix_memalign((void **)&w, 64, sizeof *w + sizeof(float) * (size_t)((s->states + 1) * s->channels)))
        return NO_MEMORY;
    for (w->row = s->first_row; w->row < s->end_row; w->row++)
        if (backward)
            simple ? NAME(backward_row)(s, w, 1) : NAME(backward_row)(s, w, 0);
        else
            simple ? NAME(forward_row)(s, w, 1) : NAME(forward_row)(s, w, 0);
    free(w);
    return DONE;
}

#undef vec
#undef ivec
#undef bits
#undef halves
#undef INLINE
#undef LOG2_E
#undef TARGET
#undef W
#undef NAME
#undef MAX
#undef MIN
#undef SCALE
#undef WHOLE
#undef LOOKUP
#undef RECIPROCAL
#undef PAIR_LOW
#undef PAIR_HIGH
#undef PAIRS_LOW
#undef PAIRS_HIGH
#undef FROM_HALF
#undef TO_HALF

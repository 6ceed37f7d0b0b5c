/* The loops of scan.c for vectors of W floats; included once for each instruction set, NAME(x) naming its functions.
 *
 * A block is up to W neighbouring channels of one group of B and C; where a group ends early the spare lanes hold zeros. Names
 * are those of the equations: e_t = exp(delta_t A), h_t, y_t; dx is the gradient of x.
 */

typedef float NAME(vec) __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t NAME(ivec) __attribute__((vector_size(W * 4), aligned(4), may_alias));
#define vec NAME(vec)
#define ivec NAME(ivec)
#define INLINE static inline __attribute__((always_inline))
#define LOG2_E 1.44269504088896341f

INLINE vec NAME(load)(const float *from, int64_t count)
{
    if (count == W)
        return *(const vec *)from;
    vec out = {0};
    for (int64_t i = 0; i < count; i++)
        out[i] = from[i];
    return out;
}

INLINE void NAME(store)(float *to, vec x, int64_t count)
{
    if (count == W)
        *(vec *)to = x;
    else
        for (int64_t i = 0; i < count; i++)
            to[i] = x[i];
}

INLINE vec NAME(all)(float x)
{
    vec zero = {0};
    return zero + x;
}

INLINE vec NAME(pick)(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

INLINE float NAME(sum)(vec x)
{
    float total = 0;
    for (int i = 0; i < W; i++)
        total += x[i];
    return total;
}

/* 2^x: split into a whole and a fraction in [-1/2, 1/2], a polynomial for 2^fraction (relative error below 1e-7), the whole into
 * the exponent. Below -126 it is 2^-126, as good as nothing; from 128 on infinity; NaN stays NaN. */
INLINE vec NAME(exp2)(vec x)
{
    vec low = MIN(NAME(all)(127.49f), MAX(NAME(all)(-126.0f), x)); /* the second operand wins if one is NaN */
    vec shifted = low + 12582912.0f;                               /* 1.5 * 2^23: rounds to the nearest whole number */
    vec f = low - (shifted - 12582912.0f);
    vec p = NAME(all)(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    vec power = (vec)(((ivec)shifted << 23) + (ivec)p);
    return NAME(pick)((ivec)(x >= 128.0f), NAME(all)(__builtin_inff()), power);
}

/* softplus(x) = max(x, 0) + log(1 + t), t = exp(-|x|); the logarithm as 2 artanh(t / (2 + t)), exact to the last bits for small
 * t too. Its slope is sigmoid(x). */
INLINE vec NAME(softplus)(vec x, vec *slope)
{
    vec t = NAME(exp2)(MIN(x, -x) * LOG2_E), s = t / (t + 2.0f), q = s * s;
    vec p = NAME(all)(1.0f / 15);
    p = p * q + 1.0f / 13;
    p = p * q + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    p = p * q + 1.0f;
    vec half = 1.0f / (t + 1.0f);
    *slope = NAME(pick)((ivec)(x >= 0.0f), half, t * half);
    return MAX(NAME(all)(0.0f), x) + 2.0f * s * p;
}

INLINE vec NAME(sigmoid)(vec x)
{
    vec t = NAME(exp2)(MIN(x, -x) * LOG2_E), half = 1.0f / (t + 1.0f);
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

/* What a block needs of its call. */
struct NAME(block) {
    int64_t channel, count, group;
    vec a[MAX_STATES], b[MAX_STATES], c[MAX_STATES], d, bias; /* a in powers of two; b, c where they are constant */
};

INLINE void NAME(enter)(const struct scan *s, struct NAME(block) *k, int64_t channel, int64_t count, int64_t group)
{
    k->channel = channel, k->count = count, k->group = group;
    for (int64_t n = 0; n < s->states; n++) {
        k->a[n] = NAME(load)(s->a + n * s->channels + channel, count) * LOG2_E;
        if (s->constant_b)
            k->b[n] = NAME(load)(s->b + n * s->channels + channel, count);
        if (s->constant_c)
            k->c[n] = NAME(load)(s->c + n * s->channels + channel, count);
    }
    k->d = s->d ? NAME(load)(s->d + channel, count) : NAME(all)(0.0f);
    k->bias = s->bias ? NAME(load)(s->bias + channel, count) : NAME(all)(0.0f);
}

/* B_t or C_t of one state: a constant of the block, or one number of the step for the whole group. */
INLINE vec NAME(coefficient)(const vec *constant, const float *step, int64_t n) { return step ? NAME(all)(step[n]) : constant[n]; }

INLINE const float *NAME(at_step)(const struct scan *s, const float *x, int constant, int64_t row, int64_t t, int64_t group)
{
    return constant ? NULL : x + ((row * s->steps + t) * s->groups + group) * s->states;
}

INLINE int64_t NAME(length)(const struct scan *s, int64_t row)
{
    int64_t length = s->lengths ? s->lengths[row] : s->steps;
    return length < 0 ? 0 : length < s->steps ? length : s->steps;
}

/* One step of a block: h is updated in place and C_t h_t returned; e_t is noted where `decays` is given. `simple` (known when
 * compiling): N = 16, B and C by step, no exact hold, which is what nearly every head asks for. */
INLINE vec NAME(step)(
    const struct scan *s, const struct NAME(block) *k, vec *h, vec delta, vec u, const float *b, const float *c, vec *decays,
    int simple)
{
    const int64_t states = simple ? 16 : s->states;
    vec gain = delta * u, y = NAME(all)(0.0f), slope;
#pragma GCC unroll 16
    for (int64_t n = 0; n < states; n++) {
        vec x = delta * k->a[n], e = NAME(exp2)(x);
        if (!simple && s->zoh)
            gain = delta * u * NAME(phi)(x / LOG2_E, e, &slope);
        vec b_n = simple ? NAME(all)(b[n]) : NAME(coefficient)(k->b, b, n);
        vec c_n = simple ? NAME(all)(c[n]) : NAME(coefficient)(k->c, c, n);
        h[n] = e * h[n] + gain * b_n;
        y += h[n] * c_n;
        if (decays)
            decays[n] = e;
    }
    return y;
}

INLINE void NAME(forward_block)(const struct scan *s, const struct NAME(block) *k, int64_t row, int simple)
{
    const int64_t D = s->channels, L = s->steps, N = simple ? 16 : s->states, length = NAME(length)(s, row), count = k->count;
    const int64_t chunks = (L + CHUNK - 1) / CHUNK;
    vec h[MAX_STATES], total = NAME(all)(0.0f), slope;
    for (int64_t n = 0; n < N; n++)
        h[n] = s->initial ? NAME(load)(s->initial + (row * N + n) * D + k->channel, count) : NAME(all)(0.0f);
    for (int64_t t = 0; t < length; t++) {
        const int64_t at = (row * L + t) * D + k->channel;
        if (s->checkpoints && t % CHUNK == 0)
            for (int64_t n = 0; n < N; n++)
                NAME(store)(s->checkpoints + ((row * chunks + t / CHUNK) * N + n) * D + k->channel, h[n], count);
        vec u = NAME(load)(s->u + at, count), delta = NAME(load)(s->delta + at, count) + k->bias;
        if (s->softplus)
            delta = NAME(softplus)(delta, &slope);
        const float *b = NAME(at_step)(s, s->b, s->constant_b, row, t, k->group);
        const float *c = NAME(at_step)(s, s->c, s->constant_c, row, t, k->group);
        vec y = NAME(step)(s, k, h, delta, u, b, c, NULL, simple);
        if (s->d)
            y += k->d * u;
        if (s->z) {
            vec z = NAME(load)(s->z + at, count);
            y *= z * NAME(sigmoid)(z);
        }
        if (s->pooled)
            total += y;
        else
            NAME(store)(s->y + at, y, count);
    }
    if (s->pooled)
        NAME(store)(s->y + row * D + k->channel, total / (float)(length ? length : 1), count);
    else
        for (int64_t t = length; t < L; t++)
            NAME(store)(s->y + (row * L + t) * D + k->channel, NAME(all)(0.0f), count);
    if (s->last)
        for (int64_t n = 0; n < N; n++)
            NAME(store)(s->last + (row * N + n) * D + k->channel, h[n], count);
}

static int32_t NAME(forward)(const struct scan *s, int64_t first, int64_t last)
{
    const int64_t width = s->channels / s->groups;
    const int simple = s->states == 16 && !s->constant_b && !s->constant_c && !s->zoh;
    struct NAME(block) k;
    for (int64_t channel = s->from; channel < s->to;) { /* blocks outside: their constants are loaded once */
        const int64_t group = channel / width, end = (group + 1) * width, left = (end < s->to ? end : s->to) - channel;
        NAME(enter)(s, &k, channel, left < W ? left : W, group);
        for (int64_t row = first; row < last; row++)
            if (simple)
                NAME(forward_block)(s, &k, row, 1);
            else
                NAME(forward_block)(s, &k, row, 0);
        channel += k.count;
    }
    return DONE;
}

/* Room of one thread for going back through a chunk. */
struct NAME(room) {
    vec *h, *e;         /* [CHUNK + 1][N], [CHUNK][N] */
    vec *db, *dc;       /* [CHUNK][N]: sums over the blocks of a group, lane by lane */
    vec delta[CHUNK], slope[CHUNK], u[CHUNK], y[CHUNK];
    float *carry;       /* (N, D): the gradient of the state that the chunk ends with */
};

INLINE void NAME(backward_block)(
    const struct scan *s, const struct NAME(block) *k, struct NAME(room) *r, int64_t row, int64_t chunk, int64_t stop, int simple)
{
    const int64_t D = s->channels, L = s->steps, N = simple ? 16 : s->states, count = k->count, first = chunk * CHUNK;
    const int64_t chunks = (L + CHUNK - 1) / CHUNK, steps = stop - first, length = NAME(length)(s, row);
    vec carry[MAX_STATES], da[MAX_STATES], db[MAX_STATES], dc[MAX_STATES];
    for (int64_t n = 0; n < N; n++)
        r->h[n] = NAME(load)(s->checkpoints + ((row * chunks + chunk) * N + n) * D + k->channel, count);
    for (int64_t i = 0; i < steps; i++) { /* forward once more */
        const int64_t at = (row * L + first + i) * D + k->channel;
        vec *h = r->h + (i + 1) * N;
        for (int64_t n = 0; n < N; n++)
            h[n] = h[n - N];
        r->u[i] = NAME(load)(s->u + at, count);
        r->delta[i] = NAME(load)(s->delta + at, count) + k->bias;
        r->slope[i] = NAME(all)(1.0f);
        if (s->softplus)
            r->delta[i] = NAME(softplus)(r->delta[i], &r->slope[i]);
        const float *b = NAME(at_step)(s, s->b, s->constant_b, row, first + i, k->group);
        const float *c = NAME(at_step)(s, s->c, s->constant_c, row, first + i, k->group);
        r->y[i] = NAME(step)(s, k, h, r->delta[i], r->u[i], b, c, r->e + i * N, simple) + k->d * r->u[i];
    }
    for (int64_t n = 0; n < N; n++) {
        carry[n] = NAME(load)(r->carry + n * D + k->channel, count);
        da[n] = NAME(load)(s->da + n * D + k->channel, count);
        if (s->constant_b)
            db[n] = NAME(load)(s->db + n * D + k->channel, count);
        if (s->constant_c)
            dc[n] = NAME(load)(s->dc + n * D + k->channel, count);
    }
    vec dd = s->dd ? NAME(load)(s->dd + k->channel, count) : NAME(all)(0.0f);
    vec dbias = s->dbias ? NAME(load)(s->dbias + k->channel, count) : NAME(all)(0.0f);
    vec pooled = s->pooled ? NAME(load)(s->dy + row * D + k->channel, count) : NAME(all)(0.0f);
    pooled /= (float)(length ? length : 1);
    for (int64_t i = steps - 1; i >= 0; i--) { /* and back */
        const int64_t at = (row * L + first + i) * D + k->channel;
        const float *b = NAME(at_step)(s, s->b, s->constant_b, row, first + i, k->group);
        const float *c = NAME(at_step)(s, s->c, s->constant_c, row, first + i, k->group);
        const vec *h = r->h + (i + 1) * N, *e = r->e + i * N, u = r->u[i], delta = r->delta[i];
        vec dy = s->pooled ? pooled : NAME(load)(s->dy + at, count);
        if (s->z) { /* y = (C h + D u) z sigmoid(z) */
            vec z = NAME(load)(s->z + at, count), gate = NAME(sigmoid)(z);
            NAME(store)(s->dz + at, dy * r->y[i] * gate * (1.0f + z * (1.0f - gate)), count);
            dy *= z * gate;
        }
        vec dgain_u = NAME(all)(0.0f), dx_a = NAME(all)(0.0f), du = dy * k->d, held = NAME(all)(0.0f), ddelta;
        vec gain = delta * u, *sum_b = r->db + i * N, *sum_c = r->dc + i * N;
        dd += dy * u;
#pragma GCC unroll 16
        for (int64_t n = 0; n < N; n++) {
            vec b_n = simple ? NAME(all)(b[n]) : NAME(coefficient)(k->b, b, n);
            vec c_n = simple ? NAME(all)(c[n]) : NAME(coefficient)(k->c, c, n);
            vec dh = carry[n] + dy * c_n, dc_n = dy * h[n];
            carry[n] = dh * e[n];
            vec dx = carry[n] * h[n - N]; /* of x = delta A */
            if (!simple && s->zoh) {      /* gain = delta phi(x) */
                vec slope, x = delta * k->a[n] / LOG2_E, phi = NAME(phi)(x, e[n], &slope), dgain = dh * b_n;
                gain = delta * u * phi;
                held += dgain * phi;
                dx += dgain * u * delta * slope;
            } else
                dgain_u += dh * b_n;
            dx_a += dx * k->a[n];
            da[n] += dx * delta;
            if (!simple && s->constant_b)
                db[n] += dh * gain;
            else
                sum_b[n] += dh * gain;
            if (!simple && s->constant_c)
                dc[n] += dc_n;
            else
                sum_c[n] += dc_n;
        }
        if (!simple && s->zoh)
            dgain_u = held;
        du += delta * dgain_u;
        ddelta = (dx_a / LOG2_E + u * dgain_u) * r->slope[i];
        dbias += ddelta;
        NAME(store)(s->du + at, du, count);
        NAME(store)(s->ddelta + at, ddelta, count);
    }
    for (int64_t n = 0; n < N; n++) {
        NAME(store)(r->carry + n * D + k->channel, carry[n], count);
        NAME(store)(s->da + n * D + k->channel, da[n], count);
        if (s->constant_b)
            NAME(store)(s->db + n * D + k->channel, db[n], count);
        if (s->constant_c)
            NAME(store)(s->dc + n * D + k->channel, dc[n], count);
    }
    if (s->dd)
        NAME(store)(s->dd + k->channel, dd, count);
    if (s->dbias)
        NAME(store)(s->dbias + k->channel, dbias, count);
}

/* All blocks of one group through one chunk; then the sums over channels are complete. */
static void NAME(backward_group)(
    const struct scan *s, struct NAME(block) *k, struct NAME(room) *r, int64_t row, int64_t chunk, int64_t stop, int64_t group,
    int simple)
{
    const int64_t width = s->channels / s->groups, N = s->states, steps = stop - chunk * CHUNK;
    const int64_t from = group * width > s->from ? group * width : s->from;
    const int64_t to = (group + 1) * width < s->to ? (group + 1) * width : s->to;
    if (from >= to)
        return;
    memset(r->db, 0, (size_t)(steps * N) * sizeof(vec));
    memset(r->dc, 0, (size_t)(steps * N) * sizeof(vec));
    for (int64_t channel = from; channel < to; channel += W) {
        NAME(enter)(s, k, channel, to - channel < W ? to - channel : W, group);
        if (simple)
            NAME(backward_block)(s, k, r, row, chunk, stop, 1);
        else
            NAME(backward_block)(s, k, r, row, chunk, stop, 0);
    }
    for (int64_t i = 0; i < steps; i++) {
        const int64_t at = ((row * s->steps + chunk * CHUNK + i) * s->groups + group) * N;
        for (int64_t n = 0; n < N; n++) {
            if (!s->constant_b)
                s->db[at + n] = NAME(sum)(r->db[i * N + n]);
            if (!s->constant_c)
                s->dc[at + n] = NAME(sum)(r->dc[i * N + n]);
        }
    }
}

static int32_t NAME(backward)(const struct scan *s, int64_t first, int64_t last)
{
    const int64_t D = s->channels, L = s->steps, N = s->states;
    const int simple = N == 16 && !s->constant_b && !s->constant_c && !s->zoh;
    const size_t vectors = (size_t)((4 * CHUNK + 1) * N);
    struct NAME(room) r;
    struct NAME(block) k;
    void *memory = NULL;
    if (posix_memalign(&memory, 64, vectors * sizeof(vec) + (size_t)(N * D) * sizeof(float)))
        return NO_MEMORY;
    r.h = memory, r.e = r.h + (CHUNK + 1) * N, r.db = r.e + CHUNK * N, r.dc = r.db + CHUNK * N;
    r.carry = (float *)(r.dc + CHUNK * N);
    for (int64_t row = first; row < last; row++) {
        const int64_t length = NAME(length)(s, row);
        if (s->dlast)
            memcpy(r.carry, s->dlast + row * N * D, (size_t)(N * D) * sizeof(float));
        else
            memset(r.carry, 0, (size_t)(N * D) * sizeof(float));
        for (int64_t chunk = (length + CHUNK - 1) / CHUNK - 1; chunk >= 0; chunk--) {
            const int64_t stop = (chunk + 1) * CHUNK < length ? (chunk + 1) * CHUNK : length;
            for (int64_t group = 0; group < s->groups; group++)
                NAME(backward_group)(s, &k, &r, row, chunk, stop, group, simple);
        }
        for (int64_t n = 0; n < N && s->dinitial; n++)
            memcpy(s->dinitial + (row * N + n) * D + s->from, r.carry + n * D + s->from, (size_t)(s->to - s->from) * sizeof(float));
        const size_t beyond = (size_t)(L - length), at = (size_t)(row * L + length); /* padding has no gradient */
        memset(s->du + at * D, 0, beyond * D * sizeof(float));
        memset(s->ddelta + at * D, 0, beyond * D * sizeof(float));
        if (s->z)
            memset(s->dz + at * D, 0, beyond * D * sizeof(float));
        if (!s->constant_b)
            memset(s->db + at * s->groups * N, 0, beyond * s->groups * N * sizeof(float));
        if (!s->constant_c)
            memset(s->dc + at * s->groups * N, 0, beyond * s->groups * N * sizeof(float));
    }
    free(memory);
    return DONE;
}

#undef vec
#undef ivec
#undef INLINE
#undef LOG2_E
#undef W
#undef NAME
#undef MAX
#undef MIN

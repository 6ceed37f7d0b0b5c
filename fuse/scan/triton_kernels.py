"""The selective scan in Triton, forward and backward. triton.py launches it; kernel.h is the same for a CPU.

    h_t = exp(delta_t A) h_{t-1} + gain_t B_t u_t      gain: delta, or exact ZOH
    y_t = (C_t h_t + D u_t) silu(z_t)

A program is one warp, a tile of N states by BLOCK neighbouring channels that stays in registers; where sizes
are multiples of 16 Triton gives a lane 4 channels and a quarter of their states. A program takes rows of
every stream in turn, so that one launch does them all, and its share of dA is one sum. Backward takes the
chunks of a row from the last to the first, in two levels: from the state that forward noted before the chunk
it computes the state before every FINE-th step, into scratch memory; then, FINE steps at a time, the states
between, which stay in registers while it walks back through them. Sums over channels (dB, dC) and over rows
(dA, dD, d delta_bias) leave a program as its own partial sum; they are added afterwards in a fixed order, so
that the same inputs give the same bits.

Tuples hold one entry for each stream. Tensors are contiguous; steps and states come before channels:
u, delta, z, y (B, L, D), or y (B, D) if pooled; B, C (B, L, G, N), or constant (N, D); A (N, D); h (B, N, D).
Absent ones are None.
"""

# Triton reads annotations of a kernel's parameters as types to compile for.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
VARYING = ["batches", "steps", "notes"]  # from batch to batch: a kernel that was compiled for one serves all


@triton.jit
def _sigmoid(x):
    half = tl.exp2(-tl.abs(x) * LOG2_E)
    return tl.where(x >= 0, 1.0, half) / (1.0 + half)


@triton.jit
def _softplus(x):
    """max(x, 0) + log(1 + t), t = exp(-|x|); the log as 2 artanh(t / (2 + t)), exact for small t too."""
    t = tl.exp2(-tl.abs(x) * LOG2_E)
    s = t / (t + 2.0)
    q = s * s
    p = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q / 15))))))
    return tl.maximum(x, 0.0) + 2.0 * s * p


@triton.jit
def _phi(x, e):
    """Exact hold: phi(x) = (e^x - 1) / x and its slope; their series near 0, where A may be nothing."""
    small = tl.abs(x) < 0.25
    safe = tl.where(small, 1.0, x)
    near = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
    slope = 1 / 2 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x * (1 / 840 + x / 5760)))))
    far = (e - 1.0) / safe
    return tl.where(small, near, far), tl.where(small, slope, (e - far) / safe)


@triton.jit
def _place(width, blocks, BLOCK: tl.constexpr):
    """Which channels this program has: (group, channels, which of them exist). A block ends where its group
    does.
    """
    number = tl.program_id(1)
    group = number // blocks
    within = number % blocks * BLOCK + tl.arange(0, BLOCK)
    return group, group * width + within, within < width


@triton.jit
def _first_row(program, programs, before):
    """Rows of all streams go to the programs in turn; this program's first row of the stream that has
    `before` rows ahead of it.
    """
    return (program + programs - before % programs) % programs


@triton.jit
def _delta(pointer, at, live, bias, SOFTPLUS: tl.constexpr):
    """delta_t past bias and softplus, and the slope of both; 0 at steps that are not live: they leave the
    state alone.
    """
    delta = tl.load(pointer + at, mask=live, other=0.0).to(tl.float32) + bias
    slope = _sigmoid(delta) if SOFTPLUS else tl.full(delta.shape, 1.0, tl.float32)
    if SOFTPLUS:
        delta = _softplus(delta)
    return tl.where(live, delta, 0.0), slope


@triton.jit
def _advance(h, a, delta, u, b, ZOH: tl.constexpr):
    """(h_t, e_t = exp(delta_t A)); a in powers of two."""
    x = delta[None, :] * a
    e = tl.exp2(x)
    gain = (delta * u)[None, :]
    if ZOH:
        phi, _ = _phi(x / LOG2_E, e)
        gain = gain * phi
    return e * h + gain * b, e


@triton.jit(do_not_specialize=VARYING[:2])
def forward(
    A, us, deltas, bs, cs, ds, zs, biases, lengths, initials, ys, lasts, checkpoints,
    batches, steps, states, channels, groups, width, blocks,
    SOFTPLUS: tl.constexpr, ZOH: tl.constexpr, POOLED: tl.constexpr, CONSTANT_B: tl.constexpr,
    CONSTANT_C: tl.constexpr, STREAMS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Grid (programs, groups * blocks). ys come zeroed where lengths are given: padding is not written."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    group, channel, inside = _place(width, blocks, BLOCK)
    n = tl.arange(0, N)
    real = (n < states)[:, None] & inside[None, :]
    of_state = n[:, None] * channels + channel[None, :]  # in (N, D)
    a = tl.load(A + of_state, mask=real, other=0.0) * LOG2_E
    before = 0
    for s in tl.static_range(STREAMS):
        L = steps[s]
        bias = (
            tl.load(biases[s] + channel, mask=inside, other=0.0).to(tl.float32)
            if biases[s] is not None
            else 0.0
        )
        if ds[s] is not None:
            d = tl.load(ds[s] + channel, mask=inside, other=0.0).to(tl.float32)
        if CONSTANT_B[s]:
            b = tl.load(bs[s] + of_state, mask=real, other=0.0).to(tl.float32)
        if CONSTANT_C[s]:
            c = tl.load(cs[s] + of_state, mask=real, other=0.0).to(tl.float32)
        for number in range(_first_row(program, programs, before), batches[s], programs):
            row = tl.cast(number, tl.int64)
            length = L
            if lengths[s] is not None:
                length = tl.minimum(tl.maximum(tl.load(lengths[s] + row), 0), L).to(tl.int32)
            h = tl.zeros((N, BLOCK), tl.float32)
            if initials[s] is not None:
                h = tl.load(initials[s] + row * states * channels + of_state, mask=real, other=0.0)
            total = tl.zeros((BLOCK,), tl.float32)
            for chunk in range(tl.cdiv(length, CHUNK)):
                if checkpoints[s] is not None:
                    noted = (row * tl.cdiv(L, CHUNK) + chunk) * states * channels
                    tl.store(checkpoints[s] + noted + of_state, h, mask=real)
                for t in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, length)):
                    at = (row * L + t) * channels + channel
                    of_step = ((row * L + t) * groups + group) * states + n
                    u = tl.load(us[s] + at, mask=inside, other=0.0).to(tl.float32)
                    delta, _ = _delta(deltas[s], at, inside, bias, SOFTPLUS)
                    if not CONSTANT_B[s]:
                        b = tl.load(bs[s] + of_step, mask=n < states, other=0.0).to(tl.float32)[:, None]
                    if not CONSTANT_C[s]:
                        c = tl.load(cs[s] + of_step, mask=n < states, other=0.0).to(tl.float32)[:, None]
                    h, _ = _advance(h, a, delta, u, b, ZOH)
                    y = tl.sum(h * c, 0)
                    if ds[s] is not None:
                        y += d * u
                    if zs[s] is not None:
                        z = tl.load(zs[s] + at, mask=inside, other=0.0).to(tl.float32)
                        y *= z * _sigmoid(z)
                    if POOLED:
                        total += y
                    else:
                        tl.store(ys[s] + at, y, mask=inside)
            if POOLED:
                tl.store(ys[s] + row * channels + channel, total / tl.maximum(length, 1), mask=inside)
            tl.store(lasts[s] + row * states * channels + of_state, h, mask=real)
        before += batches[s]


@triton.jit(do_not_specialize=VARYING)
def backward(
    A, us, deltas, bs, cs, ds, zs, biases, lengths, checkpoints, dys, dlasts, scratch,
    dA, dus, ddeltas, dbs, dcs, dds, dzs, dbiases, dinitials,
    batches, steps, states, channels, groups, width, blocks, notes,
    SOFTPLUS: tl.constexpr, ZOH: tl.constexpr, POOLED: tl.constexpr, CONSTANT_B: tl.constexpr,
    CONSTANT_C: tl.constexpr, STREAMS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr, FINE: tl.constexpr,
):  # fmt: skip
    """Grid as forward's. dA (programs, N, D), dds and dbiases (programs, D): partial sums over rows, as are
    dbs and dcs of constants (programs, N, D); else those are (B, L, G * blocks, N), partial over channels.
    dus, ddeltas, dzs, dbs and dcs come zeroed where lengths are given. scratch: (all programs, notes, N,
    BLOCK) float32, notes = CHUNK / FINE or less."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    group, channel, inside = _place(width, blocks, BLOCK)
    n = tl.arange(0, N)
    real = (n < states)[:, None] & inside[None, :]
    of_state = n[:, None] * channels + channel[None, :]
    partial = program.to(tl.int64) * channels
    a = tl.load(A + of_state, mask=real, other=0.0) * LOG2_E
    own = (program.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * notes * N * BLOCK
    note = scratch + own + n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    da = tl.zeros((N, BLOCK), tl.float32)
    before = 0
    for s in tl.static_range(STREAMS):
        L = steps[s]
        bias = (
            tl.load(biases[s] + channel, mask=inside, other=0.0).to(tl.float32)
            if biases[s] is not None
            else 0.0
        )
        d = tl.load(ds[s] + channel, mask=inside, other=0.0).to(tl.float32) if ds[s] is not None else 0.0
        dd, dbias = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        if CONSTANT_B[s]:
            b = tl.load(bs[s] + of_state, mask=real, other=0.0).to(tl.float32)
            db = tl.zeros((N, BLOCK), tl.float32)
        if CONSTANT_C[s]:
            c = tl.load(cs[s] + of_state, mask=real, other=0.0).to(tl.float32)
            dc = tl.zeros((N, BLOCK), tl.float32)
        for number in range(_first_row(program, programs, before), batches[s], programs):
            row = tl.cast(number, tl.int64)
            length = L
            if lengths[s] is not None:
                length = tl.minimum(tl.maximum(tl.load(lengths[s] + row), 0), L).to(tl.int32)
            carry = tl.zeros((N, BLOCK), tl.float32)  # the gradient of the state that a step leaves behind
            if dlasts[s] is not None:
                carry = tl.load(dlasts[s] + row * states * channels + of_state, mask=real, other=0.0)
            if POOLED:
                pooled = tl.load(dys[s] + row * channels + channel, mask=inside, other=0.0).to(
                    tl.float32
                ) / tl.maximum(length, 1)
            chunks = tl.cdiv(length, CHUNK)
            for back in range(chunks):
                chunk = chunks - 1 - back
                first, stop = chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, length)
                noted = (row * tl.cdiv(L, CHUNK) + chunk) * states * channels
                h = tl.load(checkpoints[s] + noted + of_state, mask=real, other=0.0)
                noted_here = tl.cdiv(stop - first, FINE)
                for f in range(noted_here):
                    tl.store(note + f * N * BLOCK, h)
                    for i in range(first + f * FINE, tl.minimum(first + f * FINE + FINE, stop)):
                        at = (row * L + i) * channels + channel
                        if not CONSTANT_B[s]:
                            of_step = ((row * L + i) * groups + group) * states + n
                            b = tl.load(bs[s] + of_step, mask=n < states, other=0.0).to(tl.float32)[:, None]
                        delta, _ = _delta(deltas[s], at, inside, bias, SOFTPLUS)
                        u = tl.load(us[s] + at, mask=inside, other=0.0).to(tl.float32)
                        h, _ = _advance(h, a, delta, u, b, ZOH)
                tl.debug_barrier()  # what another lane noted is to be seen
                for again in range(noted_here):
                    start = first + (noted_here - 1 - again) * FINE
                    h = tl.load(note + (noted_here - 1 - again) * N * BLOCK)
                    hs = (h,)
                    for i in tl.static_range(FINE):  # the states between two notes once more
                        t = start + i
                        live = inside & (t < stop)
                        at = (row * L + t) * channels + channel
                        if not CONSTANT_B[s]:
                            of_step = ((row * L + t) * groups + group) * states + n
                            b = tl.load(bs[s] + of_step, mask=(n < states) & (t < stop), other=0.0).to(
                                tl.float32
                            )[:, None]
                        delta, _ = _delta(deltas[s], at, live, bias, SOFTPLUS)
                        u = tl.load(us[s] + at, mask=live, other=0.0).to(tl.float32)
                        h, _ = _advance(h, a, delta, u, b, ZOH)
                        hs = hs + (h,)  # type: ignore[assignment]  # unrolled  # noqa: RUF005 Triton knows no (*hs, h)
                    for i in tl.static_range(FINE - 1, -1, -1):  # and back
                        t = start + i
                        live, here = inside & (t < stop), (n < states) & (t < stop)
                        at = (row * L + t) * channels + channel
                        of_step = ((row * L + t) * groups + group) * states + n
                        if not CONSTANT_B[s]:
                            b = tl.load(bs[s] + of_step, mask=here, other=0.0).to(tl.float32)[:, None]
                        if not CONSTANT_C[s]:
                            c = tl.load(cs[s] + of_step, mask=here, other=0.0).to(tl.float32)[:, None]
                        u = tl.load(us[s] + at, mask=live, other=0.0).to(tl.float32)
                        delta, slope = _delta(deltas[s], at, live, bias, SOFTPLUS)
                        if POOLED:
                            dy = tl.where(live, pooled, 0.0)
                        else:
                            dy = tl.load(dys[s] + at, mask=live, other=0.0).to(tl.float32)
                        if zs[s] is not None:  # y = (C h + D u) z sigmoid(z)
                            z = tl.load(zs[s] + at, mask=live, other=0.0).to(tl.float32)
                            gate = _sigmoid(z)
                            y = tl.sum(hs[i + 1] * c, 0) + d * u
                            tl.store(dzs[s] + at, dy * y * gate * (1.0 + z * (1.0 - gate)), mask=live)
                            dy *= z * gate
                        x = delta[None, :] * a
                        e = tl.exp2(x)
                        dh = carry + dy[None, :] * c
                        carry = dh * e
                        dx = carry * hs[i]  # of x = delta A
                        gain = (delta * u)[None, :]
                        if ZOH:  # gain = delta u phi(x)
                            phi, phi_slope = _phi(x / LOG2_E, e)
                            dx += dh * b * gain * phi_slope
                            du_delta = tl.sum(dh * b * phi, 0)
                            gain = gain * phi
                        else:
                            du_delta = tl.sum(dh * b, 0)
                        da += dx * delta[None, :]
                        ddelta = (tl.sum(dx * a, 0) / LOG2_E + du_delta * u) * slope
                        dbias += tl.where(live, ddelta, 0.0)
                        dd += dy * u
                        tl.store(dus[s] + at, dy * d + du_delta * delta, mask=live)
                        tl.store(ddeltas[s] + at, ddelta, mask=live)
                        of_partial = ((row * L + t) * tl.num_programs(1) + tl.program_id(1)) * states + n
                        if CONSTANT_B[s]:
                            db += dh * gain
                        else:
                            tl.store(dbs[s] + of_partial, tl.sum(dh * gain, 1), mask=here)
                        if CONSTANT_C[s]:
                            dc += dy[None, :] * hs[i + 1]
                        else:
                            tl.store(dcs[s] + of_partial, tl.sum(dy[None, :] * hs[i + 1], 1), mask=here)
                tl.debug_barrier()  # before the next chunk's notes overwrite these
            if dinitials[s] is not None:
                tl.store(dinitials[s] + row * states * channels + of_state, carry, mask=real)
        if CONSTANT_B[s]:
            tl.store(dbs[s] + partial * states + of_state, db, mask=real)
        if CONSTANT_C[s]:
            tl.store(dcs[s] + partial * states + of_state, dc, mask=real)
        if ds[s] is not None:
            tl.store(dds[s] + partial + channel, dd, mask=inside)
        if biases[s] is not None:
            tl.store(dbiases[s] + partial + channel, dbias, mask=inside)
        before += batches[s]
    tl.store(dA + partial * states + of_state, da, mask=real)

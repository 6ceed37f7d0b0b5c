"""The native scan of a CPU: every instruction set, 16-bit inputs, threads, interrupts."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from helpers.scan import assert_close, draw, run
from mambavl.fuse.scan import cpu, pooled_selective_scan, selective_scan
from mambavl.fuse.scan.inputs import Options, ScanInputs


@pytest.fixture(params=cpu.INSTRUCTIONS)
def instructions(request, monkeypatch):
    """Every instruction set of this machine, one after another."""
    if cpu.unavailable():
        pytest.skip(str(cpu.unavailable()))
    if cpu.INSTRUCTIONS[request.param] > cpu.INSTRUCTIONS[cpu.instructions()]:
        pytest.skip(f"this machine lacks {request.param}")
    monkeypatch.setattr(cpu, "forced_instructions", cpu.INSTRUCTIONS[request.param])


@pytest.mark.usefixtures("instructions")
def test_every_instruction_set_gives_the_reference():
    for options in ({"zoh": True}, {"pooled": True}, {}):
        x, lengths = draw(length=70, channels=37), torch.tensor([70, 33, 0])
        assert_close(
            run(x, "cpu", lengths=lengths, **options),
            run(x, "reference", torch.float64, lengths=lengths, **options),
        )


@pytest.mark.skipif(bool(cpu.unavailable()), reason=str(cpu.unavailable()))
def test_instructions_that_a_machine_lacks_are_refused(monkeypatch):
    monkeypatch.setattr(cpu, "forced_instructions", 4)
    with pytest.raises(RuntimeError, match="lacks instruction set 4"):
        run(draw(), "cpu")


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_16_bits_is_read_and_written_as_torch_does(dtype):
    u = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).view(256, 1, 256)
    zeros, a, b = torch.zeros_like(u), -torch.ones(256, 4), torch.zeros(256, 1, 4, dtype=dtype)
    for d in (1.0, 0.7354, 1.1 / 512, 3000.3):
        # D u, and NaN where u is not finite
        y = selective_scan(u, zeros, a, b, b, torch.full((256,), d), backend="cpu")
        expected = (u.float() * d).to(dtype)
        assert torch.equal(y[u.isfinite()], expected[u.isfinite()])
        assert y[~u.isfinite()].isnan().all()


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("coefficients", "pooled", "wide"),
    [
        ("step", False, ()),
        ("step", True, ()),
        ("groups", False, ()),
        ("mixed", False, ()),
        ("step", False, ("B", "z")),
    ],
)
def test_low_precision_gives_what_widening_first_and_rounding_last_would(dtype, coefficients, pooled, wide):
    x = {
        k: v.to(dtype) if k in ("u", "delta", "z", "B", "C") and k not in wide else v
        for k, v in draw(length=70, coefficients=coefficients).items()
    }
    scan_ = pooled_selective_scan if pooled else selective_scan
    found = []
    for given in (x, {k: v.float() for k, v in x.items()}):
        given = {k: v.detach().requires_grad_() for k, v in given.items()}
        y = scan_(**given, delta_softplus=True, lengths=torch.tensor([70, 33, 0]), backend="cpu")
        dy = torch.linspace(-1, 1, y.numel()).view(y.shape).to(dtype).to(y.dtype)
        found.append([y, *torch.autograd.grad(y, list(given.values()), dy)])
    for name, native, widened in zip(("y", *x), *found, strict=True):
        assert native.dtype == (dtype if name == "y" else x[name].dtype)
        assert torch.equal(native, widened.to(native.dtype)), name


@pytest.mark.skipif(bool(cpu.unavailable()), reason=str(cpu.unavailable()))
@pytest.mark.parametrize("batch", [1, 5, 33])
def test_threads_share_rows_and_channels_and_repeat_to_the_bit(batch, monkeypatch):
    monkeypatch.setattr(cpu, "ALONE", 1)
    x = draw(batch=batch, length=40, channels=100, coefficients="mixed")
    expected = run(x, "reference", torch.float64)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found = run(x, "cpu")
        assert_close(found, expected)
        again = run(x, "cpu")
        assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.skipif(bool(cpu.unavailable()), reason=str(cpu.unavailable()))
def test_streams_of_a_call_equal_those_alone():
    """Their parts are in one list, which two threads work off."""
    torch.set_num_threads(2)
    shapes = ((40, 20), (3, 70), (1, 5))
    made = [draw(seed=i, batch=batch, length=length) for i, (batch, length) in enumerate(shapes)]
    A, options = made[0]["A"], Options(softplus=True, state=True)
    streams = [ScanInputs(*(x[k] for k in ("u", "delta", "B", "C"))) for x in made]
    found = cpu.forward(A, streams, options, True)
    dys = [torch.ones_like(y) for y, *_ in found]
    da, gradients = cpu.backward(A, streams, options, [x[2] for x in found], dys, [None] * 3)
    total = torch.zeros_like(da)
    for i, stream in enumerate(streams):
        [alone] = cpu.forward(A, [stream], options, True)
        assert all(torch.equal(a, b) for a, b in zip(alone[:2], found[i][:2], strict=True))
        own, [gradient] = cpu.backward(A, [stream], options, [alone[2]], [dys[i]], [None])
        total += own
        for name in ("u", "delta", "B", "C"):
            assert torch.equal(getattr(gradient, name), getattr(gradients[i], name)), name
    assert torch.allclose(total, da, rtol=1e-5, atol=1e-5)


REFUSING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
int refused = -1; /* asked for and not given; -1: all are given */
int pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*start)(void *), void *given)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)
        = dlsym(RTLD_NEXT, "pthread_create");
    return refused < 0 ? real(id, attributes, start, given) : (refused++, EAGAIN);
}
int full = 0; /* no more than 200 kB at a time: enough for the tensors, not for what a thread works with */
int posix_memalign(void **at, size_t alignment, size_t size)
{
    int (*real)(void **, size_t, size_t) = dlsym(RTLD_NEXT, "posix_memalign");
    return full && size > 200000 ? ENOMEM : real(at, alignment, size);
}
"""


@pytest.mark.skipif(bool(cpu.unavailable()), reason=str(cpu.unavailable()))
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="puts a function of C in front")
def test_without_threads_the_caller_does_it_all_and_without_memory_nobody(tmp_path):
    source, library, script = (tmp_path / name for name in ("refusing.c", "refusing.so", "scan.py"))
    source.write_text(REFUSING)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    script.write_text(
        "import ctypes, sys, torch\n"
        "from mambavl.fuse.scan import selective_scan\n"
        "torch.set_num_threads(3)\n"
        "u = torch.randn(50, 30, 20); b = torch.randn(50, 30, 32); a = -torch.rand(20, 32)\n"
        "run = lambda: selective_scan(u, u, a, b, b, delta_softplus=True, backend='cpu')\n"
        "expected = run()\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "refused, full = (ctypes.c_int.in_dll(library, name) for name in ('refused', 'full'))\n"
        "refused.value = 0\n"
        "print(torch.equal(run(), expected), refused.value)\n"
        "full.value = 1\n"
        "try: run()\n"
        "except MemoryError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, script, library],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = ["True 1", "the scan found no memory for its states"]
    assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stderr[-1000:]


@pytest.mark.skipif(bool(cpu.unavailable()), reason=str(cpu.unavailable()))
def test_an_interrupt_leaves_the_threads_their_memory(tmp_path):
    """Ctrl-C during a scan of two threads ends as KeyboardInterrupt, not in freed memory.

    Scans go on until an interrupt comes through, however late a busy machine lets it come: Python ignores one
    that falls into a destructor, so the next scan waits for another.
    """
    script = tmp_path / "scan.py"
    script.write_text(
        "import _thread, signal, threading, torch\n"
        "from mambavl.fuse.scan import selective_scan\n"
        "torch.set_num_threads(2)\n"
        "u = torch.randn(8, 1500, 512); b = torch.randn(8, 1500, 16); a = -torch.rand(512, 16)\n"
        "stopped, armed = 0, []\n"
        "def stop(*_):\n"
        "    if armed:\n"
        "        armed.clear()\n"
        "        raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "def interrupt(done, pause):\n"
        "    while not done.wait(pause): _thread.interrupt_main()\n"
        "for i in range(6):\n"
        "    done = threading.Event()\n"
        "    thread = threading.Thread(target=interrupt, args=(done, 0.004 * (i + 1)))\n"
        "    thread.start()\n"
        "    try:\n"
        "        while True:\n"
        "            armed[:] = [True]\n"
        "            selective_scan(u, u, a, b, b, delta_softplus=True)\n"
        "    except KeyboardInterrupt: stopped += 1\n"
        "    done.set()\n"
        "    thread.join()\n"
        "print(stopped)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "6"), done.stderr[-1000:]


@pytest.mark.usefixtures("instructions")
def test_powers_and_softplus_are_right_to_the_last_bits():
    """One step from h = 1 with A = x is exp(x); x log2 e is rounded, and so is log2 e, which costs 7.5e-8 x
    at most. One from h = 0 with A = 0 is the softplus of delta.
    """
    x = torch.linspace(-86, 88, 100_003)
    one = torch.ones(1, 1, 1)
    step = {"initial_state": one.expand(1, len(x), 1), "backend": "cpu"}
    u, delta = torch.zeros(1, 1, len(x)), torch.ones(1, 1, len(x))
    found = selective_scan(u, delta, x[:, None], one, one, **step)[0, 0].double()
    error = (found / x.double().exp() - 1).abs()
    assert (error <= 1.8e-7 + 7.5e-8 * x.abs()).all()
    x = torch.linspace(-80, 80, 100_003)
    rest = (torch.zeros(len(x), 1), one, one)
    found = selective_scan(torch.ones(1, 1, len(x)), x[None, None], *rest, delta_softplus=True, backend="cpu")
    exact = x.double().clamp(min=0) + (-x.double().abs()).exp().log1p()
    error = (found[0, 0].double() / exact - 1).abs()
    assert (error <= 3e-7 + 7.5e-8 * x.clamp(max=0).abs()).all()


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("a", [-1e30, -float("inf"), -200.0])
def test_a_state_that_is_forgotten_at_once_is_zero(a):
    """Not NaN, whatever A is; nor is a gradient, unless A is infinite."""
    u, b = torch.full((1, 3, 16), 2.0), torch.ones(1, 3, 2)
    delta = torch.ones(1, 3, 16, requires_grad=True)
    y = selective_scan(u, delta, torch.full((16, 2), a), b, b, backend="cpu")
    assert (y == 4.0).all()  # two states of delta u each
    (gradient,) = torch.autograd.grad(y.sum(), delta)
    assert a == -float("inf") or (gradient == 4.0).all()


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("length", [7, 32, 33, 70])
def test_the_way_back_begins_at_the_state_that_was_given(length):
    """What forward notes holds nothing of the first chunk: there it is the initial state, or zeros."""
    for without in ((), ("initial_state",)):
        x = draw(length=length, channels=37, without=without)
        assert_close(run(x, "cpu"), run(x, "reference", torch.float64))

"""Every backend against the float64 reference: outputs, last states, every gradient, for every option; and
what it must survive.
"""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.scan import assert_close, draw, error, is_interpreted, marked, ours, put, run, short
from mambavl.fuse import scan
from mambavl.fuse.scan import pooled_selective_scan, selective_scan
from mambavl.fuse.scan.inputs import Options

pytestmark = pytest.mark.usefixtures("short_chunks")

FAST = [marked(name) for name in ("chunked", "cpu", "triton")]


LENGTHS = (1, 2, 7, 16, 40, 64, 257, 1569)  # within a chunk of 32, across a border, whole chunks, many
SHORT = (1, 2, 3, 4, 5, 8, 257, 1569)  # the same of chunks of 4, where Triton is interpreted
GRID = [
    marked(name, length, length=length)
    for name in ("chunked", "cpu", "triton")
    for length in (SHORT if is_interpreted(name) else LENGTHS)
]


@pytest.mark.parametrize(("backend", "length"), GRID)
@pytest.mark.parametrize("states", [1, 4, 16])
def test_every_length_and_state_size_gives_the_reference(backend, length, states):
    x = draw(length=length, states=states, channels=21 if length < 300 else 5)
    lengths = torch.tensor([length, length // 2, 0])
    assert_close(run(x, backend, lengths=lengths), run(x, "reference", torch.float64, lengths=lengths))


OPTIONS = list(
    itertools.product(("step", "groups", "constant", "mixed"), (False, True), (False, True), (False, True))
)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("coefficients", "pooled", "zoh", "ragged"), OPTIONS)
def test_every_form_of_the_coefficients_gives_the_reference(backend, coefficients, pooled, zoh, ragged):
    length = short(backend, 37)
    # each group of channels is a program of its own: fewer where Triton is interpreted
    sizes = {"channels": 8, "groups": 2} if is_interpreted(backend) else {}
    x = draw(length=length, coefficients=coefficients, **sizes)
    options = {
        "pooled": pooled,
        "zoh": zoh,
        "lengths": torch.tensor([length, 0, length - 4]) if ragged else None,
    }
    assert_close(run(x, backend, **options), run(x, "reference", torch.float64, **options))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    "without",
    [("D",), ("z",), ("delta_bias",), ("initial_state",), ("D", "z", "delta_bias", "initial_state")],
)
def test_what_is_optional_may_be_left_out(backend, pooled, without):
    x = draw(without=without, length=short(backend, 16))
    assert_close(run(x, backend, pooled=pooled), run(x, "reference", torch.float64, pooled=pooled))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_keep_a_float32_state(backend, dtype):
    x = {k: v.to(dtype) for k, v in draw(length=short(backend, 40)).items()}
    found, expected = run(x, backend), run({k: v.double() for k, v in x.items()}, "reference")
    assert selective_scan(**put(x, backend), delta_softplus=True, backend=backend).dtype == dtype
    assert_close(found, expected, 2e-2, 2e-2)
    assert error(found["last"], expected["last"]) < 1e-5


@pytest.mark.parametrize("backend", FAST)
def test_extreme_values_end_as_the_reference_does(backend):
    """Steps of 50, A from e^-10 to e^10, inputs of 10,000, zeros."""
    x = draw(batch=4, length=short(backend, 9), channels=6, states=4, without=("initial_state",))
    x["A"] = -torch.exp(torch.linspace(-10, 10, 24).view(6, 4))
    x["delta"][0], x["u"][1], x["u"][2], x["delta"][3] = 50.0, 1e4, 0.0, 0.0
    for softplus in (True, False):
        if not softplus:
            x["delta"], x["delta_bias"] = x["delta"].abs(), None
        found, expected = (
            run(x, backend, softplus=softplus),
            run(x, "reference", torch.float64, softplus=softplus),
        )
        assert_close(found, expected)
        assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", ["u", "delta", "B", "C", "z"])
def test_a_nan_stays_in_its_row(backend, name):
    x = draw(length=short(backend, 20))
    x[name][1, 3] = torch.nan
    found, expected = run(x, backend), run(x, "reference", torch.float32)
    for key in ("y", "last", "du", "ddelta", "dB", "dC", "dz", "dinitial_state"):
        assert torch.equal(found[key].isnan(), expected[key].isnan()), key
        assert not found[key][[0, 2]].isnan().any()


@pytest.mark.parametrize("backend", FAST)
def test_padding_splitting_and_the_order_of_a_batch_change_nothing(backend):
    steps, cut = (9, 4) if is_interpreted(backend) else (30, 13)
    x = put(draw(batch=4, length=steps, without=("initial_state",)), backend)
    lengths = torch.tensor([steps, cut - 2, 5, 1], device=x["u"].device)
    y = selective_scan(**x, lengths=lengths, delta_softplus=True, backend=backend)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {k: v[order] if v is not None and v.shape[0] == 4 else v for k, v in x.items()}
    assert torch.equal(
        selective_scan(**shuffled, lengths=lengths[order], delta_softplus=True, backend=backend), y[order]
    )
    for row, length in enumerate(lengths.tolist()):
        alone = {k: v[row : row + 1, :length] if v is not None and v.ndim == 3 else v for k, v in x.items()}
        torch.testing.assert_close(
            selective_scan(**alone, delta_softplus=True, backend=backend)[0], y[row, :length]
        )
        assert not y[row, length:].any()
    state, parts = None, []
    for span in (slice(0, cut), slice(cut, cut + 1), slice(cut + 1, steps)):
        part = {
            k: v[:, span] if v is not None and v.ndim == 3 else v
            for k, v in x.items()
            if k != "initial_state"
        }
        out, state = selective_scan(
            **part, initial_state=state, return_last_state=True, delta_softplus=True, backend=backend
        )
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), selective_scan(**x, delta_softplus=True, backend=backend))


@pytest.mark.parametrize("backend", FAST)
def test_an_empty_batch_and_no_steps_are_no_fault(backend):
    for batch, length in ((0, 5), (3, 0)):
        x = draw(batch=batch, length=length)
        found = run(x, backend)
        assert found["y"].shape == (batch, length, 21)
        if batch:
            torch.testing.assert_close(found["last"].float(), x["initial_state"])


@pytest.mark.parametrize("backend", FAST)
def test_scanning_both_ways_is_two_scans_and_a_flip_within_each_row(backend):
    """Backwards from each row's own end: the reference on rows cut to their length and turned by hand."""
    steps = short(backend, 12)
    x = put(draw(length=steps, without=("initial_state",)), backend)
    lengths = torch.tensor([steps, steps - 2, 0], device=x["u"].device)
    order = torch.arange(steps, device=lengths.device).expand(3, steps)
    order = torch.where(order < lengths[:, None], lengths[:, None] - 1 - order, order)
    turn = lambda v: v.gather(1, order[..., None].expand_as(v)) if v is not None and v.ndim == 3 else v
    y = turn(
        selective_scan(
            **{k: turn(v) for k, v in x.items()}, lengths=lengths, delta_softplus=True, backend=backend
        )
    )
    for row, length in enumerate(lengths.tolist()):
        alone = {
            k: v[row : row + 1, :length].flip(1) if v is not None and v.ndim == 3 else v for k, v in x.items()
        }
        expected = selective_scan(**alone, delta_softplus=True, backend="reference").flip(1)[0]
        torch.testing.assert_close(y[row, :length], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("pooled", [False, True])
def test_streams_that_share_a_give_what_each_gives_alone_and_one_gradient_of_a(backend, pooled):
    """Two streams of different batch, length, and optional inputs, in one call and in one call each."""
    a = draw(channels=20)["A"]
    first, second = (5, 3) if is_interpreted(backend) else (7, 11)
    drawn = [
        draw(batch=3, length=first, channels=20, without=("initial_state",)),
        draw(batch=2, length=second, channels=20, coefficients="groups", groups=2, without=("D", "z")),
    ]
    lengths = [torch.tensor([first, 0, first - 3]), None]

    def run_all(together):
        leaves = {"A": put({"A": a}, backend)["A"].clone().requires_grad_()}
        streams = []
        for number, (x, own) in enumerate(zip(drawn, lengths, strict=True)):
            x = {
                k: None if v is None else v.clone().requires_grad_()
                for k, v in put(x, backend).items()
                if k != "A"
            }
            leaves |= {f"{k}{number}": v for k, v in x.items() if v is not None}
            streams.append(scan.ScanInputs(**x, lengths=own if own is None else own.to(leaves["A"].device)))
        if together:
            options = Options(softplus=True, pooled=pooled)
            found = [y for y, _ in scan._scan(streams, leaves["A"], options, backend)]
        else:
            function = pooled_selective_scan if pooled else selective_scan
            found = [
                function(**s._asdict(), A=leaves["A"], delta_softplus=True, backend=backend) for s in streams
            ]
        total = sum((y.sin() * (i + 1)).sum() for i, y in enumerate(found))
        gradients = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
        return {f"y{i}": y for i, y in enumerate(found)} | gradients

    found, expected = run_all(True), run_all(False)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_the_process_changes_nothing(backend, dtype):
    x = draw(length=5)
    expected = run(x, backend)
    try:
        torch.set_default_dtype(dtype)
        found = run(x, backend)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("backend", FAST)
def test_parameters_may_be_of_another_dtype_than_what_streams_in(backend):
    x = {
        k: v.double() if k in ("D", "delta_bias", "initial_state") else v.bfloat16()
        for k, v in draw(length=5).items()
    }
    x["A"] = x["A"].double()
    assert_close(run(x, backend), run({k: v.double() for k, v in x.items()}, "reference"), 2e-2, 2e-2)


@pytest.mark.shared
@pytest.mark.parametrize("backend", FAST)
def test_recorded_cases_of_the_original(shared, backend):
    folder = shared / "parity" / "mamba"
    tensors = load_file(folder / "selective_scan.safetensors")
    cases = json.loads((folder / "selective_scan.json").read_text())["cases"]
    if is_interpreted(backend):
        cases = [case for case in cases if case["length"] <= 33][::6]
    for case in cases:
        prefix = f"{case['id']}/in."
        raw = put(
            {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}, backend
        )
        grad_out = raw.pop("grad_out").transpose(1, 2)
        x = {k: ours(k, v).clone().requires_grad_() for k, v in raw.items()}
        y, state = selective_scan(
            **x, delta_softplus=case["delta_softplus"], return_last_state=True, backend=backend
        )
        (y * grad_out).sum().backward()
        assert error(y.transpose(1, 2).cpu(), tensors[f"{case['id']}/out64"]) < 1e-5, case
        assert error(state.cpu(), tensors[f"{case['id']}/last_state64"]) < 1e-5, case
        for name, value in x.items():
            assert error(value.grad.cpu(), ours(name, tensors[f"{case['id']}/grad64.{name}"])) < 1e-4, (
                case,
                name,
            )

"""The scan as an operator of PyTorch: compiled, counted, under autocast, of stacked heads; and what it
refuses.
"""

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from helpers.scan import draw, is_interpreted, marked, put
from mambavl.fuse import scan
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.scan import operator, pooled_selective_scan, selective_scan

KERNELS = [marked(name) for name in operator.KERNELS]


@pytest.mark.parametrize("backend", [k for k in KERNELS if k.values[0] != "triton"])
def test_torch_compile_takes_it_whole(backend):
    x = {k: v.requires_grad_() for k, v in draw().items() if v is not None}
    run = lambda **x: pooled_selective_scan(**x, delta_softplus=True, backend=backend).sum()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    gradients = torch.autograd.grad(compiled(**x), list(x.values()))
    assert all(
        torch.equal(a, b)
        for a, b in zip(gradients, torch.autograd.grad(run(**x), list(x.values())), strict=True)
    )
    with torch.no_grad():
        assert torch.equal(compiled(**x), run(**x))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(("pooled", "state"), [(False, True), (True, False)])
def test_its_shapes_are_what_it_promises(backend, pooled, state):
    lengths = (2, 3) if is_interpreted(backend) else (5, 40)  # 40 takes two chunks
    streams = [
        scan.ScanInputs(**{k: v for k, v in put(draw(length=n), backend).items() if k != "A"})
        for n in lengths
    ]
    a = put(draw(), backend)["A"]
    tensors, present = operator._pack(streams)
    arguments = (a, tensors, present, True, False, pooled, state, True, backend)
    torch.library.opcheck(
        torch.ops.mambavl.selective_scan.default, arguments, test_utils=("test_schema", "test_faketensor")
    )
    found = operator.selective_scan(*arguments)
    ys, lasts, checkpoints = found[:2], found[2:4], found[4:]
    assert {last.shape[1] for last in lasts} == {16 if state else 0}
    outer = ([torch.ones_like(y) for y in ys], [c[:, :0, 0] for c in checkpoints], checkpoints)
    torch.library.opcheck(
        torch.ops.mambavl.selective_scan_backward.default,
        (*outer, *arguments[:7], backend),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("coefficients", ["step", "groups", "constant"])
@pytest.mark.parametrize("shared", [(), ("u", "B"), ("A",)])
def test_stacked_heads_are_groups_of_channels(backend, coefficients, shared):
    """vmap, the gradient under vmap, and the gradient through vmap, against a loop over the heads with the
    reference.
    """
    count, steps, groups = (2, 3, 2) if is_interpreted(backend) else (3, 4, 3)
    sizes = {"length": steps, "channels": 6, "states": 4, "coefficients": coefficients, "groups": groups}
    heads = [put(draw(**sizes, seed=seed), backend) for seed in range(count)]
    if coefficients == "groups":
        assert heads[0]["B"].ndim == 4
    lengths = torch.tensor([steps, 0, 2], device=heads[0]["u"].device)
    stacked = {k: heads[0][k] if k in shared else torch.stack([h[k] for h in heads]) for k in heads[0]}
    dims = {k: None if k in shared else 0 for k in heads[0]}

    def of(x, backend=backend):
        y, last = selective_scan(
            **x, lengths=lengths, delta_softplus=True, return_last_state=True, backend=backend
        )
        return y.sin().sum() + last.square().sum()

    expected_of = lambda h: {k: heads[0][k] if k in shared else h[k] for k in h}
    reference = lambda x: of(x, "reference")
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    close(vmap(of, in_dims=(dims,))(stacked), torch.stack([reference(expected_of(h)) for h in heads]))
    inside = vmap(grad(of), in_dims=(dims,))(stacked)
    for number, head in enumerate(heads):
        for name, value in grad(reference)(expected_of(head)).items():
            close(inside[name][number], value)
    leaves = {k: v.clone().requires_grad_() for k, v in stacked.items()}
    through = torch.autograd.grad(vmap(of, in_dims=(dims,))(leaves).sum(), list(leaves.values()))
    for (name, value), found in zip(leaves.items(), through, strict=True):
        total = sum(
            grad(lambda v, h=head, n=name: reference({**expected_of(h), n: v}))(expected_of(head)[name])
            if name in shared
            else torch.zeros(())
            for head in heads
        )
        close(
            found,
            total if name in shared else torch.stack([grad(reference)(expected_of(h))[name] for h in heads]),
        )
        assert found.shape == value.shape


def test_stacked_heads_may_have_lengths_of_their_own():
    x, lengths = draw(length=6, without=("initial_state",)), torch.tensor([[6, 0, 2], [1, 5, 3]])
    run = lambda lengths, x: pooled_selective_scan(**x, lengths=lengths, delta_softplus=True)
    found = vmap(run, in_dims=(0, None))(lengths, x)
    assert torch.equal(found, torch.stack([run(own, x) for own in lengths]))


def test_whole_heads_are_stacked_and_trained_at_once():
    shapes = {"video": StreamShape(width=8), "verb_question": StreamShape(width=6)}
    config = FusionConfig(streams=shapes, targets={"verb": 3, "noun": 4}, d_model=8, d_state=4, dropout=0.0)
    torch.manual_seed(0)
    heads = [SSMFusion(config) for _ in range(3)]
    streams = {
        "video": (torch.randn(2, 5, 8), torch.tensor([5, 3])),
        "verb_question": (torch.randn(2, 4, 6), torch.tensor([0, 4])),
    }
    parameters, buffers = stack_module_state(heads)
    logits = vmap(lambda p, b: functional_call(heads[0], (p, b), (streams,)))(parameters, buffers)
    (logits["verb"].square().sum() + logits["noun"].sin().sum()).backward()
    for number, head in enumerate(heads):
        alone = head(streams)
        torch.testing.assert_close(logits["verb"][number], alone["verb"])
        (alone["verb"].square().sum() + alone["noun"].sin().sum()).backward()
        for name, parameter in head.named_parameters():
            torch.testing.assert_close(parameters[name].grad[number], parameter.grad, rtol=1e-4, atol=1e-5)


def test_operations_are_counted_by_a_formula():
    """Of a batch of 2, 5 steps, 6 channels, 4 states, by hand."""
    x = {
        k: v.requires_grad_()
        for k, v in draw(batch=2, length=5, channels=6, states=4, without=("initial_state",)).items()
        if v is not None
    }
    counter = FlopCounterMode(display=False)
    with counter:
        y = selective_scan(**x, delta_softplus=True)
    assert counter.get_total_flops() == 2 * 5 * 6 * (7 * 4 + 1 + 2 + 5)
    with counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 5 * 6 * (19 * 4 + 5 + 4 + 2 * 4 + 12)


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_autocast_lowers_what_streams_in_and_keeps_parameters_and_states(backend):
    x = put(draw(length=6), backend)
    low = {k: v.bfloat16() if k in ("u", "delta", "z", "B", "C") else v for k, v in x.items()}
    with torch.autocast(x["u"].device.type, dtype=torch.bfloat16):
        y, last = selective_scan(**x, delta_softplus=True, return_last_state=True, backend=backend)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    expected, state = selective_scan(**low, delta_softplus=True, return_last_state=True, backend=backend)
    assert torch.equal(y, expected)
    assert torch.equal(last, state)


@pytest.mark.parametrize("backend", [k for k in KERNELS if k.values[0] != "triton"])
def test_lengths_that_vary_compile_once_for_training_and_once_without_gradients(backend):
    """Shapes stay symbols: in the checks, in the operator's shapes, in its gradient."""
    compiled_graphs = []

    def count(graph, _):
        compiled_graphs.append(graph)
        return graph

    torch._dynamo.reset()
    total = lambda x: pooled_selective_scan(**x, delta_softplus=True, backend=backend).sum()
    compiled = torch.compile(total, fullgraph=True, dynamic=True, backend=count)
    for length in (5, 9, 40, 70, 33, 100):
        x = {k: v.requires_grad_() for k, v in draw(length=length).items()}
        compiled(x).backward()
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), total(x))
    assert len(compiled_graphs) <= 2


def test_a_second_derivative_is_refused_in_words():
    x = {k: v.requires_grad_() for k, v in draw().items() if v is not None}
    [first] = torch.autograd.grad(selective_scan(**x).square().sum(), [x["u"]], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(first.sum(), [x["u"]])

"""mamba-ssm's signature: its own test grid against a float64 loop over steps, and transformers' Mamba."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from mambavl.fuse.scan import compat
from mambavl.fuse.scan.compat import selective_scan_fn

BATCH, CHANNELS, STATES = 2, 4, 8
# of outputs and of gradients, by dtype: those that mamba-ssm's kernel is held to
TOLERANCES = {torch.float32: (6e-4, 2e-3), torch.float16: (3e-3, 5e-3), torch.bfloat16: (3e-2, 5e-2)}
GROUPS = {"constant": 0, "one group": 1, "two groups": 2}


def loop(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """In float64: y (B, D, L) and the last state."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.double()[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    steps = u.shape[2]
    # each (B, D, N, L)
    B, C = (
        x[None, :, :, None].expand(len(u), -1, -1, steps)
        if x.ndim == 2
        else (x if x.ndim == 4 else x[:, None]).repeat_interleave(
            u.shape[1] // (x.shape[1] if x.ndim == 4 else 1), 1
        )
        for x in (B, C)
    )
    h, found = torch.zeros(len(u), *A.shape, dtype=torch.float64), []
    for t in range(steps):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B[..., t]
        found.append((h * C[..., t]).sum(-1))
    y = torch.stack(found, -1)
    y = y if D is None else y + D.double()[:, None] * u
    return (y if z is None else y * F.silu(z.double())), h


def inputs(steps, dtype, of_b, of_c, extras):
    torch.manual_seed(0)

    def varying(groups):
        if not groups:
            return torch.randn(CHANNELS, STATES)
        shape = (BATCH, STATES, steps) if groups == 1 else (BATCH, groups, STATES, steps)
        return torch.randn(shape).to(dtype)

    made = {
        "u": torch.randn(BATCH, CHANNELS, steps).to(dtype),
        "delta": (0.5 * torch.rand(BATCH, CHANNELS, steps)).to(dtype),
        "A": -0.5 * torch.rand(CHANNELS, STATES),
        "B": varying(GROUPS[of_b]),
        "C": varying(GROUPS[of_c]),
        "D": torch.randn(CHANNELS) if extras else None,
        "z": torch.randn(BATCH, CHANNELS, steps).to(dtype) if extras else None,
        "delta_bias": 0.5 * torch.rand(CHANNELS) if extras else None,
    }
    return {name: x if x is None else x.requires_grad_() for name, x in made.items()}


@pytest.mark.parametrize("extras", [True, False], ids=["D, z, bias, softplus", "bare"])
@pytest.mark.parametrize(("of_b", "of_c"), list(itertools.product(GROUPS, GROUPS)), ids=str)
@pytest.mark.parametrize(
    ("steps", "dtype"),
    [
        (1, torch.float32), (128, torch.float32), (300, torch.float32), (128, torch.float16),
        (128, torch.bfloat16),
    ],
    ids=str,
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_the_loop(steps, dtype, of_b, of_c, extras):
    given = inputs(steps, dtype, of_b, of_c, extras)
    expected, last = loop(**given, delta_softplus=extras)
    found, state = selective_scan_fn(**given, delta_softplus=extras, return_last_state=True)
    assert (found.dtype, found.shape, state.dtype) == (dtype, (BATCH, CHANNELS, steps), torch.float32)
    rtol, atol = TOLERANCES[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=atol)
    torch.testing.assert_close(state.double(), last, rtol=rtol, atol=atol)
    direction = torch.randn(expected.shape, dtype=torch.float64)
    tensors = {name: x for name, x in given.items() if x is not None}
    ours = torch.autograd.grad((found.double() * direction).sum(), list(tensors.values()))
    theirs = torch.autograd.grad((expected * direction).sum(), list(tensors.values()))
    for name, one, other in zip(tensors, ours, theirs, strict=True):
        size = float(other.abs().max())
        assert one.dtype == tensors[name].dtype
        assert float((one - other).abs().max()) <= rtol * size + 2 * atol, name


def test_without_the_state_the_output_comes_alone():
    given = inputs(9, torch.float32, "one group", "one group", extras=True)
    alone = selective_scan_fn(**given, delta_softplus=True)
    assert torch.equal(alone, selective_scan_fn(*given.values(), True, True)[0])


@pytest.mark.parametrize("shape", [(3, 70, 64), (1, 5, 3), (0, 4, 2)])
def test_what_is_transposed_has_its_numbers_and_its_gradient(shape):
    """Also half of a wider tensor, stacked by vmap, and compiled."""
    wide = torch.randn(shape[0], 2 * shape[1], shape[2], requires_grad=True)
    for x in (wide, wide[:, : shape[1]], wide.detach().mT.contiguous().mT.requires_grad_()):
        found = compat._Transposed.apply(x)
        assert found.is_contiguous()
        assert torch.equal(found, x.mT)
        dy = torch.randn(found.shape)
        [gradient] = torch.autograd.grad(found, [x], dy)
        assert gradient.is_contiguous()
        assert torch.equal(gradient, dy.mT)
        turned = compat._Turned.apply(x)
        assert torch.equal(turned, x.mT)
        [gradient] = torch.autograd.grad(turned, [x], dy)
        assert gradient.is_contiguous()
        assert torch.equal(gradient, dy.mT)
    stacked = torch.randn(2, *shape)
    assert torch.equal(torch.func.vmap(compat._Transposed.apply)(stacked), stacked.mT)
    compiled = torch.compile(lambda x: compat._Transposed.apply(x) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(wide.detach()), 2 * wide.detach().mT)


def test_complex_states_are_refused():
    given = inputs(3, torch.float32, "constant", "constant", extras=False)
    with pytest.raises(ValueError, match="A is complex"):
        selective_scan_fn(**given | {"A": given["A"].to(torch.complex64)})


def test_transformers_mamba_runs_and_trains_with_it(monkeypatch):
    """The model's own loop on the one hand; logits, gradients and a continued sequence are the same."""
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    if not hasattr(modeling, "mamba_selective_scan"):
        pytest.skip("this version of transformers has no mamba_selective_scan")
    torch.manual_seed(0)
    config = modeling.MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2)
    model = modeling.MambaForCausalLM(config).train()
    words = torch.randint(40, (3, 17))

    def run():
        model.zero_grad()
        out = model(words, labels=words)
        out.loss.backward()
        with torch.no_grad():
            model.eval()
            told = model.generate(words[:1], max_new_tokens=6, do_sample=False, pad_token_id=0)
            model.train()
        return out.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}, told

    logits, gradients, told = run()
    calls = []

    def ours(*args, use_mambapy, use_associative_scan, **keys):
        calls.append(1)
        return selective_scan_fn(*args, **keys)

    monkeypatch.setattr(modeling, "mamba_selective_scan", ours)
    found, own, said = run()
    assert len(calls) >= 4  # two layers, in training and in the prompt
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(said, told)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-5, msg=name)

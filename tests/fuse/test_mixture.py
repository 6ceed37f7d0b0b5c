"""The head with several A matrices.

(What holds for every head: test_fusion.py, test_head.py, test_missing.py; its numbers: test_recipe_keys.py.)
"""

import pytest
import torch

from mambavl.complexity.count import head_cost
from mambavl.configs.errors import UsageError
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape, masked_mean
from mambavl.fuse.mixture import MixtureConfig, MixtureFusion, pooled_scan_by_row
from mambavl.fuse.scan import selective_scan
from mambavl.fuse.scan.inputs import ScanInputs

WIDTHS = {"video": 6, "verb_question": 5, "noun_question": 5}


def settings(**given):
    shapes = {name: StreamShape(width=width) for name, width in WIDTHS.items()}
    common = {"d_model": 8, "d_state": 3, "dropout": 0.0, "targets": {"verb": 3, "noun": 4}}
    return {"streams": shapes, **common, **given}


def build(**given):
    """With large B, C and delta: as it begins, most of an output is D u."""
    torch.manual_seed(0)
    head = MixtureFusion(MixtureConfig(**settings(**given))).double().eval()
    with torch.no_grad():
        for mixer in head.mixer.values():
            mixer.x_proj.weight.mul_(8.0)
            mixer.dt_proj.bias.fill_(1.0)
    return head


def rows():
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, lengths in (("video", [6, 6, 2]), ("verb_question", [3, 0, 6]), ("noun_question", [5, 1, 4])):
        tokens = torch.randn(3, 6, WIDTHS[name], generator=generator, dtype=torch.float64)
        found[name] = tokens, torch.tensor(lengths)
    return found


def mambavl_of(head, number=0):
    """MambaVL's head with the same weights and one of the matrices."""
    config = {key: value for key, value in head.config.model_dump().items() if key != "matrices"}
    found = SSMFusion(FusionConfig(**config)).double().eval()
    state = {name: head.state_dict()[name] for name in found.state_dict()}
    found.load_state_dict(
        {name: one[number] if name.startswith("a_log") else one for name, one in state.items()}
    )
    return found


def assert_alike(head, other):
    expected = other(rows())
    for target, logits in head(rows()).items():
        torch.testing.assert_close(logits, expected[target])


@pytest.mark.parametrize("share", ["A", "none", "all"])
def test_one_matrix_is_mambavls_head(share):
    head = build(matrices=1, share=share)
    assert_alike(head, mambavl_of(head))


def test_equal_matrices_are_one_whatever_the_weights():
    head = build(matrices=3)
    with torch.no_grad():
        head.a_log["shared"].copy_(head.a_log["shared"][1].clone())
    assert_alike(head, mambavl_of(head))


def test_a_row_that_is_sure_has_one_of_the_matrices():
    """A router that reads one channel, many times over: the sign of its mean is the choice."""
    head = build(matrices=2)
    with torch.no_grad():
        for router in head.router.values():
            router.weight.zero_()
            router.weight[0, 0], router.weight[1, 0] = 1e6, -1e6
    given = {"video": rows()["video"]}
    alone = {name: shape for name, shape in head.config.streams.items() if name == "video"}
    config = MixtureConfig(**settings(matrices=2, streams=alone))
    video = MixtureFusion(config).double().eval()
    video.load_state_dict({name: head.state_dict()[name] for name in video.state_dict()})
    scan, _ = video._scan_inputs("video", given)
    chosen = (masked_mean(scan.u, scan.lengths)[:, 0] < 0).long()
    found = video(given)["verb"]
    for number in (0, 1):
        expected = mambavl_of(video, number)(given)["verb"]
        for row in range(3):
            assert torch.allclose(found[row], expected[row]) == (chosen[row] == number)


def test_a_row_chooses_by_its_own_tokens_alone():
    """Whatever stands behind them, and however far."""
    head = build()
    for mixer in head.mixer.values():
        torch.nn.init.constant_(mixer.conv1d.bias, 2.0)  # what padding would be taken for
    padded = {}
    for name, (tokens, lengths) in rows().items():
        padded[name] = torch.cat([tokens, torch.full((3, 4, tokens.shape[2]), 9.0)], 1), lengths
    expected = head(rows())
    for target, logits in head(padded).items():
        torch.testing.assert_close(logits, expected[target], rtol=1e-5, atol=1e-6)


def test_the_matrices_begin_as_multiples_and_the_first_gradient_tells_them_apart():
    head = MixtureFusion(MixtureConfig(**settings(matrices=3))).double()
    states = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for found, factor in zip(torch.exp(head.a_log["shared"]), (0.5, 1.0, 2.0), strict=True):
        torch.testing.assert_close(found, (factor * states).expand(16, 3), rtol=1e-6, atol=0)
    head(rows())["verb"].square().sum().backward()
    gradients = head.a_log["shared"].grad
    assert (gradients[0] - gradients[2]).abs().max() > 1e-3 * gradients.abs().max()
    assert all(router.weight.grad.abs().max() > 0 for router in head.router.values())


def test_the_released_start_draws_each_matrix():
    head = MixtureFusion(MixtureConfig(**settings(matrices=3, init="released")))
    a_log, bound = head.a_log["shared"], (6 / (16 + 3)) ** 0.5
    assert a_log.abs().max() <= bound
    assert not torch.allclose(a_log[0], a_log[1])
    assert all(0.8 * bound < router.weight.abs().max() <= bound for router in head.router.values())


@pytest.mark.parametrize("zoh", [False, True])
@pytest.mark.parametrize("backend", ["reference", "chunked", "cpu"])
def test_rows_with_an_a_each_are_scanned_as_one_by_one(backend, zoh):
    """Outputs and all gradients against a scan of each row by itself; padding holds NaN."""
    generator = torch.Generator().manual_seed(0)
    batch, steps, channels, states, lengths = 3, 5, 4, 2, torch.tensor([5, 0, 3])
    drawn = lambda *shape: torch.randn(*shape, generator=generator, requires_grad=True)
    given = {
        "u": drawn(batch, steps, channels), "delta": drawn(batch, steps, channels),
        "B": drawn(batch, steps, states), "C": drawn(batch, steps, states), "D": drawn(channels),
        "z": drawn(batch, steps, channels), "delta_bias": drawn(channels),
    }  # fmt: skip
    a_log = drawn(batch, channels, states)
    padding = torch.arange(steps) >= lengths[:, None]
    filled = {
        name: x.masked_fill(padding[..., None], torch.nan) if x.ndim == 3 else x for name, x in given.items()
    }
    a = -torch.exp(a_log)
    found = pooled_scan_by_row(ScanInputs(**filled, lengths=lengths), a, zoh=zoh, backend=backend)
    one_by_one = []
    for row, length in enumerate(lengths.tolist()):
        if not length:
            one_by_one.append(torch.zeros(channels))
            continue
        own = {name: x[row : row + 1, :length] if x.ndim == 3 else x for name, x in given.items()}
        y = selective_scan(**own, A=a[row], delta_softplus=True, zoh=zoh, backend="reference")
        one_by_one.append(y[0].mean(0))
    expected = torch.stack(one_by_one)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn(batch, channels, generator=generator)
    leaves = [*given.values(), a_log]
    theirs = torch.autograd.grad((expected * weights).sum(), leaves, retain_graph=True)
    for own, other in zip(torch.autograd.grad((found * weights).sum(), leaves), theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_it_has_matrices_and_a_router_more_and_scans_as_much():
    mixed, one = build(matrices=4), mambavl_of(build(matrices=4))
    assert mixed.num_params() - one.num_params() == 3 * 16 * 3 + 2 * 4 * 16
    tokens = dict.fromkeys(WIDTHS, 5)
    found, plain = head_cost(mixed, tokens), head_cost(one, tokens)
    assert found.scan == plain.scan
    # for each modality's rows: the router, and the mixing of four matrices
    assert found.macs - plain.macs == 3 * (16 * 4 + 4 * 16 * 3)


def test_it_cannot_be_fed_step_by_step():
    with pytest.raises(UsageError, match="depends on the mean of all tokens"):
        build().step(rows())

"""The heads: the paper's parameter counts, and invariances that a wrong mask, route or share would break."""

import math

import pytest
import torch
from safetensors.torch import load_file

from mambavl.configs.errors import UsageError
from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.bidirectional import BidirectionalFusion
from mambavl.fuse.cross import CrossConfig, CrossFusion
from mambavl.fuse.deep import DeepConfig, DeepFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import EK100, StreamShape, masked_mean, routes
from mambavl.fuse.mixture import MixtureConfig, MixtureFusion

WIDTHS = {"video": 12, "verb_question": 6, "noun_question": 6}
SMALL = {"d_model": 8, "targets": {"verb": 5, "noun": 7}, "dropout": 0.0}
HEADS = {
    "mambavl": lambda **kw: SSMFusion(FusionConfig(**SMALL, d_state=3, **kw)),
    "plain": lambda **kw: SSMFusion(FusionConfig(**SMALL, preset="paper", d_state=3, **kw)),
    "bidirectional": lambda **kw: BidirectionalFusion(FusionConfig(**SMALL, d_state=3, **kw)),
    "cross": lambda **kw: CrossFusion(CrossConfig(**SMALL, d_state=3, **kw)),
    "gated": lambda **kw: CrossFusion(CrossConfig(**SMALL, d_state=3, gated=True, **kw)),
    "mixture": lambda **kw: MixtureFusion(MixtureConfig(**SMALL, d_state=3, **kw)),
    "deep": lambda **kw: DeepFusion(DeepConfig(**SMALL, d_state=3, **kw)),
    "mlp": lambda **kw: MLPFusion(MLPConfig(**SMALL, **kw)),
    "transformer": lambda **kw: TransformerFusion(
        TransformerConfig(**SMALL, depth=2, num_heads=2, max_positions=32, **kw)
    ),
    "attentive": lambda **kw: AttentiveFusion(AttentiveConfig(**SMALL, depth=2, num_heads=2, **kw)),
}


def shapes(names=tuple(WIDTHS), width=None):
    return {name: StreamShape(width=width or WIDTHS[name]) for name in names}


def make_streams(names=tuple(WIDTHS), batch=4, length=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    streams = {}
    for i, name in enumerate(names):
        lengths = torch.tensor([length, 3, 1, 5][:batch]) if name != "video" else torch.full((batch,), length)
        tokens = torch.randn(batch, length, WIDTHS[name], generator=generator) + i
        streams[name] = (
            torch.where(torch.arange(length)[None, :, None] < lengths[:, None, None], tokens, 0.0),
            lengths,
        )
    return streams


def build(kind, names=tuple(WIDTHS), **kw):
    torch.manual_seed(0)
    return HEADS[kind](streams=shapes(names), **kw).eval()


@pytest.mark.parametrize("kind", HEADS)
def test_outputs_are_verb_and_noun_logits_and_every_parameter_learns(kind):
    head = build(kind).train()
    out = head(make_streams())
    assert out["verb"].shape == (4, 5)
    assert out["noun"].shape == (4, 7)
    (out["verb"].square().sum() + out["noun"].square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("kind", HEADS)
def test_padding_changes_nothing(kind):
    head, streams = build(kind), make_streams()
    padded = {
        name: (torch.cat([tokens, torch.full((4, 5, tokens.shape[2]), 1e3)], 1), lengths)
        for name, (tokens, lengths) in streams.items()
    }
    # garbage behind every row's end, not only behind the batch's
    for name, (tokens, lengths) in padded.items():
        tokens[torch.arange(tokens.shape[1])[None, :] >= lengths[:, None]] = 1e3
        padded[name] = (tokens, lengths)
    for target, logits in head(streams).items():
        torch.testing.assert_close(head(padded)[target], logits)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("kind", [*HEADS, "counted"])
def test_what_padding_holds_reaches_neither_outputs_nor_gradients(kind, garbage):
    """To the bit as if it held zeros; also where padding counts, as zeros, in the mean (`counted`)."""

    def outputs_and_gradients(fill):
        head = build("mambavl", pad_text_to=9) if kind == "counted" else build(kind)
        filled = {}
        for name, (tokens, lengths) in make_streams().items():
            valid = torch.arange(tokens.shape[1])[None, :, None] < lengths[:, None, None]
            filled[name] = torch.where(valid, tokens, fill), lengths
        out = head(filled)
        (out["verb"].square().sum() + out["noun"].square().sum()).backward()
        return {**out, **{name: p.grad for name, p in head.named_parameters()}}

    expected = outputs_and_gradients(0.0)
    for name, found in outputs_and_gradients(garbage).items():
        assert found.isfinite().all(), name
        assert torch.equal(found, expected[name]), name


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_leaves_the_padding_of_what_it_is_given(kind):
    given = make_streams()
    before = {name: tokens.fill_(7.0).clone() for name, (tokens, _) in given.items()}
    build(kind)(given)
    assert all(torch.equal(given[name][0], before[name]) for name in given)


@pytest.mark.parametrize("kind", HEADS)
def test_rows_do_not_see_each_other(kind):
    head, streams = build(kind), make_streams()
    whole = head(streams)
    for row in range(4):
        alone = head(
            {
                name: (tokens[row : row + 1], lengths[row : row + 1])
                for name, (tokens, lengths) in streams.items()
            }
        )
        torch.testing.assert_close(alone["verb"], whole["verb"][row : row + 1])
        torch.testing.assert_close(alone["noun"], whole["noun"][row : row + 1])


@pytest.mark.parametrize("kind", HEADS)
def test_a_question_reaches_its_own_head_only_unless_both_are_asked_for(kind):
    streams = make_streams()
    changed = {**streams, "verb_question": (streams["verb_question"][0].flip(2), streams["verb_question"][1])}
    head = build(kind)
    assert torch.equal(head(streams)["noun"], head(changed)["noun"])
    assert not torch.equal(head(streams)["verb"], head(changed)["verb"])
    both = build(kind, question_routing="both")
    assert not torch.equal(both(streams)["noun"], both(changed)["noun"])


@pytest.mark.parametrize("kind", ["mambavl", "plain", "bidirectional", "cross", "gated", "mixture"])
def test_empty_questions_equal_video_only(kind):
    head, alone = build(kind), build(kind, ("video",))
    alone.load_state_dict(
        {name: value for name, value in head.state_dict().items() if name in alone.state_dict()}
    )
    streams = make_streams()
    empty = {
        name: (tokens[:, :0], lengths * 0) if name != "video" else (tokens, lengths)
        for name, (tokens, lengths) in streams.items()
    }
    expected = alone({"video": streams["video"]})
    for target, logits in head(empty).items():
        torch.testing.assert_close(logits, expected[target])


def test_the_released_head_has_the_papers_parameters():
    """148M -> 157M in Table 4: 1,771,008 text MLP + 2 x 3,746,304 mixers + 24,576 shared A."""
    names = tuple(WIDTHS)
    with torch.device("meta"):
        head = SSMFusion(FusionConfig(preset="released", init="mamba", streams=shapes(names, 768)))
    assert head.num_params(heads=False) == 9_288_192
    assert sum(p.numel() for p in head.project["text"].parameters()) == 1_771_008
    assert (
        sum(p.numel() for p in head.mixer["video"].parameters()) + head.d_skip["video"].numel() == 3_746_304
    )
    assert head.a_log["shared"].numel() == 24_576


def test_pre_logits_are_a_linear_and_a_tanh_on_every_video_token():
    """The head that has them, and one without that is fed what they give. They are drawn like the rest."""
    d = SMALL["d_model"]
    settings = {**SMALL, "streams": shapes(width=d), "preset": "released"}
    head = SSMFusion(FusionConfig(pre_logits=True, **settings)).eval()
    alone = SSMFusion(FusionConfig(**settings)).eval()
    layer, tanh = head.project["video"]
    assert isinstance(tanh, torch.nn.Tanh)
    assert 0.5 * (6 / (2 * d)) ** 0.5 < layer.weight.abs().max() <= (6 / (2 * d)) ** 0.5
    assert not layer.bias.any()
    torch.nn.init.normal_(layer.bias)
    state = head.state_dict()
    alone.load_state_dict({name: state[name] for name in alone.state_dict()})
    assert state.keys() - alone.state_dict().keys() == {"project.video.0.weight", "project.video.0.bias"}
    tokens, lengths = torch.randn(2, 5, d), torch.tensor([5, 3])
    streams = dict.fromkeys(WIDTHS, (tokens, lengths))
    seen = {**streams, "video": (torch.tanh(tokens @ layer.weight.T + layer.bias), lengths)}
    for target, logits in alone(seen).items():
        torch.testing.assert_close(head(streams)[target], logits)


def test_sharing_adds_and_removes_exactly_what_it_says():
    kw = {"d_model": 768, "streams": shapes(width=768)}
    with torch.device("meta"):
        count = {
            share: SSMFusion(FusionConfig(share=share, **kw)).num_params()
            for share in ("none", "A", "A+D", "all")
        }
    assert count["none"] - count["A"] == 24_576
    assert count["A"] - count["A+D"] == 1_536
    assert count["A+D"] - count["all"] == 3_746_304 - 1_536


def test_a_gets_its_gradient_from_every_modality():
    streams = make_streams()
    head = build("mambavl")

    def gradient(used):
        head.zero_grad()
        given = {
            n: (t if n in used else t[:, :0], ln if n in used else ln * 0) for n, (t, ln) in streams.items()
        }
        out = head(given)
        (out["verb"].sum() + out["noun"].sum()).backward()
        return head.a_log["shared"].grad.clone()

    parts = [gradient({name}) for name in WIDTHS]
    assert all(part.abs().max() > 0 for part in parts)
    torch.testing.assert_close(gradient(set(WIDTHS)), sum(parts))


def test_the_pooled_path_equals_projecting_every_step_and_then_averaging():
    """out_proj and mean commute: the head projects one vector in place of L."""
    head = build("mambavl")
    x, lengths = torch.randn(4, 6, 8), torch.tensor([6, 3, 0, 5])
    a, d_skip = -torch.exp(head.a_log["shared"]), head.d_skip["video"]
    mixer = head.mixer["video"]
    mean = head._means({"video": mixer.scan_inputs(x, lengths, d_skip)})["video"]
    torch.testing.assert_close(mixer.out_proj(mean), masked_mean(mixer(x, lengths, a, d_skip), lengths))


def test_a_mixer_begins_as_mambas_does():
    """Gu and Dao (2023), section 3.6: softplus(bias) is log-uniform from 0.001 to 0.1, the projection of rank
    R uniform within 1 / sqrt(R), D is 1. 2,048 channels: extremes, and means within 4 standard errors.
    """
    torch.manual_seed(0)
    head = SSMFusion(FusionConfig(d_model=256, expand=8, streams={"video": StreamShape(width=4)}))
    head.requires_grad_(False)
    assert torch.equal(head.d_skip["video"], torch.ones(2048))
    projection = head.mixer["video"].dt_proj
    steps = torch.nn.functional.softplus(projection.bias.double()).log()
    low, high = math.log(0.001), math.log(0.1)
    assert low - 1e-3 < steps.min() < low + 0.05
    assert high - 0.05 < steps.max() < high + 1e-3
    error = (high - low) / math.sqrt(12 * 2048)
    assert float(steps.mean()) == pytest.approx((low + high) / 2, abs=4 * error)
    assert projection.weight.shape == (2048, 16)
    assert 0.24 < projection.weight.min().abs() <= 0.25
    assert 0.24 < projection.weight.max() <= 0.25
    assert float(projection.weight.mean()) == pytest.approx(0, abs=4 * 0.5 / math.sqrt(12 * 2048 * 16))


def test_released_initialisation_overwrites_the_spectrum_and_ours_keeps_it():
    streams = shapes(width=64)
    ours = SSMFusion(FusionConfig(d_model=64, streams=streams))
    torch.testing.assert_close(torch.exp(ours.a_log["shared"])[0], torch.arange(1.0, 17))
    steps = torch.nn.functional.softplus(ours.mixer["video"].dt_proj.bias)
    assert steps.min() > 9e-5
    assert steps.max() < 0.11
    theirs = SSMFusion(FusionConfig(preset="released", d_model=64, streams=streams))
    assert (torch.exp(theirs.a_log["shared"]) - 1).abs().max() < 0.35
    assert not theirs.mixer["video"].dt_proj.bias.any()
    assert not theirs.project["text"][2].bias.any()


def test_released_counts_padding_and_says_so_by_its_knob():
    config = FusionConfig(preset="released", init="mamba", **{**SMALL, "d_model": 6}, streams=shapes(width=6))
    torch.manual_seed(0)
    head = SSMFusion(config).eval()
    tokens, lengths = torch.randn(2, 4, 6), torch.tensor([4, 2])
    tokens[1, 2:] = 0.0
    streams = dict.fromkeys(WIDTHS, (tokens, lengths))
    assert config.pad_text_to == 40
    out = head(streams)["verb"]
    longer = {**streams, "verb_question": (tokens, torch.tensor([4, 4]))}
    # the length of the text plays no part: all 40 positions count
    assert torch.equal(head(longer)["verb"], out)


@pytest.mark.parametrize("kind", ["mambavl", "plain"])
def test_bfloat16_autocast_stays_near_float32(kind):
    head, streams = build(kind), make_streams()
    exact = head(streams)["verb"]
    with torch.autocast("cpu", torch.bfloat16):
        fast = head(streams)["verb"]
    assert (fast.float() - exact).abs().max() / exact.abs().max() < 3e-2


def test_any_number_of_streams_and_a_third_modality():
    names = {"video": 12, "audio": 4, "verb_question": 6, "noun_question": 6}
    head = SSMFusion(
        FusionConfig(**SMALL, d_state=3, streams={n: StreamShape(width=w) for n, w in names.items()})
    )
    streams = {n: (torch.randn(2, 3, w), torch.tensor([3, 2])) for n, w in names.items()}
    assert head(streams)["verb"].shape == (2, 5)
    assert set(head.mixer) == {"video", "audio", "text"}
    assert routes(names, EK100, "per_question") == {
        "verb": ["video", "audio", "verb_question"],
        "noun": ["video", "audio", "noun_question"],
    }


def test_wrong_streams_and_widths_are_named():
    head, streams = build("mambavl"), make_streams()
    with pytest.raises(ValueError, match="built for the streams"):
        head({"video": streams["video"]})
    with pytest.raises(ValueError, match=r"stream video: expected \(B, L, 12\)"):
        head({**streams, "video": streams["verb_question"]})
    with pytest.raises(UsageError, match=r"video features have 12 channels and d_model is 8"):
        build("mambavl", video_mlp_layers=0)
    with pytest.raises(UsageError, match="need one encoder"):
        SSMFusion(
            FusionConfig(
                streams={"verb_question": StreamShape(width=4), "noun_question": StreamShape(width=5)}
            )
        )
    with pytest.raises(UsageError, match="no stream reaches the noun head"):
        build("mambavl", ("verb_question",))
    with pytest.raises(UsageError, match=r"head\.d_model = 9 is no multiple of transformer\.num_heads = 4"):
        TransformerFusion(TransformerConfig(**{**SMALL, "d_model": 9}, streams=shapes()))


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_our_mixer_with_the_originals_weights_is_the_originals_block(shared, dtype):
    """Outputs and every gradient of a recorded Mamba block."""
    tensors = load_file(shared / "parity" / "mamba" / "mamba_block.safetensors")
    state = {k.removeprefix("state/"): v.to(dtype) for k, v in tensors.items() if k.startswith("state/")}
    config = FusionConfig(
        d_model=32, d_state=8, streams={"video": StreamShape(width=32)}, video_mlp_layers=0, input_norm=False
    )
    head = SSMFusion(config).to(dtype)
    mixer, a_log, d_skip = head.mixer["video"], head.a_log["shared"], head.d_skip["video"]
    with torch.no_grad():
        a_log.copy_(state.pop("A_log"))
        d_skip.copy_(state.pop("D"))
    mixer.load_state_dict(state)
    x = tensors["input/hidden_states"].to(dtype).requires_grad_()
    y = mixer(x, None, -torch.exp(a_log), d_skip)
    (y * tensors["input/grad_output"].to(dtype)).sum().backward()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    expected = tensors["output64/hidden_states"]
    assert ((y - expected).abs().max() / expected.abs().max()).item() < tolerance
    gradients = {
        "input": x.grad,
        "A_log": a_log.grad,
        "D": d_skip.grad,
        **{n: p.grad for n, p in mixer.named_parameters()},
    }
    for name, gradient in gradients.items():
        expected = tensors[f"grad64/{name}"]
        assert ((gradient - expected).abs().max() / expected.abs().max()).item() < tolerance, name

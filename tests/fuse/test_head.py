"""What heads share: which parameters train how, routes, names of streams, projections, masked means."""

import numpy as np
import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.fuse import baselines
from mambavl.fuse import head as head_module
from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.dropout import row_keys
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import (
    EK100,
    HeadConfig,
    StreamShape,
    check_stream_name,
    masked_mean,
    modalities_of,
    modality_of,
    projection,
    routes,
)
from mambavl.fuse.idle import SSM_HEADS
from mambavl.fuse.recipe import HEADS

STREAMS = {"video": StreamShape(width=6), "verb_question": StreamShape(width=5)}
SIZES = {"streams": STREAMS, "d_model": 4, "targets": {"verb": 3, "noun": 4}}
# of the projections and classifiers, which every head has: (of an SSM, decays) -> names
COMMON = {
    (False, True): {
        "project.video.1.weight", "project.video.3.weight", "project.text.1.weight", "project.text.3.weight",
        "verb_head.weight", "noun_head.weight",
    },
    (False, False): {
        "project.video.0.weight", "project.video.0.bias", "project.video.1.bias", "project.video.3.bias",
        "project.text.0.weight", "project.text.0.bias", "project.text.1.bias", "project.text.3.bias",
        "verb_head.bias", "noun_head.bias",
    },
}  # fmt: skip
BLOCK = "blocks.0."
MODALITIES = ("video", "text")


def place(direction, part, modality):
    """`backward_mixer.video`, but `layer.video.0.mixer`."""
    return f"layer.{modality}.0.{part}" if direction == "layer." else f"{direction}{part}.{modality}"


def of_ssm(*directions, matrices=()):
    """The parameters of SSMs that share A, and other matrices of theirs."""
    mixers = [
        place(direction, "mixer", modality) + "." for direction in directions for modality in MODALITIES
    ]
    parts = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
    return {
        (True, True): {*(f"{mixer}{part}.weight" for mixer in mixers for part in parts), *matrices},
        (True, False): {
            "a_log.shared",
            *(place(direction, "d_skip", modality) for direction in directions for modality in MODALITIES),
            *(mixer + part for mixer in mixers for part in ("conv1d.bias", "dt_proj.bias")),
        },
    }


OWN = {
    "mambavl": of_ssm(""),
    "bidirectional": of_ssm("", "backward_"),
    "cross": of_ssm(""),
    "deep": {
        # the last layer is as in the others, the one before has a norm besides
        (True, True): of_ssm("", "layer.")[True, True],
        (True, False): of_ssm("", "layer.")[True, False],
        (False, False): {
            f"layer.{modality}.0.norm.{kind}" for modality in MODALITIES for kind in ("weight", "bias")
        },
    },
    "mixture": of_ssm("", matrices=[f"router.{modality}.weight" for modality in MODALITIES]),
    "mlp": {
        (False, True): {"fuser.0.weight", "fuser.2.weight"},
        (False, False): {"fuser.0.bias", "fuser.2.bias"},
    },
    "transformer": {
        (False, True): {BLOCK + f"{part}.weight" for part in ("qkv", "proj", "mlp.0", "mlp.2")},
        (False, False): {
            "cls_token.video", "cls_token.text", "type_token.video", "type_token.text",
            "position.video", "position.text",
            *(BLOCK + f"{part}.{kind}" for part in ("norm1", "norm2") for kind in ("weight", "bias")),
            *(BLOCK + f"{part}.bias" for part in ("proj", "mlp.0", "mlp.2")),
        },
    },
    "attentive": {
        (False, True): {
            f"pool.{part}.weight" for part in ("queries", "keys", "values", "proj", "mlp.0", "mlp.2")
        },
        (False, False): {
            "query.verb", "query.noun", "type_token.video", "type_token.text",
            "position.video", "position.text",
            *(f"pool.{part}.{kind}" for part in ("norm1", "norm2") for kind in ("weight", "bias")),
            *(f"pool.{part}.bias" for part in ("queries", "values", "proj", "mlp.0", "mlp.2")),
        },
    },
}  # fmt: skip


def build(kind, **options):
    """A small head; what only the Transformer has is left out of the others'."""
    own = {"depth": 1, "num_heads": 2, "max_positions": 8, "block_dropout": 0.0}
    own |= {name: options.pop(name) for name in own.keys() & options}
    sizes = {**SIZES, **options}
    if kind in SSM_HEADS:
        head, config = HEADS[kind]
        return head(config(**sizes, d_state=2))
    streams = {**STREAMS, "noun_question": StreamShape(width=5)}
    if kind == "mlp":
        return MLPFusion(MLPConfig(**{**sizes, "streams": streams}))
    if kind == "attentive":
        del own["block_dropout"]
        return AttentiveFusion(AttentiveConfig(**sizes, **own))
    return TransformerFusion(TransformerConfig(**sizes, **own))


def named_groups(head, **options):
    """(of an SSM, decays) -> names of parameters."""
    names = {parameter: name for name, parameter in head.named_parameters()}
    found = {}
    for group in head.parameter_groups(**options):
        found[group.is_ssm, group.decays] = [names[parameter] for parameter in group.parameters]
    return found


@pytest.mark.parametrize("kind", OWN)
def test_each_parameter_is_in_the_one_group_where_it_belongs(kind):
    expected = {key: set(COMMON.get(key, ())) | OWN[kind].get(key, set()) for key in [*COMMON, *OWN[kind]]}
    found = named_groups(build(kind))
    assert {key: set(names) for key, names in found.items()} == expected


@pytest.mark.parametrize("kind", OWN)
def test_no_parameter_is_in_two_groups_or_in_none(kind):
    head = build(kind)
    found = [name for names in named_groups(head).values() for name in names]
    assert sorted(found) == sorted(name for name, _ in head.named_parameters())


@pytest.mark.parametrize("kind", OWN)
def test_all_parameters_decay_where_that_is_asked_for(kind):
    head = build(kind)
    found = named_groups(head, decay_all=True)
    assert all(decays for _, decays in found)
    ssm = {name for (is_ssm, _), names in OWN[kind].items() if is_ssm for name in names}
    assert set(found.get((True, True), ())) == ssm


@pytest.mark.parametrize("share", ["A", "none", "A+D", "all"])
def test_whatever_is_shared_the_ssm_trains_at_its_own_rate(share):
    head = SSMFusion(FusionConfig(**SIZES, d_state=2, share=share))
    of_ssm = {name for (is_ssm, _), names in named_groups(head).items() if is_ssm for name in names}
    expected = [
        name for name, _ in head.named_parameters() if name.split(".")[0] in ("mixer", "a_log", "d_skip")
    ]
    assert of_ssm == set(expected)


def scored_in_bfloat16(kind, rows, **options):
    torch.manual_seed(0)
    head = build(kind, **options).eval()
    lengths = torch.full((rows,), 3)
    streams = {}
    for name, shape in head.config.streams.items():
        streams[name] = torch.randn(rows, 3, shape.width), lengths
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scored, trained = head(streams), head.train()(streams)
    return scored, trained


@pytest.mark.parametrize("kind", OWN)
def test_logits_are_float32_when_scored_under_autocast_and_as_ever_when_trained(kind):
    scored, trained = scored_in_bfloat16(kind, 4, dropout=0.0)
    for target in ("verb", "noun"):
        assert scored[target].dtype == torch.float32
        assert trained[target].dtype == torch.bfloat16
        torch.testing.assert_close(scored[target], trained[target].float(), rtol=2e-2, atol=2e-2)


def test_logits_of_many_classes_do_not_tie_when_scored_under_autocast():
    """1,000 rows of 300 classes: in bfloat16 the best logit is shared in several rows."""
    scored, trained = scored_in_bfloat16("mlp", 1000, targets={"verb": 3, "noun": 300})
    ties = {}
    for name, logits in (("scored", scored["noun"]), ("trained", trained["noun"])):
        ties[name] = int(((logits == logits.amax(1, keepdim=True)).sum(1) > 1).sum())
    assert ties["scored"] == 0
    assert ties["trained"] > 5


@pytest.mark.parametrize("kind", OWN)
def test_a_head_in_double_precision_scores_in_it(kind):
    head = build(kind).double().eval()
    streams = {
        name: (torch.randn(2, 3, shape.width, dtype=torch.float64), torch.tensor([3, 2]))
        for name, shape in head.config.streams.items()
    }
    assert head(streams)["verb"].dtype == torch.float64


def rows_of(head, count, length=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(count, length, shape.width, generator=generator), torch.full((count,), 3))
        for name, shape in head.config.streams.items()
    }


@pytest.mark.parametrize("kind", OWN)
def test_a_row_is_dropped_the_same_in_any_batch_and_with_any_padding(kind):
    """With all streams in one sequence, so that what stands behind padding is read as well."""
    torch.manual_seed(0)
    head = build(kind, depth=2, dropout=0.4, block_dropout=0.4, question_routing="both").train()
    streams, keys = rows_of(head, 6), row_keys(0, 0, np.arange(6))
    whole = head(streams, keys)
    some = {
        name: (torch.cat([tokens[2:4], torch.zeros(2, 2, tokens.shape[2])], 1), lengths[2:4])
        for name, (tokens, lengths) in streams.items()
    }
    for target, logits in head(some, keys[2:4]).items():
        torch.testing.assert_close(logits, whole[target][2:4])
        assert not torch.allclose(whole[target], head(streams, row_keys(0, 1, np.arange(6)))[target])


@pytest.mark.parametrize("kind", OWN)
def test_training_without_keys_draws_them_and_evaluation_drops_nothing(kind):
    head = build(kind, dropout=0.4, block_dropout=0.4)
    streams = rows_of(head, 4)
    torch.manual_seed(1)
    first, second = head(streams)["verb"], head(streams)["verb"]
    assert not torch.allclose(first, second)
    torch.manual_seed(1)
    assert torch.equal(head(streams)["verb"], first)
    head.eval()
    scored = head(streams)["verb"]
    assert torch.equal(head(streams, row_keys(0, 0, np.arange(4)))["verb"], scored)
    torch.testing.assert_close(build_alike(kind, head)(streams)["verb"], scored)


def build_alike(kind, head):
    """The same weights in a head without dropout, in training."""
    alike = build(kind, dropout=0.0, block_dropout=0.0)
    alike.load_state_dict(head.state_dict())
    return alike.train()


@pytest.mark.parametrize("kind", OWN)
def test_every_place_in_a_head_has_a_mask_of_its_own(kind, monkeypatch):
    """Each classifier, and per target each of the two dropouts of each block."""
    seen = []

    def record(x, p, keys):
        if p:
            seen.append((p, tuple(keys.flatten().tolist())))
        return x

    for module in (head_module, baselines):
        monkeypatch.setattr(module, "dropout", record)
    head = build(kind, depth=3, dropout=0.4, block_dropout=0.4).train()
    head(rows_of(head, 2), row_keys(0, 0, np.arange(2)))
    inside = 2 * 2 * 3 if kind == "transformer" else 0
    assert len(seen) == len(set(seen)) == 2 + inside
    assert {p for p, _ in seen} == {0.4}


def test_heads_without_an_ssm_name_no_scan_backend():
    for kind in OWN:
        found = build(kind).scan_backend
        assert found in ("cpu", "chunked") if kind in SSM_HEADS else found is None


def test_a_question_goes_to_its_own_classifier_and_all_else_to_both():
    names = ["video", "verb_question", "audio", "noun_question"]
    assert routes(names, EK100, "per_question") == {
        "verb": ["video", "verb_question", "audio"],
        "noun": ["video", "audio", "noun_question"],
    }
    assert routes(names, EK100, "both") == {"verb": names, "noun": names}
    with pytest.raises(UsageError, match="no stream reaches the verb head; streams: noun_question"):
        routes(["noun_question"], EK100, "per_question")


@pytest.mark.parametrize("name", ["video", "audio", "hands", "verb_question", "gaze2"])
def test_any_identifier_names_a_stream(name):
    check_stream_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vidoe", "did you mean `video`"),
        ("verb_questions", "did you mean `verb_question`"),
        ("2nd", "made of letters"),
        ("a b", "made of letters"),
    ],
)
def test_a_near_miss_of_a_known_stream_is_refused(name, says):
    with pytest.raises(UsageError, match=says):
        check_stream_name(name)


def test_questions_are_text_and_other_streams_are_their_own_modality():
    assert [modality_of(name) for name in ("verb_question", "noun_question", "audio")] == [
        "text",
        "text",
        "audio",
    ]
    config = HeadConfig(streams={**STREAMS, "hands": StreamShape(width=6, modality="video")})
    assert modalities_of(config.streams) == {"video": 6, "text": 5}


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_projection_ends_at_the_heads_width_without_a_relu(layers):
    config = HeadConfig(d_model=4, video_mlp_layers=layers, input_norm=False)
    project = projection(config, "video", 6)
    assert project(torch.randn(64, 6)).min() < 0
    linears = [part for part in project if isinstance(part, torch.nn.Linear)]
    assert [part.in_features for part in linears] == [6, 4, 4][:layers]
    assert [part.bias is not None for part in linears] == (
        [False, True, True] if layers == 3 else [True] * layers
    )


def test_without_a_projection_the_features_have_the_heads_width():
    config = HeadConfig(d_model=6, video_mlp_layers=0, input_norm=False)
    x = torch.randn(2, 3, 6)
    assert torch.equal(projection(config, "video", 6)(x), x)
    with pytest.raises(UsageError, match=r"set head\.d_model = 5, or head\.video_mlp_layers to 1 or more"):
        projection(config, "video", 5)


def test_a_masked_mean_counts_the_valid_tokens_alone():
    tokens = torch.tensor([[[1.0], [3.0], [torch.nan]], [[torch.nan], [torch.nan], [torch.nan]]])
    assert masked_mean(tokens, torch.tensor([2, 0])).tolist() == [[2.0], [0.0]]

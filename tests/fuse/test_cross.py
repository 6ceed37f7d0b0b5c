"""The head whose modalities read each other.

(What holds for every head: test_fusion.py, test_head.py, test_missing.py; its numbers: test_recipe_keys.py;
what it can learn that a sum cannot: test_planted.py.)
"""

import pytest
import torch

from mambavl.complexity.count import head_cost
from mambavl.configs.errors import UsageError
from mambavl.fuse.cross import CrossConfig, CrossFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import ABSENT, StreamShape, without_padding

WIDTHS = {"video": 6, "verb_question": 5, "noun_question": 5, "audio": 4}
QUESTIONS = ("video", "verb_question", "noun_question")


def settings(names=QUESTIONS, **given):
    shapes = {name: StreamShape(width=WIDTHS[name]) for name in names}
    common = {"d_model": 8, "d_state": 3, "dropout": 0.0, "targets": {"verb": 3, "noun": 4}}
    return {"streams": shapes, **common, **given}


def build(names=QUESTIONS, **given):
    """With large B, C and delta: as it begins, most of an output is D u."""
    torch.manual_seed(0)
    head = CrossFusion(CrossConfig(**settings(names, **given))).double().eval()
    with torch.no_grad():
        for mixer in head.mixer.values():
            mixer.x_proj.weight.mul_(8.0)
            mixer.dt_proj.bias.fill_(1.0)
    return head


def mambavl_of(head):
    """MambaVL's head with the same weights."""
    config = {key: value for key, value in head.config.model_dump().items() if key != "gated"}
    found = SSMFusion(FusionConfig(**config)).double().eval()
    found.load_state_dict({name: head.state_dict()[name] for name in found.state_dict()})
    return found


def rows(names=QUESTIONS, **lengths):
    generator = torch.Generator().manual_seed(1)
    given = {"video": [6, 6, 2], "verb_question": [3, 3, 1], "noun_question": [5, 1, 4], "audio": [2, 3, 6]}
    found = {}
    for name in names:
        tokens = torch.randn(3, 6, WIDTHS[name], generator=generator, dtype=torch.float64)
        found[name] = tokens, torch.tensor(lengths.get(name, given[name]))
    return found


def fused(head, streams):
    return head.fuse(without_padding(streams))


@pytest.mark.parametrize("gated", [False, True])
def test_alone_a_stream_reads_itself_as_in_mambavls_head(gated):
    head = build(("video",), gated=gated)
    for target, vector in fused(mambavl_of(head), rows(("video",))).items():
        torch.testing.assert_close(fused(head, rows(("video",)))[target], vector)


@pytest.mark.parametrize("length", [0, ABSENT])
@pytest.mark.parametrize("gated", [False, True])
def test_a_row_without_the_other_reads_itself_beside_rows_that_are_read(gated, length):
    head = build(gated=gated)
    streams = rows(verb_question=[3, length, 1])
    found, plain = fused(head, streams)["verb"], fused(mambavl_of(head), streams)["verb"]
    torch.testing.assert_close(found[1], plain[1])
    assert (found[[0, 2]] - plain[[0, 2]]).abs().amax(1).min() > 1e-4


def test_an_open_gate_swaps_a_closed_one_does_not_and_it_begins_half_open():
    """An output is linear in C, so half of one and half of the other is their mean."""
    swapped = build()
    own, other = fused(mambavl_of(swapped), rows()), fused(swapped, rows())
    for bias, share in ((-60.0, 0.0), (60.0, 1.0), (0.0, 0.5)):
        head = build(gated=True)
        head.load_state_dict({**head.state_dict(), **swapped.state_dict()})
        for gate in head.gate.values():
            assert not any(parameter.any() for parameter in gate.parameters())  # as it begins
            torch.nn.init.constant_(gate.bias, bias)
        for target, vector in fused(head, rows()).items():
            torch.testing.assert_close(vector, (1 - share) * own[target] + share * other[target])


def test_a_video_is_read_by_the_question_of_the_target():
    """The text's own outputs are silenced, so that a question acts through the video's read-out alone."""
    head = build()
    with torch.no_grad():
        head.mixer["text"].out_proj.weight.zero_()
    before, streams = fused(head, rows()), rows()
    streams["verb_question"][0][0] *= -1.0
    after = fused(head, streams)
    assert not torch.allclose(after["verb"][0], before["verb"][0])
    assert torch.equal(after["verb"][1:], before["verb"][1:])
    assert torch.equal(after["noun"], before["noun"])


def test_two_videos_read_the_same_question_each_in_its_own_way():
    """Equal questions are projected once, and still read out by each row's own video."""
    head, streams = build(), rows(verb_question=[3, 3, 3])
    streams["verb_question"][0][1] = streams["verb_question"][0][0]
    with torch.no_grad():
        head.mixer["video"].out_proj.weight.zero_()
    found = fused(head, streams)["verb"]
    assert not torch.allclose(found[0], found[1])
    alone = {name: (tokens[1:2], lengths[1:2]) for name, (tokens, lengths) in streams.items()}
    torch.testing.assert_close(fused(head, alone)["verb"], found[1:2])


def test_three_modalities_are_each_read_by_the_mean_of_the_others():
    names = ("video", "verb_question", "audio")
    head, streams = build(names, targets={"verb": 3}), rows(names, audio=[2, 0, 6])
    with torch.no_grad():
        for modality in ("text", "audio"):
            head.mixer[modality].out_proj.weight.zero_()
    given = without_padding(streams)
    inputs = {m: head._scan_inputs(m, given)[0] for m in head.modalities}
    found = fused(head, streams)["verb"]
    for row in range(3):
        said = []
        for m in ("text", "audio"):
            own = inputs[m].C[row, : inputs[m].lengths[row]]
            said += [own.mean(0)] if len(own) else []
        read_out = (sum(said) / len(said)).expand(1, 6, -1)
        video = inputs["video"]
        scan = {}
        for field, value in video._asdict().items():
            scan[field] = value if value is None or field in ("D", "delta_bias") else value[row : row + 1]
        mean = head._means({"video": type(video)(**{**scan, "C": read_out})})["video"]
        torch.testing.assert_close(head.mixer["video"].out_proj(mean), found[row : row + 1])


@pytest.mark.parametrize(
    ("given", "readings"),
    [({}, 2 + 2), ({"question_routing": "both"}, 1 + 2), ({"names": ("video",)}, 1)],
)
def test_a_stream_is_scanned_once_for_each_set_of_others_that_reads_it(given, readings):
    """Counted in steps of its scan, 5 a stream, with 7 operations a state and 8 a channel besides."""
    head = build(**given)
    cost = head_cost(head, dict.fromkeys(head.config.streams, 5))
    assert cost.scan == readings * 5 * head.config.d_inner * (7 * 3 + 8)


def test_it_has_a_gate_for_each_modality_and_nothing_else_more():
    swapped, gated = build(), build(gated=True)
    assert swapped.num_params() == mambavl_of(swapped).num_params()
    assert gated.num_params() - swapped.num_params() == 2 * (16 * 3 + 3)
    of_ssm = {
        parameter for group in gated.parameter_groups() if group.is_ssm for parameter in group.parameters
    }
    assert {*gated.gate.parameters()} <= of_ssm


def test_it_cannot_be_fed_step_by_step():
    with pytest.raises(UsageError, match="read out by the whole of another"):
        build().step(rows())

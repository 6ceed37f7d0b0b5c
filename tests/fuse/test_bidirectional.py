"""The head that reads both ways.

(What holds for every head: test_fusion.py, test_head.py, test_missing.py; its numbers: test_recipe_keys.py.)
"""

import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.fuse.bidirectional import BidirectionalFusion, reversed_rows
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import ABSENT, StreamShape

WIDTHS = {"video": 6, "verb_question": 5, "noun_question": 5}


def build(kind=BidirectionalFusion, **settings):
    torch.manual_seed(0)
    shapes = {name: StreamShape(width=width) for name, width in WIDTHS.items()}
    given = {"d_model": 8, "d_state": 3, "dropout": 0.0, "targets": {"verb": 3, "noun": 4}, **settings}
    return kind(FusionConfig(streams=shapes, **given)).eval()


def rows():
    """Video of 6, 6 and 2 steps; questions of other lengths, an empty one, one that is not there, and one
    that two rows share.
    """
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, lengths in (
        ("video", [6, 6, 2]),
        ("verb_question", [3, 0, 3]),
        ("noun_question", [5, 1, ABSENT]),
    ):
        found[name] = torch.randn(3, 6, WIDTHS[name], generator=generator), torch.tensor(lengths)
    found["verb_question"][0][2] = found["verb_question"][0][0]
    return found


def turned(streams):
    """Each row backwards, token by token."""
    found = {}
    for name, (tokens, lengths) in streams.items():
        tokens = tokens.clone()
        for row, length in enumerate(lengths.tolist()):
            for step in range(length):
                tokens[row, step] = streams[name][0][row, length - 1 - step]
        found[name] = tokens, lengths
    return found


def test_rows_are_reversed_within_their_own_length():
    x = torch.arange(24.0).view(3, 4, 2)
    found = reversed_rows(x, torch.tensor([4, 2, 0]))
    assert found[..., 0].tolist() == [[6, 4, 2, 0], [10, 8, 12, 14], [16, 18, 20, 22]]
    assert torch.equal(found[..., 1], found[..., 0] + 1)


@pytest.mark.parametrize("share", ["A", "none", "all"])
def test_a_film_backwards_is_the_film_to_the_mixers_changed_about(share):
    head, other = build(share=share), build(share=share)
    with torch.no_grad():
        for skip in (*head.d_skip.values(), *head.backward_d_skip.values()):
            skip.uniform_()  # all begin as ones, which nothing could tell apart
    swapped = {}
    for name, value in head.state_dict().items():
        part = name.split(".")[0]
        if part in ("mixer", "d_skip"):
            name = f"backward_{name}"
        elif part.startswith("backward_"):
            name = name.removeprefix("backward_")
        swapped[name] = value
    other.load_state_dict(swapped)
    for target, logits in head(rows()).items():
        torch.testing.assert_close(other(turned(rows()))[target], logits)
        assert (head(turned(rows()))[target] - logits).abs().max() > 1e-4


def test_with_the_same_weights_both_ways_no_film_could_be_told_from_itself_backwards():
    """Why each direction has weights of its own."""
    head = build()
    head.backward_mixer.load_state_dict(head.mixer.state_dict())
    for target, logits in head(rows()).items():
        torch.testing.assert_close(head(turned(rows()))[target], logits)


def test_without_its_backward_half_it_is_mambavls_head():
    head, alone = build(), build(SSMFusion)
    alone.load_state_dict({name: head.state_dict()[name] for name in alone.state_dict()})
    with torch.no_grad():
        for mixer in head.backward_mixer.values():
            mixer.out_proj.weight.zero_()
    for target, logits in head(rows()).items():
        torch.testing.assert_close(alone(rows())[target], logits)


def test_a_has_its_gradient_from_both_directions():
    head = build()

    def gradient(*silent):
        copy = build()
        copy.load_state_dict(head.state_dict())
        with torch.no_grad():
            for half in silent:
                for mixer in getattr(copy, half).values():
                    mixer.out_proj.weight.zero_()
        out = copy(rows())
        (out["verb"].sum() + out["noun"].sum()).backward()
        return copy.a_log["shared"].grad

    parts = [gradient("mixer"), gradient("backward_mixer")]
    assert all(part.abs().max() > 0 for part in parts)
    torch.testing.assert_close(gradient(), sum(parts))


def test_the_released_start_reaches_both_directions():
    head = build(init="released")
    for half in (head.mixer, head.backward_mixer):
        assert not half["video"].dt_proj.bias.any()
        assert half["video"].conv1d.weight.abs().max() < (6 / (2 * 4)) ** 0.5 + 1e-6


def test_it_has_a_mixer_and_a_skip_more_for_each_modality():
    kw = {"d_model": 768, "streams": {name: StreamShape(width=768) for name in WIDTHS}}
    with torch.device("meta"):
        one, both = SSMFusion(FusionConfig(**kw)), BidirectionalFusion(FusionConfig(**kw))
    assert both.num_params() - one.num_params() == 2 * 3_746_304


def test_it_cannot_be_fed_step_by_step():
    with pytest.raises(UsageError, match="its backward scan begins at the last token"):
        build().step(rows())

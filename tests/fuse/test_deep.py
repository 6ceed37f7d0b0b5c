"""The head with several layers.

(What holds for every head: test_fusion.py, test_head.py, test_missing.py; its numbers: test_recipe_keys.py.)
"""

import pytest
import torch

from mambavl.complexity.count import head_cost
from mambavl.configs.errors import UsageError
from mambavl.fuse.deep import DeepConfig, DeepFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape

WIDTHS = {"video": 6, "verb_question": 5, "noun_question": 5}


def build(**given):
    torch.manual_seed(0)
    shapes = {name: StreamShape(width=width) for name, width in WIDTHS.items()}
    common = {"d_model": 8, "d_state": 3, "dropout": 0.0, "targets": {"verb": 3, "noun": 4}}
    return DeepFusion(DeepConfig(**{"streams": shapes, **common, **given})).double().eval()


def mambavl_of(head):
    """MambaVL's head with the same weights, as far as it has them."""
    config = {key: value for key, value in head.config.model_dump().items() if key != "layers"}
    found = SSMFusion(FusionConfig(**config)).double().eval()
    found.load_state_dict({name: head.state_dict()[name] for name in found.state_dict()})
    return found


def rows(padding=0):
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, lengths in (("video", [6, 6, 2]), ("verb_question", [3, 0, 6]), ("noun_question", [5, 1, 4])):
        tokens = torch.randn(3, 6, WIDTHS[name], generator=generator, dtype=torch.float64)
        tokens = torch.cat([tokens, torch.full((3, padding, WIDTHS[name]), 9.0, dtype=torch.float64)], 1)
        found[name] = tokens, torch.tensor(lengths)
    found["verb_question"][0][2] = found["verb_question"][0][0]
    return found


@pytest.mark.parametrize("share", ["A", "none", "all"])
def test_one_layer_is_mambavls_head_to_the_bit(share):
    head = build(layers=1, share=share)
    assert head.state_dict().keys() == mambavl_of(head).state_dict().keys()
    for target, logits in mambavl_of(head)(rows()).items():
        assert torch.equal(head(rows())[target], logits)


def test_lower_layers_that_say_nothing_leave_their_input():
    head = build(layers=3)
    before = head(rows())
    for layers in head.layer.values():
        for layer in layers:
            torch.nn.init.zeros_(layer.mixer.out_proj.weight)
    for target, logits in mambavl_of(head)(rows()).items():
        torch.testing.assert_close(head(rows())[target], logits)
        assert not torch.allclose(before[target], logits)


def test_padding_and_rows_that_are_there_twice_change_nothing():
    """Layers hand on the valid tokens of distinct rows alone."""
    head, expected = build(layers=3), build(layers=3)(rows())
    for target, logits in head(rows(padding=4)).items():
        torch.testing.assert_close(logits, expected[target])
    for row in range(3):
        alone = {
            name: (tokens[row : row + 1], lengths[row : row + 1])
            for name, (tokens, lengths) in rows().items()
        }
        torch.testing.assert_close(head(alone)["verb"], expected["verb"][row : row + 1])


def test_the_released_start_reaches_every_layer():
    for layers in build(layers=3, init="released").layer.values():
        assert len(layers) == 2
        assert not any(layer.mixer.dt_proj.bias.any() for layer in layers)


def test_its_parameters_and_operations_by_hand():
    inner, states, rank = 16, 3, 1
    three, one = build(layers=3), build(layers=1)
    mixer = 8 * 2 * inner + (4 * inner + inner) + inner * (rank + 2 * states) + (rank + 1) * inner + inner * 8
    assert three.num_params() - one.num_params() == 2 * 2 * (mixer + 2 * 8 + inner)
    tokens = dict.fromkeys(WIDTHS, 5)
    found, plain = head_cost(three, tokens), head_cost(one, tokens)
    assert found.scan == 3 * plain.scan
    products = 8 * 2 * inner + 4 * inner + inner * (rank + 2 * states) + rank * inner + inner * 8
    assert found.macs - plain.macs == 2 * 3 * 5 * products


def test_it_can_be_fed_step_by_step_with_one_layer_alone():
    with pytest.raises(UsageError, match="what its lower layers remember is not carried"):
        build(layers=2).step(rows())
    head = build(layers=1)
    logits, _ = head.step(rows())
    torch.testing.assert_close(logits["verb"], head(rows())["verb"])

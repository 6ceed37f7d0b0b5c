"""Names of state dicts: a table with numbers in it, exact both ways, and every misfit named."""

import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published.keys import pairs, to_ours, to_theirs, without_module, without_parts

OURS = {
    "embed.weight": torch.arange(6.0).view(2, 3),
    "blocks.0.up.weight": torch.ones(2),
    "blocks.12.up.bias": torch.zeros(1),
}
TABLE = {"embed.": "stem.", "blocks.*.up.": "layers.*.mlp.fc1."}
KEYS = pairs(OURS, TABLE, {"embed.weight": (1, 2, 3)})


def test_numbers_and_what_follows_an_entry_are_kept():
    theirs = to_theirs(OURS, KEYS, "it")
    assert list(theirs) == ["stem.weight", "layers.0.mlp.fc1.weight", "layers.12.mlp.fc1.bias"]
    assert theirs["stem.weight"].shape == (1, 2, 3)
    back = to_ours(theirs, KEYS, "it")
    assert back.keys() == OURS.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in OURS.items())
    assert back["embed.weight"].data_ptr() == OURS["embed.weight"].data_ptr()  # renamed, not copied


def test_the_longest_entry_that_fits_counts():
    table = {"blocks.*.": "layers.*.", "blocks.*.up.": "layers.*.mlp.fc1.", "embed.": "stem."}
    assert [their for _, (their, _) in pairs(OURS, table, {})][1:] == [
        "layers.0.mlp.fc1.weight",
        "layers.12.mlp.fc1.bias",
    ]


def test_every_misfit_is_named():
    theirs = to_theirs(OURS, KEYS, "it")
    wrong = {**theirs, "stem.weight": torch.zeros(2, 3), "who.knows": torch.zeros(1)}
    del wrong["layers.0.mlp.fc1.weight"]
    with pytest.raises(UsageError, match="not the weights of it: ") as raised:
        to_ours(wrong, KEYS, "it")
    for said in (
        "1 missing (layers.0.mlp.fc1.weight)",
        "1 not known (who.knows)",
        "1 of another shape (stem.weight (2, 3), expected (1, 2, 3))",
    ):
        assert said in str(raised.value)


def test_prefixes_of_distributed_training_and_parts_are_taken_off():
    distributed = {f"module.{name}": tensor for name, tensor in OURS.items()}
    assert without_module(distributed).keys() == OURS.keys()
    assert without_module(OURS).keys() == OURS.keys()
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert without_module(mixed).keys() == mixed.keys()  # not every name has it: then it means something
    assert list(without_parts(OURS, ("blocks.",))) == ["embed.weight"]

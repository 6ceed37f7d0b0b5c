"""Encoders by name: the same untrained weights every time, refusals that say what to do."""

import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.registry import ENCODERS, build, kind_of


def test_untrained_weights_are_the_same_every_time_and_leave_the_random_state_alone():
    before = torch.random.get_rng_state()
    first, second = (build("timm:test_resnet", weights="random") for _ in range(2))
    assert first.sha256 == second.sha256
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_names_and_models_are_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean `efficientnet-lite0`"):
        build("efficientnet-lite1")
    with pytest.raises(UsageError, match="has no such model"):
        build("timm:no_such_model", weights="random")
    with pytest.raises(UsageError, match="give --weights FOLDER"):
        build("roberta-base", weights="/nowhere")
    assert [kind_of(name) for name in ("minilm", "efficientnet-lite0", "timm:x", "hf:y", "z")] == [
        "text",
        "video",
        "video",
        None,  # its config says so when it is built
        None,
    ]
    assert all(record.licence and record.weights for record in ENCODERS.values())

"""Table 4 from the models themselves, against the paper's figures and against arithmetic by hand."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from mambavl import complexity
from mambavl.cli import app
from mambavl.configs.errors import UsageError
from mambavl.fuse.fusion import FusionConfig, SSMFusion, StreamShape


@pytest.fixture(scope="module")
def table():
    return complexity.table_4()


@pytest.mark.parametrize(
    ("row", "parameters", "gmacs"),
    [
        ("orvit", 147_678_349, 405.26),
        ("transformer_12x12", 242_159_245, 413.72),
        ("transformer_6x4", 199_645_837, 413.38),
        ("mlp", 152_990_605, 413.03),
        ("mambavl", 156_966_541, 412.50),
    ],
)
def test_table_4_is_reproduced(table, row, parameters, gmacs):
    total, parts = table[row]
    assert total.parameters == parameters
    assert total.macs / 1e9 == pytest.approx(gmacs, rel=0.002)
    assert sum(part.macs for part in parts.values()) == total.macs


def test_the_parts_by_hand(table):
    d, inner, rank, states, tokens = 768, 1536, 48, 16, 1569 + 2 * 40
    parts = table["mambavl"][1]
    mixer = tokens * (d * 2 * inner + inner * (rank + 2 * states) + rank * inner + 4 * inner)  # in_proj, x_proj, dt_proj, conv
    text = 80 * 3 * d * d
    assert parts["head"].macs == pytest.approx(mixer + text + 3 * inner * d, rel=1e-6)
    assert parts["out_proj on every token before the mean"].macs == (tokens - 3) * inner * d
    assert parts["pre_logits on every token"].macs == 1568 * d * d
    unread = 9 * 1568 * 8 * d * d + 3 * 1600 * 8 * d * d  # three blocks also have 4 objects in each of 8 steps
    assert table["orvit"][1]["a half of its proj_kv, which the original never reads"].macs == unread
    assert parts["head"].scan == tokens * inner * (7 * states + 1 + 2 + 5)


def test_a_linear_layer_and_a_head_by_hand():
    layer = nn.Linear(5, 7, device="meta")
    assert complexity.count(lambda: layer(complexity.empty(3, 5)), 42) == complexity.Cost(42, 3 * 5 * 7, 0)
    streams = {"video": StreamShape(width=4)}
    head = SSMFusion(FusionConfig(streams=streams, d_model=4, num_verbs=2, num_nouns=3))
    with_classifiers = complexity.head_cost(head, {"video": 6})
    without = complexity.head_cost(head, {"video": 6}, classifiers=False)
    assert with_classifiers.macs - without.macs == 4 * (2 + 3)
    assert with_classifiers.parameters - without.parameters == 5 * (2 + 3)
    assert with_classifiers.scan == without.scan > 0


def test_longer_and_smaller_encoders_are_counted_too():
    small, large = (complexity.encoder_cost("avion-vit-b", depth=depth) for depth in (1, 2))
    block = 12 * 768**2 + 13 * 768  # weights; biases and norms
    assert large.parameters - small.parameters == block
    tokens = 1 + 16 * 196
    assert large.macs - small.macs == tokens * 12 * 768**2 + 2 * tokens**2 * 768
    with pytest.raises(UsageError, match="only published encoders are counted without weights"):
        complexity.encoder_cost("minilm")


def test_the_command_ends_in_json_with_the_stable_keys(monkeypatch):
    monkeypatch.setattr(complexity, "table_4", lambda: {"orvit": (complexity.Cost(1, 2.0), {"part": complexity.Cost(1, 2.0)})})
    monkeypatch.setattr("mambavl.extract.encoders.published.PUBLISHED", {})
    done = CliRunner().invoke(app, ["bench", "complexity"])
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"orvit": {"params": 1, "macs": 2.0}}


def test_an_encoder_is_described_without_its_weights():
    done = CliRunner().invoke(app, ["encoders", "show", "lavila-tsf-b"])
    assert done.exit_code == 0
    for said in ("dl.fbaipublicfiles.com", "16 frames of 224 px, RGB", "16 steps x 14 x 14", "MIT", "encoders convert"):
        assert said in " ".join(done.stdout.split()), said
    assert torch.get_default_dtype() == torch.float32

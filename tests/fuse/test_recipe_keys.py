"""Every key of the training and head sections, against the plain loop of helpers.plain: changing it changes
the weights, and to those that the documentation promises.
"""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import plain
from helpers.tiny import make_dense_store, make_segments, make_text_store, weights
from mambavl.configs import model_in, set_key, validate
from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.bidirectional import BidirectionalFusion
from mambavl.fuse.counts import COUNTS
from mambavl.fuse.cross import CrossConfig, CrossFusion
from mambavl.fuse.data import FeatureData
from mambavl.fuse.deep import DeepConfig, DeepFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.idle import OWN
from mambavl.fuse.mixture import MixtureConfig, MixtureFusion
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.targets import TargetConfig
from mambavl.fuse.train import train

# largest difference of a weight between float32 and float64; up to 5e-6 was seen
ROUNDING = 2e-5
ROWS = 48  # half of them are trained on
WIDTH = 8  # of all features, and of the head, so that a projection may have no layer
STREAMS = {
    "video": ("video.zarr", "frame"),
    "verb_question": ("text.zarr", "verb_question/last_hidden"),
    "noun_question": ("text.zarr", "noun_question/last_hidden"),
}
KINDS = {
    "mambavl": (SSMFusion, FusionConfig),
    "bidirectional": (BidirectionalFusion, FusionConfig),
    "cross": (CrossFusion, CrossConfig),
    "mixture": (MixtureFusion, MixtureConfig),
    "deep": (DeepFusion, DeepConfig),
    "mlp": (MLPFusion, MLPConfig),
    "transformer": (TransformerFusion, TransformerConfig),
    "attentive": (AttentiveFusion, AttentiveConfig),
}
BASE = {
    "head.d_model": WIDTH, "head.dropout": 0.2, "train.epochs": 3, "train.batch_size": 7, "train.lr": 0.02,
    "train.lr_start": 0.001, "train.lr_end": 0.002, "train.warmup_epochs": 1.5, "train.weight_decay": 0.3,
    "train.precision": "fp32", "train.eval_every": 9, "train.checkpoint_every": 9,
}  # fmt: skip
OF_HEAD = {
    "mambavl": {"fusion.d_state": 3, "train.lr_ssm": 0.03},
    "bidirectional": {"fusion.d_state": 3, "train.lr_ssm": 0.03},
    "cross": {"fusion.d_state": 3, "train.lr_ssm": 0.03},
    "mixture": {"fusion.d_state": 3, "train.lr_ssm": 0.03},
    "deep": {"fusion.d_state": 3, "train.lr_ssm": 0.03},
    "mlp": {},
    "transformer": {"transformer.depth": 2, "transformer.num_heads": 2, "transformer.max_positions": 16},
    "attentive": {"attentive.depth": 2, "attentive.num_heads": 2, "attentive.max_positions": 16},
}
SGD = {"train.optimizer": "sgd", "train.lr": 0.5, "train.clip_norm": 0.5}
HOLDING_OUT = {
    "data.hold_out": "0/2", "data.hold_out_by": "video", "train.eval_every": 1, "train.epochs": 12
}  # fmt: skip
# part 0 of 2: of five videos with 6, 6, 6, 4 and 2 rows that are trained on the first and the third
HELD_OUT = np.array([*range(6), *range(24, 30)])
GATED = {"cross.gated": True}
BF16 = {"train.precision": "bf16"}
FOCAL = {"targets.verb.loss": "focal", "targets.noun.loss": "focal"}

# head, keys beside the base's, what is changed
CASES = [
    ("mambavl", {}, {"train.epochs": 4}),
    ("mambavl", {}, {"train.batch_size": 5}),
    ("mambavl", {}, {"train.optimizer": "sgd"}),
    ("mambavl", {}, {"train.lr": 0.03}),
    ("mambavl", SGD, {"train.lr": 0.4}),
    ("mambavl", {}, {"train.lr_ssm": 0.01}),
    ("mambavl", SGD, {"train.lr_ssm": 0.1}),
    ("mambavl", {}, {"train.lr_start": 0.0}),
    ("mambavl", {}, {"train.lr_end": 0.01}),
    ("mambavl", {}, {"train.warmup_epochs": 0.7}),
    ("mambavl", {}, {"train.warmup_epochs": 0}),
    ("mambavl", {}, {"train.cosine_after_warmup": False}),
    ("mambavl", SGD, {"train.momentum": 0.5}),
    ("mambavl", SGD, {"train.momentum": 0.0}),
    ("mambavl", {}, {"train.weight_decay": 0.1}),
    ("mambavl", SGD, {"train.weight_decay": 0.1}),
    ("mambavl", {}, {"train.decay_all": True}),
    ("mambavl", SGD, {"train.decay_all": True}),
    ("transformer", {}, {"train.decay_all": True}),
    ("mambavl", {}, {"train.label_smoothing": 0.3}),
    ("mambavl", {}, {"train.label_smoothing": 0.0}),
    ("mambavl", {}, {"train.clip_norm": 0.3}),
    ("mambavl", SGD, {"train.clip_norm": 0.2}),
    ("transformer", {**SGD, "train.lr": 0.1}, {"train.clip_norm": 0.0}),
    *((head, {}, {"train.drop_streams": dict.fromkeys(STREAMS, 0.6)}) for head in KINDS),
    ("mambavl", {"fusion.pad_text_to": 9}, {"train.drop_streams": {"verb_question": 0.4}}),
    *((head, {}, {"train.feature_dropout": dict.fromkeys(STREAMS, 0.3)}) for head in KINDS),
    ("mambavl", {}, {"train.feature_dropout": {"video": 0.5}}),
    *((head, {}, {"train.mixup": 0.4}) for head in KINDS),
    ("mambavl", SGD | FOCAL, {"train.mixup": 1.0}),
    ("mambavl", {}, {"targets.verb.weight": 0.4}),
    ("mambavl", {}, {"targets.verb.loss": "focal"}),
    ("mlp", {}, {"targets.noun.loss": "focal"}),
    ("mambavl", FOCAL, {"targets.verb.gamma": 0.5}),
    ("transformer", FOCAL, {"targets.noun.gamma": 4.0}),
    ("mlp", HOLDING_OUT, {"train.stop_after": 1}),
    ("mambavl", HOLDING_OUT | {"train.ema": 0.9}, {"train.stop_after": 2}),
    ("mambavl", {}, {"train.ema": 0.6}),
    ("transformer", SGD, {"train.ema": 0.95}),
    ("mambavl", {}, {"train.seed": 5}),
    ("mambavl", {"train.order_seed": 3}, {"train.seed": 5}),
    ("mambavl", {}, {"train.order_seed": 5}),
    ("mlp", {"train.drop_streams": dict.fromkeys(STREAMS, 0.4)}, {"train.order_seed": 5}),
    ("mambavl", {"train.feature_dropout": dict.fromkeys(STREAMS, 0.3)}, {"train.order_seed": 5}),
    ("mlp", {"train.mixup": 0.4}, {"train.order_seed": 5}),
    ("transformer", SGD, {"train.seed": 2**63 - 1}),
    ("mlp", SGD, BF16),
    ("mambavl", {}, {"head.d_model": 12}),
    ("mambavl", {}, {"head.dropout": 0.5}),
    ("mlp", {}, {"head.dropout": 0.0}),
    ("transformer", {}, {"head.dropout": 0.5}),
    ("mambavl", {}, {"head.input_norm": False}),
    ("mlp", {}, {"head.input_norm": False}),
    ("transformer", {}, {"head.input_norm": False}),
    *(("mambavl", {}, {f"head.{m}_mlp_layers": n}) for m in ("video", "text") for n in (0, 1, 3)),
    ("mlp", {}, {"head.video_mlp_layers": 3}),
    ("transformer", {}, {"head.text_mlp_layers": 0}),
    ("mambavl", {}, {"head.question_routing": "both"}),
    ("mlp", {}, {"head.question_routing": "both"}),
    ("transformer", SGD, {"head.question_routing": "both"}),
    ("mambavl", {}, {"fusion.preset": "paper"}),
    ("mambavl", {}, {"fusion.preset": "released"}),
    ("mambavl", {}, {"fusion.mixer": "plain"}),
    ("mambavl", {}, {"fusion.d_state": 5}),
    ("mambavl", {}, {"fusion.d_conv": 2}),
    ("mambavl", {}, {"fusion.expand": 3}),
    ("mambavl", {}, {"fusion.dt_rank": 3}),
    *(("mambavl", {}, {"fusion.share": share}) for share in ("none", "A+D", "all")),
    ("mambavl", {}, {"fusion.zoh": True}),
    ("mambavl", {}, {"fusion.pad_text_to": 12}),
    ("mambavl", {}, {"fusion.pad_text_to": 3}),  # cuts
    ("mambavl", {}, {"fusion.init": "released"}),
    ("mambavl", {}, {"fusion.pre_logits": True}),
    ("transformer", {}, {"transformer.depth": 3}),
    ("transformer", {}, {"transformer.num_heads": 4}),
    ("transformer", {}, {"transformer.tokens": "pooled"}),
    ("transformer", {}, {"transformer.max_positions": 20}),
    ("transformer", {}, {"transformer.block_dropout": 0.4}),
    ("transformer", SGD, {"transformer.block_dropout": 0.0}),
    ("bidirectional", {}, {"train.decay_all": True}),
    ("bidirectional", {}, {"train.lr_ssm": 0.01}),
    ("bidirectional", {}, {"fusion.preset": "paper"}),
    ("bidirectional", {}, {"fusion.pad_text_to": 9}),
    *(("bidirectional", {}, {"fusion.share": share}) for share in ("none", "A+D", "all")),
    ("cross", {}, {"cross.gated": True}),
    ("cross", GATED, {"train.decay_all": True}),
    ("cross", GATED, {"train.lr_ssm": 0.01}),
    ("cross", {}, {"head.question_routing": "both"}),
    ("cross", GATED, {"head.question_routing": "both"}),
    ("cross", GATED, {"fusion.preset": "paper"}),
    ("cross", {}, {"fusion.pad_text_to": 9}),
    *(("cross", GATED, {"fusion.share": share}) for share in ("none", "A+D", "all")),
    ("mixture", {}, {"mixture.matrices": 2}),
    ("mixture", {}, {"mixture.matrices": 1}),
    ("mixture", {}, {"train.decay_all": True}),
    ("mixture", {}, {"train.lr_ssm": 0.01}),
    ("mixture", {}, {"fusion.preset": "paper"}),
    ("mixture", {}, {"fusion.pad_text_to": 9}),
    *(("mixture", {}, {"fusion.share": share}) for share in ("none", "A+D", "all")),
    ("deep", {}, {"deep.layers": 3}),
    ("deep", {}, {"deep.layers": 1}),
    ("deep", {}, {"train.decay_all": True}),
    ("deep", {}, {"train.lr_ssm": 0.01}),
    ("deep", {}, {"fusion.preset": "paper"}),
    ("deep", {}, {"fusion.pad_text_to": 9}),
    *(("deep", {}, {"fusion.share": share}) for share in ("none", "A+D", "all")),
    ("attentive", {}, {"train.decay_all": True}),
    ("attentive", {}, {"head.dropout": 0.5}),
    ("attentive", {}, {"head.video_mlp_layers": 0}),
    ("attentive", SGD, {"head.question_routing": "both"}),
    ("attentive", {}, {"attentive.depth": 1}),
    ("attentive", {}, {"attentive.depth": 4}),
    ("attentive", {}, {"attentive.num_heads": 4}),
    ("attentive", {}, {"attentive.max_positions": 20}),
    ("attentive", {}, {"attentive.max_positions": 0}),
]
# keys that change no weight -> the values tried, beside the base's
HARMLESS = {
    "train.accumulate": [2, 3, 7],
    "train.eval_every": [1],
    "train.checkpoint_every": [1],
    "train.precision": ["auto"],  # fp32 on a CPU
    "train.score_dtype": ["float16"],
    "fusion.scan": ["auto", "reference", "chunked"],
}
OTHERWISE_ROUNDED = ("train.accumulate", "fusion.scan")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what a GPU multiplies is another number")


def base(head, *more):
    keys = {"head.name": head, **BASE, **OF_HEAD[head]}
    for one in more:
        keys |= one
    return keys


def name_of(case):
    head, where, change = case
    changed = ",".join(f"{key}={value}" for key, value in change.items())
    return f"{head}-{'sgd-' * (where == SGD)}{changed}"


class Trainer:
    """Runs over the same two stores, as mambavl trains them and as the plain loop does."""

    def __init__(self, folder):
        self.folder, self.found, self.opened = folder, {}, {}
        video = make_dense_store(folder / "video.zarr", ROWS, width=WIDTH, views=2, short={0: 2, 13: 3})
        texts = make_text_store(folder / "text.zarr", ROWS, width=WIDTH)
        segments = make_segments(ROWS)
        labels = {target: [one.labels[target] for one in segments] for target in ("verb", "noun")}
        train_rows = np.flatnonzero([segment.split == "train" for segment in segments])
        self.arrays = video, texts, labels, train_rows

    def recipe(self, keys):
        raw = {}
        for stream, (store, level) in STREAMS.items():
            set_key(raw, f"streams.{stream}", {"store": str(self.folder / store), "level": level})
        for key, value in keys.items():
            set_key(raw, key, value)
        return validate(raw, Recipe, "keys.toml")

    def trained(self, keys):
        """The weights that mambavl ends with; each recipe is trained once."""
        name = str(sorted(keys.items()))
        if name not in self.found:
            recipe, run = self.recipe(keys), Path(tempfile.mkdtemp(dir=self.folder))
            held_out = recipe.data.hold_out
            if held_out not in self.opened:
                self.opened[held_out] = FeatureData(recipe.sources, recipe.data)
            train(recipe, run, data=self.opened[held_out])
            self.found[name] = weights(run)
        return self.found[name]

    def plain(self, keys, dtype=torch.float64):
        *arrays, rows = self.arrays
        held = HELD_OUT if "data.hold_out" in keys else rows[:0]
        data = plain.Data(*arrays, np.setdiff1d(rows, held), dtype, held)
        return plain.train(keys, self.start(keys, dtype), data)

    def start(self, keys, dtype):
        """A head's own weights, drawn after torch.manual_seed(seed), the released start laid over them."""
        keys = plain.resolved(keys)
        kind, config = KINDS[keys["head.name"]]
        of_head = {key: v for key, v in keys.items() if not key.startswith(("train.", "targets.", "data."))}
        settings = {key.partition(".")[2]: v for key, v in of_head.items()}
        init = settings.pop("init", "mamba")
        settings = {key: value for key, value in settings.items() if key not in ("name", "preset")}
        torch.manual_seed(keys["train.seed"])
        streams = {stream: StreamShape(width=WIDTH) for stream in STREAMS}
        head = kind(config(streams=streams, targets={"verb": 3, "noun": 4}, **settings))
        if init == "released":
            plain.start_as_released(head)
        return {name: weight.detach().to(dtype) for name, weight in head.named_parameters()}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return Trainer(tmp_path_factory.mktemp("keys"))


def distance(one, other):
    """The largest difference of a weight; infinite between heads of other shapes."""
    if {name: w.shape for name, w in one.items()} != {name: w.shape for name, w in other.items()}:
        return float("inf")
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_key_changes_the_weights_to_those_of_the_plain_loop(trainer, case):
    head, where, change = case
    if change == BF16 and torch.cuda.is_available():
        pytest.skip("the plain loop has a CPU's bfloat16 products")
    keys = base(head, where, change)
    found = trainer.trained(keys)
    # what is rounded to bfloat16 must be the same before it
    expected = trainer.plain(keys, torch.float32 if change == BF16 else torch.float64)
    assert distance(found, expected) < ROUNDING
    assert distance(found, trainer.trained(base(head, where))) > 100 * ROUNDING


@pytest.mark.parametrize("head", OF_HEAD)
def test_what_a_recipe_leaves_out_has_its_documented_default(trainer, head):
    """A narrow head and few epochs; all else is left out."""
    keys = {"head.name": head, "head.d_model": 2 * WIDTH, "train.epochs": 8}
    assert distance(trainer.trained(keys), trainer.plain(keys)) < ROUNDING


@on_cpu
@pytest.mark.parametrize(("key", "value"), [(key, value) for key in HARMLESS for value in HARMLESS[key]])
def test_a_key_that_must_change_no_weight_changes_none(trainer, key, value):
    found, before = trainer.trained(base("mambavl", {key: value})), trainer.trained(base("mambavl"))
    assert distance(found, before) <= (ROUNDING if key in OTHERWISE_ROUNDED else 0)


def test_every_key_has_a_case():
    """A new key of these sections needs a line in CASES or in HARMLESS, and a place in helpers.plain."""
    keys = set()
    trained = [section for section in OWN if section != COUNTS]  # which has no weights: test_counts.py
    for section in ("head", *trained, "train"):
        record = model_in(Recipe.model_fields[section].annotation)
        keys |= {f"{section}.{key}" for key in record.model_fields}
    keys |= {f"targets.{key}" for key in TargetConfig.model_fields}
    tried = {key for _, _, change in CASES for key in change} | HARMLESS.keys()
    tried = {re.sub(r"^targets\.\w+", "targets", key) for key in tried}
    # all are cases of a head's name; streams and pairs have theirs in test_own_targets.py
    # what a tracker is told is in test_tracking.py, what is kept of a run in test_kept.py
    assert tried == keys - {"train.trackers", "train.keep"} - {
        "head.name",
        "targets.streams",
        "targets.ranked_by",
    }

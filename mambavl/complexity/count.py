"""What models cost, counted from the models themselves: parameters and multiply-adds, on meta tensors, so
without any weights.

Multiply-adds (MACs) are those of matrix products and convolutions, half of what FlopCounterMode counts; a
scan is none of them and has a number of its own, in operations (`mambavl.fuse.scan.operator`). Published
GFLOPs of video models are MACs of one view. `report` prints what is counted here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mambavl.cache import FeatureStore, open_store
from mambavl.cache.classes import verb_noun_classes
from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.extract.encoders.base import VideoEncoder
from mambavl.extract.encoders.published.motionformer import Motionformer, TrajectoryAttention
from mambavl.extract.encoders.published.orvit import ObjectBlock, ORViTConfig
from mambavl.extract.encoders.published.table import PUBLISHED, PublishedEncoder, sized
from mambavl.extract.encoders.registry import ENCODERS
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.fusion import FusionConfig, Mixer, SSMFusion
from mambavl.fuse.head import EK100, Head, StreamShape, modality_of
from mambavl.fuse.recipe import Recipe, make_head
from mambavl.fuse.targets import Pairs, RunTargets, choose, pairs_of, read_labels

if TYPE_CHECKING:  # it takes a second to import
    from transformers import RobertaModel

QUESTION_TOKENS = 40  # of a question in the released code, padding included
ROBERTA = {  # width, depth, heads
    "roberta-base": (768, 12, 12),
    "roberta-large": (1024, 24, 16),
    "distilroberta-base": (768, 6, 12),
}


@dataclass(frozen=True)
class Cost:
    """Of one clip, question or row. macs: multiply-adds of products and convolutions; scan: operations of
    selective scans; trainable and frozen: parameters."""

    macs: float = 0.0
    scan: int = 0
    trainable: int = 0
    frozen: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.macs + other.macs,
            self.scan + other.scan,
            self.trainable + other.trainable,
            self.frozen + other.frozen,
        )

    @property
    def parameters(self) -> int:
        return self.trainable + self.frozen

    @property
    def flops(self) -> float:
        """Of products and convolutions: a multiplication and an addition each, without the scan."""
        return 2 * self.macs


@dataclass(frozen=True)
class Part:
    """A piece of a model. tokens: what it was given, stream by stream."""

    name: str
    cost: Cost
    tokens: str = ""


def total(parts: Iterable[Part]) -> Cost:
    """The costs of all parts, added."""
    return sum((part.cost for part in parts), Cost())


def count(run: Callable[[], object], *, trainable: int = 0, frozen: int = 0) -> Cost:
    """The cost of what `run` computes on meta tensors, of a model with so many parameters."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():  # a hook of the counter cannot take a parameter in inference mode
        run()
    by_operator = counter.get_flop_counts()["Global"]
    scan = sum(flops for operator, flops in by_operator.items() if "selective_scan" in str(operator))
    return Cost((sum(by_operator.values()) - scan) / 2, scan, trainable, frozen)


def parameters_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


# --- encoders


def encoder_cost(name: str, **sizes: Any) -> Part:
    """One clip (or question) through an encoder, frozen: a published one with its classifiers, timm:NAME, a
    RoBERTa.

    sizes: of its config (image_size, frames, depth, ...), of timm's image_size and frames (16), of text
    `tokens` (40). Raises UsageError for an encoder whose sizes are in files that are not here, and for a size
    that it does not have.
    """
    if name in PUBLISHED:
        model, clip = video_encoder(name, **sizes)
        cost = count(lambda: model.classify(clip.pooled_by(model)), frozen=parameters_of(model))
        steps, height, width = model.grid_of(clip.video)
        return Part(name, cost, f"1 + {steps}x{height}x{width}")
    if name in ROBERTA:
        return _text_cost(name, **_only(name, sizes, "tokens"))
    if name.startswith("timm:"):
        return _timm_cost(name, **_only(name, sizes, "image_size", "frames"))
    if name in ENCODERS or name.startswith("hf:"):
        raise UsageError(
            f"encoder {name} is not counted: its sizes come with its weights, in a package or on the hub, "
            f"and no weights are read here. Counted are {', '.join([*PUBLISHED, *ROBERTA])} and timm:NAME"
        )
    raise UsageError(f"there is no encoder {name!r}{did_you_mean(name, [*ENCODERS, 'timm:NAME'])}")


@dataclass(frozen=True)
class Clip:
    """What a video encoder is given of one clip, on the meta device."""

    video: Tensor  # (1, 3, T, H, W)
    boxes: Tensor | None  # (1, T, O, 4), for encoders that look at objects

    def pooled_by(self, model: VideoEncoder) -> Tensor:
        if self.boxes is None:
            return model.pooled(self.video)
        return model.pool(model.tokens_with_boxes(self.video, self.boxes))


def video_encoder(name: str, **sizes: Any) -> tuple[PublishedEncoder, Clip]:
    """A published video encoder and a clip for it, both on the meta device."""
    known = PUBLISHED[name]
    config = sized(name, known.config, sizes)
    with torch.device("meta"):
        model = known.family.model(config).eval()
    video = empty(1, 3, config.frames, config.image_size, config.image_size)
    boxes = None
    if isinstance(config, ORViTConfig):
        boxes = empty(1, config.frames, config.objects, 4)
    return model, Clip(video, boxes)


def text_encoder(name: str) -> "RobertaModel":
    """RoBERTa (base, large, distil) as it is built from its config, untrained, on the device in force."""
    from transformers import AutoModel, RobertaConfig

    width, depth, heads = ROBERTA[name]
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    model: RobertaModel = AutoModel.from_config(config, attn_implementation="sdpa")
    return model.eval()


def _text_cost(name: str, tokens: int = QUESTION_TOKENS) -> Part:
    with torch.device("meta"):
        model, ids = text_encoder(name), torch.ones(1, tokens, dtype=torch.long)
    return Part(name, count(lambda: model(input_ids=ids), frozen=parameters_of(model)), str(tokens))


def _timm_cost(name: str, image_size: int | None = None, frames: int = 16) -> Part:
    from timm.data.config import resolve_data_config

    from mambavl.extract.encoders.image import create_timm

    model: Any  # timm's models share forward_features, and no class that has it
    with torch.device("meta"):
        model = create_timm(name.removeprefix("timm:"), image_size=image_size).eval()
    size = image_size or resolve_data_config({}, model=model)["input_size"][-1]
    images = empty(frames, 3, size, size)
    cost = count(lambda: model.forward_features(images), frozen=parameters_of(model))
    return Part(name, cost, f"{frames} images of {size} px")


def _only(name: str, sizes: dict[str, Any], *known: str) -> dict[str, Any]:
    if unknown := [key for key in sizes if key not in known]:
        raise UsageError(f"encoder {name} has no size {', '.join(unknown)} here; it has {', '.join(known)}")
    return sizes


def original_terms(name: str) -> dict[str, float]:
    """Multiply-adds that fvcore, by which published counts were made, finds in the original of a video
    encoder and that ours does not have:

    proj_kv        (Motionformer, ORViT) the half of it that nothing reads, and that ours leaves out: D x D
                   for each query and time step
    norms          a LayerNorm counts 5 for each number
    trajectories   (Motionformer, ORViT) a query along its trajectory, scores and sum: 2 D for each query and
                   time step
    boxes          (ORViT) crops of boxes are products here and not counted there; painting is products here
                   and 4 a number there
    """
    model, clip = video_encoder(name)
    steps, _, _ = model.grid_of(clip.video)
    terms = {"proj_kv": 0.0, "norms": 0.0, "trajectories": 0.0, "boxes": 0.0}

    def add(module: nn.Module, given: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        if isinstance(module, nn.LayerNorm):
            terms["norms"] += 5 * out.numel()
        elif isinstance(module, TrajectoryAttention):
            _, tokens, width = out.shape
            queries = (tokens - 1) * steps  # of each patch, one for each time step
            terms["proj_kv"] += queries * width**2
            terms["trajectories"] += 2 * queries * width
        elif isinstance(module, ObjectBlock):
            _, (times, height, columns), boxes = given
            pairs, width = times * height * columns * boxes.shape[2], out.shape[2]  # a patch and an object
            crops = pairs * (height + columns) * width
            terms["boxes"] += 4 * pairs * width - pairs * width - crops

    for module in model.modules():
        module.register_forward_hook(add, with_kwargs=True)
    clip.pooled_by(model)
    return {term: macs for term, macs in terms.items() if macs}


# --- heads


def head_cost(head: Head, tokens: dict[str, int], *, classifiers: bool = True) -> Cost:
    """One row through a fusion head with so many tokens a stream."""
    head = head.to("meta").eval()
    streams = {
        name: (empty(1, length, head.config.streams[name].width), torch.full((1,), length, device="meta"))
        for name, length in tokens.items()
    }
    whole = count(lambda: head(streams), trainable=head.num_params(heads=classifiers))
    return whole if classifiers else replace(whole, macs=whole.macs - classifiers_cost(head).macs)


def classifiers_cost(head: Head) -> Cost:
    """The classifiers of a head, once each."""
    vector = empty(1, head.config.d_model)
    trainable = head.num_params() - head.num_params(heads=False)
    return count(
        lambda: [classifier(vector) for classifier in head.classifiers.values()], trainable=trainable
    )


def default_head(width: int, text_width: int = 768, **settings: Any) -> SSMFusion:
    """MambaVL's head with our settings (or `settings`), for video of `width` channels and both questions."""
    streams = {
        "video": StreamShape(width=width),
        "verb_question": StreamShape(width=text_width),
        "noun_question": StreamShape(width=text_width),
    }
    with torch.device("meta"):
        return SSMFusion(FusionConfig(streams=streams, **settings))


def recipe_cost(recipe: Recipe, given: dict[str, tuple[int, int]]) -> list[Part]:
    """The head of a recipe in two parts, head and classifiers, at the longest row of its stores.

    given: stream -> (tokens, width), in place of its store. Targets are the stores', or EK100's 97 verbs and
    300 nouns without any. Raises UsageError for a stream that is neither given nor has a store, and for one
    that the recipe does not have.
    """
    for name in given:
        if name not in recipe.sources:
            nearest = did_you_mean(name, list(recipe.sources))
            raise UsageError(f"--stream {name}: the recipe has no such stream{nearest}")
    sizes, store = _sizes(recipe, given)
    targets = _targets(recipe, store)
    shapes, tokens = {}, {}
    for name, source in recipe.sources.items():
        length, width = sizes[name]
        shapes[name] = StreamShape(width=width, modality=source.modality or modality_of(name))
        tokens[name] = length + source.class_token
    # Whatever computes the scan does as much, so a recipe that asks for a GPU's is counted without one.
    if recipe.fusion:
        recipe = recipe.model_copy(update={"fusion": recipe.fusion.model_copy(update={"scan": "auto"})})
    with torch.device("meta"):
        head = make_head(recipe, shapes, targets)
    read = ", ".join(f"{name} {length}x{shapes[name].width}" for name, length in tokens.items())
    columns = " and ".join(f"{count} {name}s" for name, count in targets.outputs.items())
    return [
        Part(f"{recipe.head.name} head", head_cost(head, tokens, classifiers=False), read),
        Part(f"classifiers of {columns}", classifiers_cost(head)),
    ]


def _targets(recipe: Recipe, store: FeatureStore | None) -> RunTargets:
    """What the recipe trains of the targets of a store; of EK100's without one."""
    if store is None:
        classes = verb_noun_classes({}, {}, num_verbs=EK100["verb"], num_nouns=EK100["noun"])
        pairs: dict[str, Pairs] = dict.fromkeys(classes.derived, ())
    else:
        classes = store.classes
        labels = read_labels(store.segments, classes)
        is_train = np.array([segment.split == recipe.data.train_split for segment in store.segments], bool)
        pairs = pairs_of(classes, labels, is_train)
    return choose(classes, recipe.use_targets, recipe.targets, pairs)


def _sizes(
    recipe: Recipe, given: dict[str, tuple[int, int]]
) -> tuple[dict[str, tuple[int, int]], FeatureStore | None]:
    """Stream -> (tokens of the longest row, width), from what is given or its stores; and one of these."""
    sizes, unknown = dict(given), []
    store: FeatureStore | None = None
    for name, source in recipe.sources.items():
        if name in given:
            continue
        if not all(path.exists() for path in source.stores):
            unknown.append((name, ", ".join(str(path) for path in source.stores)))
            continue
        stores = [open_store(path) for path in source.stores]
        longest = max(int(store.lengths(range(len(store)), source.level).max(initial=0)) for store in stores)
        sizes[name] = (longest, stores[0].level(source.level).width)
        store = stores[0]
    if unknown:
        missing = ", ".join(f"{name} ({paths})" for name, paths in unknown)
        options = " ".join(f"--stream {name}=TOKENSxWIDTH" for name, _ in unknown)
        raise UsageError(f"no store of stream {missing}; extract it, or give its size: {options}")
    return sizes, store


# --- the paper's Table 4


def table_4() -> dict[str, list[Part]]:
    """The rows of the paper's Table 4, and two that its code has besides, each in its parts.

    ORViT-MF at 224 px, 97 + 300 classes, which the released code trains together with the head. A head brings
    its own parameters and reuses ORViT's classifiers and `pre_logits`, which that code runs on every token.
    Transformers and the MLP take one pooled vector of RoBERTa a question, MambaVL its embedding layer alone;
    RoBERTa is frozen, and published parameters leave it out.
    """
    orvit, _ = video_encoder("orvit")
    assert isinstance(orvit, Motionformer)  # whose `pre_logits` is counted
    base = encoder_cost("orvit")
    patches, width = 1568, orvit.width
    pre_logits = count(lambda: orvit.pre_logits(empty(1, patches, width)))
    backbone = [
        Part("ORViT-MF 224", replace(base.cost, trainable=base.cost.frozen, frozen=0), base.tokens),
        Part("unread half of its proj_kv", Cost(original_terms("orvit")["proj_kv"])),
    ]
    shared = [*backbone, Part("pre_logits on every token", pre_logits, str(patches))]
    with torch.device("meta"):
        roberta = text_encoder("roberta-base")
    text = encoder_cost("roberta-base").cost
    questions = f"2 x {QUESTION_TOKENS}"
    streams = {name: StreamShape(width=768) for name in ("video", "verb_question", "noun_question")}
    rows = {"orvit": backbone}
    for name, baseline in _released_baselines(streams).items():
        rows[name] = [
            *shared,
            Part("head", head_cost(baseline, dict.fromkeys(streams, 1), classifiers=False), "1; 2 x 1"),
            Part("RoBERTa, two questions", Cost(2 * text.macs, frozen=text.frozen), questions),
        ]
    tokens = {"video": 1 + patches, "verb_question": QUESTION_TOKENS, "noun_question": QUESTION_TOKENS}
    head = default_head(width, preset="released")
    mixer = head.mixer["video"]
    assert isinstance(mixer, Mixer)  # a ModuleDict has no type of its values
    one_row = count(lambda: mixer.out_proj(empty(1, mixer.config.d_inner)))
    # A mean and a linear layer commute: ours projects one vector a stream, the original each token.
    each_token = Cost(one_row.macs * (sum(tokens.values()) - len(tokens)))
    rows["mambavl"] = [
        *shared,
        Part("head", head_cost(head, tokens, classifiers=False), f"{1 + patches}; {questions}"),
        Part("its out_proj on every token", each_token, f"{1 + patches}; {questions}"),
        Part("RoBERTa's embedding layer", Cost(frozen=parameters_of(roberta.embeddings)), questions),
    ]
    return rows


def _released_baselines(streams: dict[str, StreamShape]) -> dict[str, Head]:
    released = {"streams": streams, "video_mlp_layers": 0, "text_mlp_layers": 3, "input_norm": False}
    large = TransformerConfig(**released, depth=12, num_heads=12, tokens="pooled")
    small = TransformerConfig(**released, depth=6, num_heads=4, tokens="pooled")
    with torch.device("meta"):
        return {
            "transformer_12x12": TransformerFusion(large),
            "transformer_6x4": TransformerFusion(small),
            "mlp": MLPFusion(MLPConfig(**released)),
        }

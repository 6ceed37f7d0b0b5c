"""What models cost, counted from the models themselves: parameters and multiply-adds, on meta tensors, so without any weights.

Multiply-adds (MACs) are those of matrix products and convolutions, half of what FlopCounterMode counts; a scan is none of them
and has a line of its own, in operations (`mambavl.fuse.scan.operator`). Published GFLOPs of video models are MACs of one view.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mambavl.configs.errors import UsageError

FRAMES_TEXT = 40  # tokens of a question in the released code, padding included
PUBLISHED_TABLE_4 = {"orvit": (405, 148), "transformer_12x12": (413.5, 242), "mambavl": (413, 157)}  # GFLOPs, M parameters


@dataclass(frozen=True)
class Cost:
    """Of one clip. macs: multiply-adds of products and convolutions; scan: operations of selective scans."""

    parameters: int
    macs: float
    scan: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.macs + other.macs, self.scan + other.scan)


def count(run: Callable[[], Any], parameters: int = 0) -> Cost:
    """The cost of what `run` computes on meta tensors."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        run()
    by_operator = counter.get_flop_counts()["Global"]
    scan = sum(flops for operator, flops in by_operator.items() if "selective_scan" in str(operator))
    return Cost(parameters, (sum(by_operator.values()) - scan) / 2, scan)


def parameters_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def video_encoder(name: str, **sizes: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A published video encoder and what `tokens` takes of one clip, the video and perhaps boxes, on the meta device."""
    from mambavl.extract.encoders.published import PUBLISHED, sized

    if name not in PUBLISHED:
        raise UsageError(f"only published encoders are counted without weights: {', '.join(PUBLISHED)}; not {name}")
    known = PUBLISHED[name]
    config = sized(name, known.config, sizes)
    with torch.device("meta"):
        model = known.model(config).eval()
    clip = (empty(1, 3, config.frames, config.image_size, config.image_size),)
    return model, (*clip, empty(1, config.frames, config.objects, 4)) if hasattr(config, "objects") else clip


def encoder_cost(name: str, **sizes: Any) -> Cost:
    """One clip through a published video encoder, classifiers included."""
    model, clip = video_encoder(name, **sizes)
    return count(lambda: model.classify(model.pooled(*clip)), parameters_of(model))


def unread_cost(name: str) -> Cost:
    """What the originals of Motionformer and ORViT compute besides, and never read: the value half of `proj_kv`, a product of
    D x D for each query and time step. Ours leaves it out; published counts hold it."""
    from mambavl.extract.encoders.motionformer import TrajectoryAttention

    model, clip = video_encoder(name)
    seen: list[float] = []
    for module in model.modules():
        if isinstance(module, TrajectoryAttention):
            module.register_forward_hook(
                lambda module, given, kwargs, out: seen.append(
                    (given[0].shape[1] - 1) * given[0].shape[2] ** 2 * model.config.steps
                ),
                with_kwargs=True,
            )
    model.tokens(*clip)
    return Cost(0, sum(seen))


def text_encoder_cost(name: str, tokens: int = FRAMES_TEXT) -> Cost:
    """One question of so many tokens through RoBERTa (base, large, distil)."""
    from transformers import RobertaConfig, RobertaModel

    sizes = {"roberta-base": (768, 12, 12), "roberta-large": (1024, 24, 16), "distilroberta-base": (768, 6, 12)}
    width, depth, heads = sizes[name]
    config = RobertaConfig(
        vocab_size=50265, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        max_position_embeddings=514, type_vocab_size=1, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device("meta"):
        model = RobertaModel(config).eval()
        ids = torch.ones(1, tokens, dtype=torch.long)
    return count(lambda: model(input_ids=ids), parameters_of(model))


def head_cost(head: nn.Module, tokens: dict[str, int], *, classifiers: bool = True) -> Cost:
    """One row through a fusion head with so many tokens a stream."""
    head = head.to("meta").eval()
    streams = {
        name: (empty(1, length, head.config.streams[name].width), torch.full((1,), length, device="meta"))
        for name, length in tokens.items()
    }
    whole = count(lambda: head(streams), head.num_params(heads=classifiers))
    if classifiers:
        return whole
    vector = empty(1, head.config.d_model)
    own = count(lambda: (head.verb_head(vector), head.noun_head(vector)))
    return Cost(whole.parameters, whole.macs - own.macs, whole.scan)


def default_head(width: int, text_width: int = 768, **settings: Any) -> nn.Module:
    """MambaVL's head with our settings (or `settings`), for video of `width` channels and both questions."""
    from mambavl.fuse.fusion import FusionConfig, SSMFusion, StreamShape

    streams = {"video": StreamShape(width=width)} | {f"{q}_question": StreamShape(width=text_width) for q in ("verb", "noun")}
    with torch.device("meta"):
        return SSMFusion(FusionConfig(streams=streams, **settings))


def table_4() -> dict[str, tuple[Cost, dict[str, Cost]]]:
    """The paper's Table 4, each row's total and the parts it is made of.

    ORViT-MF at 224 px, 97 + 300 classes. A head brings its own parameters and reuses ORViT's classifiers and `pre_logits`, which
    the released code runs on every token. Transformers and the MLP take one pooled vector of RoBERTa a question, MambaVL its
    embedding layer alone; the published parameters leave RoBERTa out.
    """
    from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
    from mambavl.fuse.fusion import StreamShape

    orvit, _ = video_encoder("orvit")
    patches = 1568
    base = encoder_cost("orvit")
    every_token = count(lambda: orvit.pre_logits(empty(1, patches, orvit.width)))
    text = text_encoder_cost("roberta-base")
    roberta = Cost(0, 2 * text.macs)
    streams = {name: StreamShape(width=768) for name in ("video", "verb_question", "noun_question")}
    released = {"streams": streams, "video_mlp_layers": 0, "text_mlp_layers": 3, "input_norm": False}
    one_each = dict.fromkeys(streams, 1)
    backbone = {"ORViT-MF 224": base, "a half of its proj_kv, which the original never reads": unread_cost("orvit")}
    rows: dict[str, dict[str, Cost]] = {"orvit": backbone}
    with torch.device("meta"):
        heads = {
            "transformer_12x12": TransformerFusion(TransformerConfig(**released, depth=12, num_heads=12, tokens="pooled")),
            "transformer_6x4": TransformerFusion(TransformerConfig(**released, depth=6, num_heads=4, tokens="pooled")),
            "mlp": MLPFusion(MLPConfig(**released)),
        }
    shared = backbone | {"pre_logits on every token": every_token}
    for name, head in heads.items():
        rows[name] = shared | {"head": head_cost(head, one_each, classifiers=False), "RoBERTa, two questions": roberta}
    tokens = {"video": 1 + patches, "verb_question": FRAMES_TEXT, "noun_question": FRAMES_TEXT}
    head = default_head(768, preset="released")
    mixer = head.mixer["video"]
    one_row = count(lambda: mixer.out_proj(empty(1, mixer.config.d_inner)))
    # A mean and a linear layer commute: ours projects one vector a stream, the original each token.
    each_token = Cost(0, one_row.macs * (sum(tokens.values()) - len(tokens)))
    own = head_cost(head, tokens, classifiers=False)
    rows["mambavl"] = shared | {"head": own, "out_proj on every token before the mean": each_token}
    return {name: (sum(parts.values(), Cost(0, 0.0)), parts) for name, parts in rows.items()}


def print_report(console: Console) -> dict[str, dict[str, float]]:
    """Table 4 in its parts, every encoder, our head at every level. Returns {row: {"params", "macs"}} of Table 4."""
    from mambavl.extract.encoders.published import PUBLISHED

    found = table_4()
    table = Table("row", "part", "parameters", "G MACs", "G scan", "published", title="the paper's Table 4, counted")
    for row, (total, parts) in found.items():
        for part, cost in parts.items():
            table.add_row(row, part, *_figures(cost), "")
        published = PUBLISHED_TABLE_4.get(row)
        table.add_row(row, "total", *_figures(total), f"{published[0]} G, {published[1]} M" if published else "not in the table")
        table.add_section()
    console.print(table)
    table = Table("encoder", "tokens", "parameters", "G MACs a clip or question")
    for name in PUBLISHED:
        model, (video, *_) = video_encoder(name)
        steps, height, width = model.token_grid(tuple(video.shape[2:]))
        cost = encoder_cost(name)
        table.add_row(name, f"1 + {steps}x{height}x{width}", f"{cost.parameters:,}", f"{cost.macs / 1e9:,.2f}")
    for name in ("roberta-base", "roberta-large", "distilroberta-base"):
        cost = text_encoder_cost(name)
        table.add_row(name, str(FRAMES_TEXT), f"{cost.parameters:,}", f"{cost.macs / 1e9:,.2f}")
    console.print(table)
    table = Table("our default head, d = 768, two questions of 40 tokens", "video tokens", "trainable", "G MACs", "G scan")
    for level, tokens in {"frame": 8, "grid 4x4": 8 * 16, "patch": 1568}.items():
        lengths = {"video": tokens, "verb_question": FRAMES_TEXT, "noun_question": FRAMES_TEXT}
        table.add_row(level, str(tokens), *_figures(head_cost(default_head(768), lengths)))
    console.print(table)
    console.print("MACs: multiply-adds of products and convolutions (x 2 = FLOPs). Encoders are frozen, heads are trained.")
    return {row: {"params": total.parameters, "macs": total.macs} for row, (total, _) in found.items()}


def _figures(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.parameters:,}", f"{cost.macs / 1e9:,.3f}", f"{cost.scan / 1e9:,.3f}"


def describe_encoder(name: str) -> dict[str, str]:
    """What `mambavl encoders show` prints. Raises UsageError for an unknown name."""
    from mambavl.configs import did_you_mean
    from mambavl.extract.encoders import ENCODERS
    from mambavl.extract.encoders.published import PUBLISHED

    if name not in ENCODERS:
        raise UsageError(f"there is no encoder {name!r}{did_you_mean(name, ENCODERS)}")
    record = ENCODERS[name]
    shown = {"kind": record.kind, "channels": str(record.width), "weights": record.weights, "licence": record.licence}
    if name not in PUBLISHED:
        return shown | {"state": record.state}
    model, (video, *_) = video_encoder(name)
    cost, pixels = encoder_cost(name), model.pixels
    steps, height, width = model.token_grid(tuple(video.shape[2:]))
    return shown | {
        "state": f"{record.state} once converted: mambavl encoders convert FILE --encoder {name} --out {name}.safetensors",
        "clip": f"{model.config.frames} frames of {pixels.image_size} px, {pixels.colour}, mean {_short(pixels.mean)}, "
        f"std {_short(pixels.std)}",
        "tokens": f"1 class token, then {steps} steps x {height} x {width}",
        "boxes": "(B, T, 4 slots, cx cy w h), or boxes=none" if hasattr(model.config, "objects") else "none",
        "parameters": f"{cost.parameters:,}",
        "multiply-adds": f"{cost.macs / 1e9:,.2f} G a clip",
        "keys": f"{len(model.state_dict())} tensors",
    }


def _short(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}" for value in values)

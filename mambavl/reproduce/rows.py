"""Tables 1, 2 and 3 of the paper, row by row: which published number, which recipe, which stores.

    matched     inputs as the paper describes them: features of the frames, RoBERTa's last layer, both through
                two-layer MLPs; in anticipation nothing later than 1 s before the action
    released    as the authors' later code has them: class token and all patch tokens, RoBERTa's embedding
                layer padded to 40; Table 3's other heads see the class token and RoBERTa's pooled vector
                alone; in anticipation InAViT's loader, which looks into the action

Both train the head alone, on frozen features, where the published rows fine-tune the encoder with it. A row
"video alone" is what the same head reaches without questions, beside the encoder's published number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mambavl.reproduce.inputs import Features

Inputs = Literal["matched", "released"]
Number = Literal[1, 2, 3]
QUESTIONS = ("verb_question", "noun_question")
ORVIT = {"matched": "orvit-hr", "released": "orvit"}  # Table 1 quotes 336 px, the released code runs 224
WIDTHS = {"avion-vit-l": 1024, "lavila-tsf-l": 1024}  # the head is as wide as the encoder; others have 768
LAST, EMBEDDED, POOLED = "last_hidden", "embedding_layer", "pooled"
NO_ENCODER = "this package has no such encoder; the number is the paper's quotation"


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    name: str
    published: str | None = None  # which row of configs/published.json is beside it
    recipe: str = ""  # the packaged one that it is trained by; empty: there is none
    sets: tuple[str, ...] = ()  # what of the recipe is otherwise
    streams: Mapping[str, tuple[Features, str]] = field(default_factory=dict)  # -> its store, its level
    why_not: str = ""  # where there is no recipe

    @property
    def stores(self) -> list[Features]:
        """What it reads, each store once."""
        return list(dict.fromkeys(features for features, _ in self.streams.values()))


@dataclass(frozen=True)
class Table:
    number: int
    task: Literal["recognition", "anticipation"]
    measure: Literal["top1", "mean_class_recall5"]
    inputs: Inputs
    rows: tuple[Row, ...]
    beside: str | None = None  # name of the row that the others are compared with

    @property
    def wanted(self) -> list[Features]:
        """The stores of all rows, each once."""
        return list(dict.fromkeys(one for row in self.rows for one in row.stores))


def table(number: Number, inputs: Inputs) -> Table:
    """Table 1, 2 or 3 of the paper."""
    return {1: _table_1, 2: _table_2, 3: _table_3}[number](inputs)


# --- the tables


def _table_1(inputs: Inputs) -> Table:
    orvit = ORVIT[inputs]
    rows = [
        _quoted("MeMViT 24x3", "memvit-24x3"),
        _quoted("Omnivore Swin-B", "omnivore-swin-b"),
        _quoted("MeMViT 16x4", "memvit-16x4"),
        _video_only("ORViT, video alone", "orvit-hr", orvit, inputs),
        _mambavl("MambaVL (ORViT)", "mambavl-orvit", orvit, inputs),
        _video_only("AVION ViT-B, video alone", "avion-vit-b-as-quoted", "avion-vit-b", inputs),
        _video_only("LaViLa TSF-B, video alone", "lavila-tsf-b", "lavila-tsf-b", inputs),
        _mambavl("MambaVL (ViT-B)", "mambavl-vit-b", "avion-vit-b", inputs),
        _video_only("AVION ViT-L, video alone", "avion-vit-l", "avion-vit-l", inputs),
        _video_only("LaViLa TSF-L, video alone", "lavila-tsf-l", "lavila-tsf-l", inputs),
        _mambavl("MambaVL (ViT-L)", "mambavl-vit-l", "avion-vit-l", inputs),
    ]
    return Table(1, "recognition", "top1", inputs, tuple(rows))


def _table_2(inputs: Inputs) -> Table:
    rows = [
        _quoted("AVT+", "avt-plus"),
        _quoted("MeMViT 32x3", "memvit-32x3-anticipation"),
        _quoted("MeMViT 16x4", "memvit-16x4-anticipation"),
        _quoted("AFFT, Swin+", "afft"),
        _video_only("ORViT-MF, video alone", "orvit-anticipation", "orvit", inputs, ahead=True),
        _mambavl("MambaVL (ORViT)", "mambavl-orvit-anticipation", "orvit", inputs, ahead=True),
    ]
    return Table(2, "anticipation", "mean_class_recall5", inputs, tuple(rows))


def _table_3(inputs: Inputs) -> Table:
    """The paper's four rows, and the controls without which they say little: of one input alone, of nothing
    shared (a sum is the only meeting point of modalities that share A), and of text that nobody has learnt.
    """
    main = _mambavl("MambaVL", "mambavl-orvit", ORVIT[inputs], inputs)
    video, level = main.streams["video"]
    text = main.streams[QUESTIONS[0]][0]
    untrained = replace(text, is_random=True)
    rows = [
        main,
        _other_head("MLP, 2 layers", "table3-mlp", main, ("head.name=mlp",)),
        _other_head("Transformer 6x4", "table3-transformer-6x4", main, _transformer(6, 4, inputs)),
        _other_head("Transformer 12x12", "table3-transformer-12x12", main, _transformer(12, 12, inputs)),
        replace(_control(main, "video only"), streams={"video": (video, level)}),
        replace(_control(main, "text only"), streams={name: main.streams[name] for name in QUESTIONS}),
        _control(main, "share none", "fusion.share=none"),
        replace(
            _control(main, "random text encoder"),
            streams={"video": (video, level)}
            | {name: (untrained, main.streams[name][1]) for name in QUESTIONS},
        ),
    ]
    return Table(3, "recognition", "top1", inputs, tuple(rows), beside=main.name)


# --- rows


def _quoted(name: str, published: str) -> Row:
    return Row(name, published, why_not=NO_ENCODER)


def _mambavl(name: str, published: str, encoder: str, inputs: Inputs, *, ahead: bool = False) -> Row:
    """The paper's head on both questions and an encoder's tokens. ahead: of the action that is to come."""
    levels = ("frame",) if inputs == "matched" else ("patch", "cls")
    rule = {"matched": "strict", "released": "inavit"}[inputs] if ahead else None
    video = Features(
        kind="video",
        encoder=encoder,
        levels=levels,
        task="anticipation" if ahead else "recognition",
        rule=rule,
        boxes=encoder.startswith("orvit"),
    )
    level = LAST if inputs == "matched" else EMBEDDED
    text = Features(
        kind="text",
        encoder="roberta-base",
        levels=_of_both(level),
        protocol="predicted" if ahead else "oracle",
    )
    sets = [f"head.d_model={WIDTHS.get(encoder, 768)}"]
    if inputs == "released" and not video.boxes:
        sets.append("fusion.pre_logits=false")  # which is ORViT's
    if ahead:
        sets.append("rank_by=action_mean_class_recall5")
    streams = {"video": (video, levels[0])} | {name: (text, f"{name}/{level}") for name in QUESTIONS}
    recipe = "fuse/paper" if inputs == "matched" else "fuse/released"
    return Row(name, published, recipe, tuple(sets), streams)


def _video_only(name: str, published: str, encoder: str, inputs: Inputs, *, ahead: bool = False) -> Row:
    whole = _mambavl(name, published, encoder, inputs, ahead=ahead)
    return replace(whole, streams={"video": whole.streams["video"]})


def _control(main: Row, name: str, *sets: str) -> Row:
    return replace(main, name=name, published=None, sets=(*main.sets, *sets))


def _other_head(name: str, published: str, main: Row, sets: tuple[str, ...]) -> Row:
    """Another head on the same tokens, with the MLPs of the paper's; or, as released, on one vector of each
    stream.
    """
    video, text = (main.streams[name][0] for name in ("video", QUESTIONS[0]))
    own = [one for one in main.sets if not one.startswith("fusion.")]
    own += ["head.input_norm=false", "head.dropout=0.0"]
    if main.recipe == "fuse/paper":
        return replace(main, name=name, published=published, sets=(*own, *sets))
    own += ["head.video_mlp_layers=0", "head.text_mlp_layers=3"]
    pooled = replace(text, levels=_of_both(POOLED))
    streams = {"video": (video, "cls")} | {name: (pooled, f"{name}/{POOLED}") for name in QUESTIONS}
    return replace(main, name=name, published=published, sets=(*own, *sets), streams=streams)


def _transformer(depth: int, heads: int, inputs: Inputs) -> tuple[str, ...]:
    tokens = "all" if inputs == "matched" else "pooled"
    return (
        "head.name=transformer",
        f"transformer.depth={depth}",
        f"transformer.num_heads={heads}",
        f"transformer.tokens={tokens}",
    )


def _of_both(level: str) -> tuple[str, ...]:
    return tuple(f"{name}/{level}" for name in QUESTIONS)

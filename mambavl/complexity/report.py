"""`mambavl bench complexity` and `mambavl encoders show`: what `count` counts, in tables, next to what was
published.
"""

from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from mambavl.complexity.count import (
    QUESTION_TOKENS,
    ROBERTA,
    Cost,
    Part,
    default_head,
    encoder_cost,
    head_cost,
    original_terms,
    recipe_cost,
    table_4,
    total,
    video_encoder,
)
from mambavl.configs import load, override
from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.extract.encoders.published.avion import Avion
from mambavl.extract.encoders.published.motionformer import Motionformer
from mambavl.extract.encoders.published.table import PUBLISHED, PublishedEncoder
from mambavl.extract.encoders.registry import ENCODERS
from mambavl.fuse.published import published
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report.cost import RowCost

COLUMNS = ("tokens", "trainable", "frozen", "total", "G MACs", "G FLOPs", "G scan")
# row of Table 4 -> why ours differ from its GFLOPs (multiply-adds, as video models print them)
WHY_TABLE_4 = {
    "orvit": "Printed without decimals. fvcore on the original gives 405.259.",
    "transformer_12x12": (
        "What it was counted with is not known. Six layers of four heads are nearer (413.36), their 199.6 M "
        "parameters are not."
    ),
    "mambavl": (
        "What it was counted with is not known. fvcore sees no scan; as 9 L D N + L D multiply-adds it would "
        "add 0.37: 412.84."
    ),
}
# Multiply-adds that fvcore's counter gave for the originals: one view, scores and sums of attention counted.
ORIGINAL_GMACS = {
    "orvit": 405.259, "orvit-hr": 1036.8, "motionformer": 369.507, "motionformer-hr": 958.754,
    "avion-vit-b": 449.98, "lavila-tsf-b": 370.05,
}  # fmt: skip


def print_report(console: Console) -> dict[str, dict[str, float]]:
    """Table 4 in its parts, every encoder, our head at every level. Returns {row: {"params", "macs"}} of
    Table 4: what the released code trains, and multiply-adds without the scan."""
    rows = table_4()
    _print_table_4(console, rows)
    _print_encoders(console)
    table = Table("our default head, d = 768", *COLUMNS)
    for level, tokens in {"frame": 8, "grid 4x4": 8 * 16, "patch": 8 * 14 * 14}.items():
        lengths = {"video": tokens, "verb_question": QUESTION_TOKENS, "noun_question": QUESTION_TOKENS}
        cost = head_cost(default_head(768), lengths)
        part = Part(f"{level} level, 8 steps of 14x14", cost, f"{tokens}; 2 x {QUESTION_TOKENS}")
        table.add_row(*_cells(part))
    console.print(table)
    console.print(
        "MACs: multiply-adds of products and convolutions; FLOPs: twice as many. The scan is in operations, "
        "and in neither. Encoders and RoBERTa are frozen in this project and heads trained; the released "
        "code of Table 4 trained ORViT too."
    )
    return {row: {"params": total(parts).trainable, "macs": total(parts).macs} for row, parts in rows.items()}


def _print_table_4(console: Console, rows: dict[str, list[Part]]) -> None:
    table = Table("part", *COLUMNS, title="the paper's Table 4 in its parts, one clip and two questions")
    for row, parts in rows.items():
        table.add_row(f"[bold]{row}")
        for part in parts:
            table.add_row(*_cells(part))
        table.add_row(*_cells(Part("total", total(parts))), end_section=True)
    console.print(table)
    columns = ("row", "published G", "counted", "differs", "published M", "counted", "why")
    table = Table(*columns, title="published and counted")
    for row, parts in rows.items():
        cost = total(parts)
        gmacs, millions = cost.macs / 1e9, cost.trainable / 1e6
        macs, differs, parameters, why = "-", "-", "-", "In the released code, not in the table."
        if row in WHY_TABLE_4:
            printed, why = published()[f"table4-{row.replace('_', '-')}"].values, WHY_TABLE_4[row]
            macs, parameters = (f"{printed[key]:g}" for key in ("gflops", "million_parameters"))
            differs = f"{100 * (gmacs / printed['gflops'] - 1):+.2f} %"
        table.add_row(row, macs, f"{gmacs:.2f}", differs, parameters, f"{millions:.2f}", why)
    console.print(table)


def _print_encoders(console: Console) -> None:
    table = Table("encoder alone", *COLUMNS, title="encoders, one clip or question, classifiers included")
    counted = {name: encoder_cost(name) for name in (*PUBLISHED, *ROBERTA)}
    for part in counted.values():
        table.add_row(*_cells(part))
    console.print(table)
    columns = ("encoder", "G MACs", "also, by fvcore's rules", "sum", "fvcore on the original")
    table = Table(*columns, title="ours and the originals")
    for name, original in ORIGINAL_GMACS.items():
        if name in counted:
            macs, terms = counted[name].cost.macs, original_terms(name)
            also = ", ".join(f"{term} {value / 1e9:+.2f}" for term, value in terms.items())
            sum_of_both = (macs + sum(terms.values())) / 1e9
            table.add_row(name, f"{macs / 1e9:.2f}", also, f"{sum_of_both:.2f}", f"{original:.2f}")
    console.print(table)
    console.print(
        "proj_kv: the half of it that the originals compute and never read; ours does not. "
        "The rest: how it is counted."
    )


def print_encoder(console: Console, name: str, sets: list[str]) -> dict[str, Any]:
    """What one encoder costs at any size (`image_size=336`, `frames=8`, ...). Returns {name: figures}."""
    part = encoder_cost(name, **override({}, sets))
    table = Table("encoder", *COLUMNS)
    table.add_row(*_cells(part))
    console.print(table)
    return {name: _figures(part.cost)}


def print_recipe(console: Console, recipe: str, sets: list[str], streams: list[str]) -> dict[str, Any]:
    """What the head of a recipe costs a row, encoders not included. Returns {recipe: figures}."""
    parts = recipe_cost(load(recipe, Recipe, sets), parse_streams(streams))
    table = Table("part", *COLUMNS, title=f"{recipe}, one row of {parts[0].tokens}")
    for part in parts:
        table.add_row(*_cells(replace(part, tokens="")))
    table.add_row(*_cells(Part("total", total(parts))))
    console.print(table)
    return {recipe: _figures(total(parts))}


def row_cost(recipe: Recipe) -> RowCost:
    """What the report shows of a recipe's head, at the longest row of its stores. Raises UsageError where
    they are gone.
    """
    parts = recipe_cost(recipe, {})
    whole = total(parts)
    return RowCost(macs=whole.macs, scan=whole.scan, tokens=parts[0].tokens)


def parse_streams(options: list[str]) -> dict[str, tuple[int, int]]:
    """`video=1568x768` -> {"video": (1568, 768)}: tokens and channels. Raises UsageError for other texts."""
    found = {}
    for option in options:
        name, _, size = option.partition("=")
        numbers = size.split("x")
        if not name or len(numbers) != 2 or not all(number.isdecimal() and int(number) for number in numbers):
            raise UsageError(
                f"--stream {option!r}: expected NAME=TOKENSxWIDTH, for example --stream video=1568x768"
            )
        found[name] = (int(numbers[0]), int(numbers[1]))
    return found


def _cells(part: Part) -> tuple[str, ...]:
    cost = part.cost
    parameters = [f"{number:,}" for number in (cost.trainable, cost.frozen, cost.parameters)]
    operations = [f"{number / 1e9:,.3f}" for number in (cost.macs, cost.flops, cost.scan)]
    return (part.name, part.tokens, *parameters, *operations)


def _figures(cost: Cost) -> dict[str, float]:
    return {
        "params": cost.parameters, "trainable": cost.trainable, "frozen": cost.frozen,
        "macs": cost.macs, "flops": cost.flops, "scan": cost.scan,
    }  # fmt: skip


def describe_encoder(name: str) -> dict[str, str]:
    """What `mambavl encoders show` prints. Raises UsageError for an unknown name."""
    if ":" in name:
        raise UsageError(f"{name}: is known only once it is built; `mambavl encoders check {name}` builds it")
    if name not in ENCODERS:
        raise UsageError(f"there is no encoder {name!r}{did_you_mean(name, list(ENCODERS))}")
    record = ENCODERS[name]
    shown = {
        "kind": record.kind,
        "channels": str(record.width),
        "weights": record.weights,
        "licence": record.licence,
    }
    if name not in PUBLISHED:
        return shown | {"state": record.state}
    model, clip = video_encoder(name)
    cost, pixels = encoder_cost(name).cost, model.pixels
    steps, height, width = model.grid_of(clip.video)
    convert = f"mambavl encoders convert FILE --encoder {name} --out {name}.safetensors"
    boxes = "none"
    if clip.boxes is not None:
        slots = clip.boxes.shape[2]
        boxes = f"{slots} slots a frame: --set boxes=h5 or hoa with boxes_path=..., or boxes=none"
    return shown | {
        "state": f"{record.state} once converted: {convert}",
        "clip": f"{model.config.frames} frames of {pixels.image_size} px, {pixels.colour}, "
        f"mean {_short(pixels.mean)}, std {_short(pixels.std)}",
        "tested with": _sampling(model),
        "tokens": f"1 class token, then {steps} steps x {height} x {width}",
        "boxes": boxes,
        "parameters": f"{cost.parameters:,}",
        "multiply-adds": f"{cost.macs / 1e9:,.2f} G a clip",
        "keys": f"{len(model.state_dict())} tensors",
    }


def _sampling(model: PublishedEncoder) -> str:
    """How the originals chose the frames that they were tested on, and the settings that do so here."""
    if not isinstance(model, Motionformer):
        rule = "avion" if isinstance(model, Avion) else "lavila"
        return f"frames spread over the segment, one centre crop: --set sampling.rule={rule}"
    stride = 4 if model.config.frames == 16 else 3
    settings = (
        "sampling.rule=mf_dense",
        f"sampling.stride={stride}",
        f"sampling.frames={model.config.frames}",
        "sampling.views=10",
        "crops=3",
    )
    sets = " ".join(f"--set {setting}" for setting in settings)
    return f"frames {stride}/30 s apart, 10 windows x 3 crops: {sets}"


def _short(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)

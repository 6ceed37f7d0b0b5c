"""A store's card: what its features are, how to load and to verify them, in the form that model hubs read.

All of it comes from the store's metadata; no feature is read, and no path of the machine is in it.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambavl.cache.classes import Classes
from mambavl.cache.licences import Terms, licence_of, terms_of
from mambavl.cache.reader import FeatureStore, open_store
from mambavl.cache.rows import OK, STATUS
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGER = "1M<n<10M"
TASKS = {"video": "video-classification", "audio": "audio-classification", "text": "feature-extraction"}
NOTICES = {  # of texts and histories whose protocol is oracle
    "questions": "ORACLE TEXT: the questions were written from the labels of the very rows that they are of. "
    "What a head reads in them it is told, and has not seen; scores with them are an upper bound.",
    "history": "ORACLE HISTORY: what was done before is told by its true labels, which no camera gives.",
}
ROOTED = re.compile(r"([\w.-]+:)?(~|/|\\|[A-Za-z]:[\\/]).*[\\/]")  # a path from the top, up to its last part


def store_card(path: Path, licence: str | None = None, tables: Mapping[str, str] | None = None) -> str:
    """The card of a finished store. tables: split -> a Parquet file of its rows, which lies beside the store.

    Raises DataError for a store that is not finished or is damaged, UsageError for a licence that its data do
    not allow, and for none where they are not known.
    """
    store = open_store(path)
    terms = terms_of_store(store)
    licence = licence_of(terms, licence, path)
    encoder = store.spec.recipe.encoder or EncoderIdentity(name="unknown")
    name = in_one_line(shown(encoder.name))
    lines = [
        *_head(store, licence, terms, tables or {}),
        "",
        f"# {store.spec.kind} features of {name}",
        "",
        f"{len(store):,} rows of frozen features, made once so that light heads can be trained on them: "
        "a plain Zarr v3 group in which each row carries its labels and its checksum.",
        *_notices(store.spec.recipe),
        *_rows(store),
        *_levels(store.layout.levels),
        *_recipe(store, name),
        *_loading(store),
        "",
        f"Licence: {in_one_line(licence)}. Encoders have their own.",
    ]
    if terms:
        lines[-1] += f" Made from {terms.says}"
    return "\n".join(lines) + "\n"


def terms_of_store(store: FeatureStore) -> Terms | None:
    """What the data set allows that a store was made from; None for one that is not known."""
    return terms_of(store.classes, store.spec.inputs.annotations or ())


def in_one_line(text: str) -> str:
    """A name of the user's, in one line, without the characters that Markdown would read."""
    return " ".join(text.split()).translate({ord(one): f"\\{one}" for one in "\\`*_[]<>|#"})


def shown(name: str) -> str:
    """The name of an encoder; of one that is a folder of somebody's machine the last part alone."""
    return ROOTED.sub(lambda found: found[1] or "", name)


def _head(store: FeatureStore, licence: str, terms: Terms | None, tables: Mapping[str, str]) -> list[str]:
    """What hubs read: YAML, a key a line, each value as JSON."""
    size = next((word for limit, word in SIZES if len(store) < limit), LARGER)
    head: dict[str, Any] = {"license": licence}
    if terms and licence == "other":
        head["license_name"] = f"{terms.name.lower()}-licence"
    if store.spec.kind in TASKS:
        head["task_categories"] = [TASKS[store.spec.kind]]
    head |= {"tags": ["mambavl", "features", "zarr", store.spec.kind], "size_categories": [size]}
    if tables:
        files = [{"split": split, "path": name} for split, name in tables.items()]
        head["configs"] = [{"config_name": "rows", "data_files": files}]
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---"]


def _notices(recipe: FeatureRecipe) -> list[str]:
    told = {"questions": recipe.questions, "history": recipe.history}
    oracles = [NOTICES[what] for what, part in told.items() if part and part.protocol == "oracle"]
    return [line for notice in oracles for line in ("", f"**{notice}**")]


def _rows(store: FeatureStore) -> list[str]:
    splits = Counter(segment.split for segment in store.segments)
    sound = Counter(
        segment.split
        for segment, code in zip(store.segments, store.status.tolist(), strict=True)
        if code == OK
    )
    lines = ["", "## Rows", "", "| split | rows | with features |", "|---|---|---|"]
    lines += [f"| {in_one_line(split)} | {splits[split]:,} | {sound[split]:,} |" for split in splits]
    failed = Counter(STATUS[code] for _, code, _ in store.failures)
    if failed:
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(failed.items()))
        lines += ["", f"Without features: {counts}. They keep their place, and hold NaN; never take them in."]
    return [*lines, "", *_labels(store.classes)]


def _labels(classes: Classes) -> list[str]:
    if not classes.targets:
        return ["The rows have no labels."]
    listed = [
        f"{name} ({target.count:,} classes{', several a row' if target.kind == 'multi' else ''})"
        for name, target in classes.targets.items()
    ]
    listed += [f"{name} ({' x '.join(one.of)})" for name, one in classes.derived.items()]
    return [f"Labels: {', '.join(listed)}; in `segments.csv`, their names in `classes.json`."]


def _levels(levels: Sequence[Level]) -> list[str]:
    lines = ["", "## Levels", "", "| level | kind | shape of a row | dtype |", "|---|---|---|---|"]
    for level in levels:
        shape = " x ".join(map(str, level.shape))
        of_row = f"tokens x {shape}" if level.kind == "ragged" else shape
        lines.append(f"| {in_one_line(level.name)} | {level.kind} | {of_row} | {level.dtype} |")
    return [
        *lines,
        "",
        "Dense: views x steps x ... x channels; from `length` steps on a row holds NaN. Ragged: `length` "
        "tokens of a row, from `start` on.",
    ]


def _recipe(store: FeatureStore, name: str) -> list[str]:
    recipe = store.spec.recipe
    facts = {"encoder": name, "weights": "not recorded"}
    if recipe.encoder:
        weights = (recipe.encoder.state or "unknown", f"sha256 {recipe.encoder.sha256 or 'not recorded'}")
        facts["weights"] = in_one_line(", ".join(weights))
    if recipe.sampling:
        facts["sampling"] = _pairs(recipe.sampling)
    if recipe.pixels:
        facts["pixels"] = f"{recipe.pixels.image_size}, {recipe.pixels.fit}, {recipe.pixels.colour}"
    if recipe.sound:
        facts["sound"] = f"{recipe.sound.rate} Hz, {recipe.sound.channels}"
    if recipe.questions:
        told = (("protocol", recipe.questions.protocol), ("backend", recipe.questions.backend))
        facts["questions"] = _pairs({key: value for key, value in told if value})
    if recipe.history:
        facts["history"] = _pairs({"protocol": recipe.history.protocol, "last": recipe.history.last})
    if store.spec.inputs.windows:
        windows = store.spec.inputs.windows
        facts["windows"] = f"{windows.length:g} s, one every {windows.stride:g} s"
    if recipe.imported:
        facts["imported"] = f"features that others made, {in_one_line(recipe.imported.format)}"
    lines = ["", "## How they were made", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    return [*lines, "", "The whole recipe is in `spec.json`."]


def _pairs(settings: Mapping[str, Any]) -> str:
    """`key value, ...`; what is a path stays out."""
    said = (f"{key} {shown(str(value))}" for key, value in settings.items())
    return in_one_line(", ".join(said))


def _loading(store: FeatureStore) -> list[str]:
    level = store.layout.levels[0]
    length, start = level.sibling("length"), level.sibling("start")
    plain = f'features = group["{level.name}"][row]  # {level.shape} of {level.dtype}'
    if level.kind == "ragged":
        plain = (
            f'first, count = int(group["{start}"][row]), int(group["{length}"][row])\n'
            f'features = group["{level.name}"][first : first + count]  # (tokens, {level.width})'
        )
    return [
        "",
        "## Loading",
        "",
        "```python",
        "from mambavl.cache import open_store",
        "",
        'store = open_store("STORE")  # `mambavl pull REPO STORE` wrote it',
        "rows = (store.status == 1).nonzero()[0][:2]",
        f'tokens, lengths = store.batch(rows, level="{level.name}")',
        "labels = [store.segments[row].labels for row in rows]",
        "```",
        "",
        "Without this program, as the plain Zarr that it is:",
        "",
        "```python",
        "import csv, zarr",
        "",
        'group = zarr.open_group("STORE", mode="r")',
        'row = int((group["status"][:] == 1).nonzero()[0][0])  # 1: has features',
        *plain.splitlines(),
        'label = list(csv.DictReader(open("STORE/segments.csv", newline="")))[row]',
        "```",
        "",
        "## Verifying",
        "",
        "`mambavl cache verify STORE --deep` reads every byte. `manifest.json` gives size and sha256 of each "
        f"file, and the store id, which is the digest of it all: `{store.store_id}`.",
    ]

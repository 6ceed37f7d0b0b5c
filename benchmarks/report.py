"""How large is a report's page, how long does it take to write, and how soon can it be used?

    python benchmarks/report.py [--rows 9668] [--runs 10] [--clips 300] [--repeats 5] [--page FILE]
                                [--quick] [--out FILE]

A validation split of EK100's size is made up: its 97 verbs and 300 nouns, rows of 138 videos, labels as
unevenly spread as its own; runs of different heads, each right about half of the time, with curves of 30
epochs; questions of two kinds; pictures of coloured patches and noise, which WebP packs no better than
kitchens. Reading videos is no part of it: `write` is from finished runs and pictures to the page, in a
process of its own, whose peak of memory counts what it imports, too.

Then Chromium opens the page from disk, without a screen, --repeats times, each in a new profile: from the
start of the navigation, by the page's own clock, until the page says that its rows are ready, and until a
click on the first row has shown it. MAMBAVL_CHROMIUM names another browser than the one on PATH.

The last line is JSON: megabytes, seconds to write, peak of memory in megabytes, requests besides the page
itself, errors of the console, milliseconds until a row can be used (median).
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from harness import Harness, clock, options, own_process, status_bytes
from PIL import Image

from mambavl.cache.classes import Classes, verb_noun_classes
from mambavl.cache.rows import Segment
from mambavl.cache.scores import log_softmax
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, QuestionsProvenance
from mambavl.configs import validate
from mambavl.extract.stills import FRAME, beside
from mambavl.fuse.metrics import measure
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report import Questions, Told, write_report
from mambavl.fuse.report.clips import FRAMES
from mambavl.fuse.report.told import Strips, Wanted
from mambavl.fuse.result import Environment, Params, Result, Rows, Scored, StreamProvenance, Trained
from mambavl.fuse.run import CLASSES, CURVES, write_arrays, write_result

VERBS, NOUNS, VIDEOS = 97, 300, 138
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SYLLABLES = ("cut", "wash", "pan", "lid", "pour", "dry", "bowl", "knife", "mix", "turn", "egg", "cup")


def made_classes() -> Classes:
    """EK100's numbers of classes, with made-up names."""
    names = [f"{one}-{other}:{third}" for one in SYLLABLES for other in SYLLABLES for third in SYLLABLES[:3]]
    return verb_noun_classes(
        dict(enumerate(names[:VERBS])),
        dict(enumerate(names[VERBS : VERBS + NOUNS])),
        tail_verbs=range(30, VERBS),
        tail_nouns=range(90, NOUNS),
        unseen_participants=("P03", "P07"),
    )


def made_rows(count: int, classes: Classes, rng: np.random.Generator) -> list[Segment]:
    labels = {}
    for name, size in (("verb", VERBS), ("noun", NOUNS)):
        share = 1 / np.arange(1, size + 1) ** 1.2
        labels[name] = rng.choice(size, count, p=share / share.sum()).tolist()
    found = []
    for row in range(count):
        video = row * VIDEOS // count
        start = 3.2 * (row - (video * count // VIDEOS)) + rng.random()
        verb, noun = labels["verb"][row], labels["noun"][row]
        words = " ".join(rng.choice(SYLLABLES, 4).tolist())
        found.append(
            Segment(
                narration_id=f"P{video % 37 + 1:02d}_{video + 1:02d}_{row}",
                participant_id=f"P{video % 37 + 1:02d}",
                video_id=f"P{video % 37 + 1:02d}_{video + 1:02d}",
                narration_timestamp="",
                start=start,
                stop=start + 2.7,
                start_frame=0,
                stop_frame=0,
                split="validation",
                narration=f"{classes.targets['verb'].classes[verb]} {words}",
                labels={"verb": verb, "noun": noun},
            )
        )
    return found


def make_run(folder: Path, number: int, rows: Sequence[Segment], classes: Classes) -> Path:
    """A finished run of made-up scores."""
    rng = np.random.default_rng([number, len(rows)])
    labels = {name: np.array([row.labels[name] for row in rows]) for name in classes.targets}
    scores = {}
    for name, target in classes.targets.items():
        logits = 1.6 * rng.normal(size=(len(rows), target.count))
        logits[np.arange(len(rows)), labels[name]] += rng.normal(4.0, 2.0, len(rows))
        scores[name] = log_softmax(logits).astype(np.float32)
    groups = {"unseen": np.array([row.participant_id in ("P03", "P07") for row in rows])}
    metrics = measure(classes, scores, labels, groups)
    encoder = EncoderIdentity(name="made-up", state="random", sha256="0" * 64, width=768)
    asked = QuestionsProvenance(
        protocol=("oracle", "generic")[number % 2], backend="template", prompt_version="1"
    )
    recipes = {"video": ("clip", FeatureRecipe(encoder=encoder))}
    for question in ("verb_question", "noun_question"):
        recipes[question] = (f"{question}/last_hidden", FeatureRecipe(encoder=encoder, questions=asked))
    raw = {
        "title": f"Head {number} on features that nobody extracted",
        "streams": {name: {"store": f"{name}.zarr", "level": level} for name, (level, _) in recipes.items()},
        "head": {"name": "mlp", "d_model": 64 + number},
        "train": {"epochs": 30},
    }
    recipe = validate(raw, Recipe, "made up")
    here = Environment(mambavl="0", torch="0", device="cpu")
    result = Result(
        title=raw["title"],
        head="mlp",
        split="validation",
        text_protocol=asked.protocol,
        notice=None,
        streams={
            name: StreamProvenance(
                stores=(f"{name}.zarr",),
                store_ids=("0" * 64,),
                level=level,
                class_token=False,
                views=1,
                recipe=made,
            )
            for name, (level, made) in recipes.items()
        },
        targets=classes.names,
        metrics=metrics,
        prior_metrics=metrics,
        rows=Rows(scored=len(rows), scored_by_prior=0, failed=0),
        params=Params(total=1_000_000, without_classifiers=700_000),
        seed=0,
        epochs=30,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        trained=Trained(precision="fp32", train_rows=67_217, train_seconds=100.0),
        scored=Scored(environment=here, scan_backend=None, precision="fp32"),
    )
    run = folder / f"run{number}"
    run.mkdir(parents=True)
    (run / CLASSES).write_bytes(classes.to_json())
    lines = [
        {
            "epoch": epoch,
            "loss": 5 / epoch**0.5 + rng.random() / 10,
            "verb_top1": 40 + epoch / 2,
            "noun_top1": 30 + epoch / 2,
        }
        for epoch in range(1, 31)
    ]
    (run / CURVES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_arrays(run, "validation", [row.narration_id for row in rows], classes, scores, labels)
    write_result(run, result)
    return run


def made_questions(rows: Sequence[Segment], rng: np.random.Generator) -> list[Questions]:
    found = []
    for protocol in ("oracle", "generic"):
        texts: dict[str, dict[str, str]] = {}
        for key in ("verb_question", "noun_question"):
            words = rng.choice(SYLLABLES, (len(rows), 3)).tolist()
            texts[key] = {
                row.narration_id: f"Which {key[:4]} is meant by <mask> {' '.join(own)}?"
                if protocol == "oracle"
                else f"Which {key[:4]} is it?"
                for row, own in zip(rows, words, strict=True)
            }
        found.append(Questions(protocol, "template", "1", "", texts))
    return found


def made_strips(wanted: Sequence[Wanted]) -> Strips:
    """Patches that differ a little from frame to frame, and noise."""
    found = {}
    for number, (row, times) in enumerate(wanted):
        rng = np.random.default_rng(number)
        patches = rng.integers(0, 256, (9, 16, 3))
        pictures = []
        for _ in times:
            moved = np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.uint8)
            large = np.asarray(Image.fromarray(moved).resize(FRAME, Image.Resampling.BICUBIC), np.float64)
            noisy = np.clip(large + rng.normal(0, 9, large.shape), 0, 255).astype(np.uint8)
            pictures.append(Image.fromarray(noisy))
        found[row.narration_id] = beside(pictures)
    return found


def write(folder: Path, page: Path, given: argparse.Namespace) -> dict[str, float]:
    """Make the runs and the page in this process."""
    classes = made_classes()
    rows = made_rows(given.rows, classes, np.random.default_rng(0))
    runs = [make_run(folder, number, rows, classes) for number in range(given.runs)]
    some = [(row, [row.start] * FRAMES) for row in rows[: given.clips]]
    pictures = list(made_strips(some).values())  # whichever rows are chosen, the sizes are these

    def strips(wanted: Sequence[Wanted]) -> Strips:
        return {row.narration_id: picture for (row, _), picture in zip(wanted, pictures, strict=False)}

    told = Told(
        segments={row.narration_id: row for row in rows},
        classes=classes,
        questions=made_questions(rows, np.random.default_rng(1)),
        strips=strips,
        clips=given.clips,
    )
    seconds, _ = clock(lambda: write_report(runs, page, told))
    return {"write_seconds": round(seconds, 1), "peak_megabytes": round(status_bytes("VmHWM") / 1e6)}


def open_in_browser(page: Path, times: int) -> dict[str, Any]:
    """What a reader waits for."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("MAMBAVL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)))
    requests: list[str] = []
    errors: list[str] = []
    ready, usable = [], []
    with sync_playwright() as play:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        for _ in range(times):
            browser = play.chromium.launch(executable_path=program, args=arguments)
            opened = browser.new_page()
            opened.on("request", lambda one: requests.append(one.url))
            opened.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
            opened.on("pageerror", lambda one: errors.append(str(one)))
            opened.goto(page.absolute().as_uri())
            opened.wait_for_selector("#rows[data-state=ready]")
            first = opened.inner_text(".rows-item b >> nth=0")
            opened.click(".rows-item >> nth=0")
            opened.wait_for_function(
                "id => document.querySelector('#rows-detail').dataset.row === id", arg=first
            )
            usable.append(opened.evaluate("performance.now()"))
            ready.append(opened.evaluate("performance.getEntriesByName('rows ready')[0].startTime"))
            version = browser.version
            browser.close()
    outside = [url for url in requests if url != page.absolute().as_uri() and not url.startswith("data:")]
    return {
        "browser": version,
        "requests": len(outside),
        "errors": len(errors),
        "ready_ms": [round(one) for one in ready],
        "usable_ms": [round(one) for one in usable],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, repeats=5)
    parser.add_argument("--rows", type=int, default=9668)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--page", type=Path, help="keep the page here")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # the child that makes the page
    given = parser.parse_args(arguments)
    if given.write:
        print(json.dumps(write(given.write, given.page, given)))
        return
    if given.quick:
        given.rows, given.runs, given.clips, given.repeats = 120, 2, 6, 1
    harness = Harness(given, "numpy", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        page = given.page or Path(folder) / "report.html"
        sizes = [f"--{name}={getattr(given, name)}" for name in ("rows", "runs", "clips")]
        found = own_process(*sizes, "--write", f"{folder}/runs", "--page", page)
        found["megabytes"] = round(page.stat().st_size / 1e6, 2)
        found |= open_in_browser(page, given.repeats)
    harness.said["browser"] = found.pop("browser")
    for name, value in found.items():
        print(f"{name:16} {value}")
    last = {
        name: found[name] for name in ("megabytes", "write_seconds", "peak_megabytes", "requests", "errors")
    }
    harness.end(found, {**last, "usable_ms": round(statistics.median(found["usable_ms"]))})


if __name__ == "__main__":
    main()

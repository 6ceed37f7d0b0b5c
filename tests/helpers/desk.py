"""The desk of a reader of README and docs: EK100's lists and videos in miniature, files that the pages name,
and tiny encoders where a page names one whose weights come from a network.

    EK100/ VIDEOS/ BOXES/ 55 rows of 11 videos and kitchens, a test list of 5; frames that show their number
    fuse/RECIPE           the packaged recipes, narrow and short
    and whatever else a page takes for granted: my.toml, kitchen.mp4, actions.csv, *.safetensors, ...
"""

import csv
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from helpers import detections, hf
from helpers.clips import write_video
from helpers.dataset import COLUMNS, stamp, write
from helpers.jobs import make_roberta
from helpers.own import GOOD
from mambavl.configs import read_toml, set_key
from mambavl.extract.encoders import image, registry, text
from mambavl.extract.encoders.hf import transformers_model
from mambavl.extract.encoders.published import avion, motionformer, orvit, table
from mambavl.fuse.idle import flatten

FPS, FRAMES, PER_VIDEO = 10, 60, 5
VERBS = ("cut", "wash", "open", "take")
NOUNS = ("onion", "cup", "drawer", "pan")
KITCHENS = 11  # of which two are for validation
PATCH = 112  # pixels: few tokens at the sizes that the originals are run at
TINY = {"width": 64, "heads": 1, "depth": 1, "patch_size": PATCH}  # their heads are 64 channels wide
THEIRS = {"avion-vit-b": (avion, ("fused",)), "motionformer-hr": (motionformer, ()), "orvit": (orvit, ())}
MAKES: dict[str, dict[str, Any]] = {  # published encoder -> its sizes
    "avion-vit-b": TINY,
    "motionformer-hr": TINY,
    "orvit": TINY | {"depth": 2, "orvit_layers": (1,)},
}


def make_desk(folder: Path) -> Path:
    """All of it; a few seconds."""
    _lists(folder / "EK100")
    for number in range(KITCHENS + 1):
        video = f"P{number + 1:02d}_101"
        write_video(folder / "VIDEOS" / video[:3] / "videos" / f"{video}.MP4", frames=FRAMES, fps=FPS)
        hand = (detections.RIGHT, 0.5, (0.0, 0.0, 0.5, 0.5))
        shown = detections.image_message(1, [hand], video=video)
        detections.write(folder / "BOXES" / f"{video}.pkl", [shown])
    write_video(folder / "kitchen.mp4", frames=95 * FPS, fps=FPS)
    _recipes(folder)
    _files(folder)
    (folder / ".models" / "roberta").mkdir(parents=True)
    make_roberta(folder / ".models" / "roberta")
    hf.save_video(folder / ".models" / "vjepa2", "vjepa2")
    return folder


def _lists(folder: Path) -> None:
    """EK100's 97 verbs and 300 nouns, of which four each are done; one kitchen a video."""
    folder.mkdir(parents=True)
    header = ("id", "key", "instances", "category")
    for kind, names, count in (("verb", VERBS, 97), ("noun", NOUNS, 300)):
        keys = [*names, *(f"{kind}{number}" for number in range(len(names), count))]
        rows = [(number, key, f"['{key}']", "abcd"[number % 4]) for number, key in enumerate(keys)]
        write(folder / f"EPIC_100_{kind}_classes.csv", header, rows)
        write(folder / f"EPIC_100_tail_{kind}s.csv", (kind,), [(1,)])
    write(folder / "EPIC_100_unseen_participant_ids_validation.csv", ("participant_id",), [("P11",)])
    rows: dict[str, list[tuple]] = {"train": [], "validation": [], "test": []}
    for number in range(KITCHENS + 1):
        kitchen = f"P{number + 1:02d}"
        split = "test" if number == KITCHENS else "validation" if number >= KITCHENS - 2 else "train"
        for place in range(PER_VIDEO):
            start, verb, noun = place * 1.1, (place + number) % 4, (place * (1 + number % 2)) % 4
            words = (VERBS[verb], NOUNS[noun])
            rows[split].append((
                f"{kitchen}_101_{place}", kitchen, f"{kitchen}_101", "00:00:01.000", stamp(start),
                stamp(min(start + 1.6, 6.0)), 1, 2, " the ".join(words), words[0], verb, words[1], noun,
                f"['{words[1]}']", f"[{noun}]",
            ))  # fmt: skip
    for split in ("train", "validation"):
        write(folder / f"EPIC_100_{split}.csv", COLUMNS, rows[split])
    write(folder / "EPIC_100_test_timestamps.csv", COLUMNS[:8], [row[:8] for row in rows["test"]])
    info = [(f"P{number + 1:02d}_101", FRAMES / FPS, float(FPS), "160x48") for number in range(KITCHENS + 1)]
    write(folder / "EPIC_100_video_info.csv", ("video_id", "duration", "fps", "resolution"), info)


def _recipes(folder: Path) -> None:
    """The packaged ones under their own names: a file where the reader is comes before them."""
    packaged = Path(registry.__file__).parents[2] / "configs" / "fuse"
    small = {
        "head.d_model": 16, "fusion.d_state": 4, "train.epochs": 2, "train.batch_size": 16,
        "train.warmup_epochs": 1, "transformer.num_heads": 4, "attentive.num_heads": 4, "mixture.matrices": 2,
    }  # fmt: skip
    for file in packaged.glob("*.toml"):
        raw = read_toml(file)
        given = flatten(raw)
        for key, value in small.items():
            if key in given or key.partition(".")[0] == "train":
                set_key(raw, key, value)
        if raw.get("head", {}).get("name") == "counts":
            raw.pop("train", None)
        if "seed" in raw.get("grid", {}).get("train", {}):
            raw["grid"]["train"]["seed"] = [0, 1]
        (folder / "fuse").mkdir(exist_ok=True)
        (folder / "fuse" / file.stem).write_text(tomli_w.dumps(raw))


def _files(folder: Path) -> None:
    (folder / "my.toml").write_text((folder / "fuse" / "default").read_text())
    (folder / "my_module.py").write_text(GOOD)
    with open(folder / "actions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("clip", "from", "to", "phase", "tool_name", "tags"))
        for number, phase in enumerate(("train", "train", "val", "val")):
            rows.writerow((f"own{number}", 0, 1500, phase, ("knife", "fork")[number % 2], "cup|pan"))
            rows.writerow((f"own{number}", 2000, 5500, phase, "knife", ""))
            write_video(folder / "VIDEOS" / f"own{number}.mp4", frames=FRAMES, fps=FPS)
    with open(folder / "theirs.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("narration_id", "verb_question", "noun_question"))
        for split in ("train", "validation"):
            with open(folder / "EK100" / f"EPIC_100_{split}.csv", newline="") as lists:
                for row in csv.DictReader(lists):
                    rows.writerow((row["narration_id"], "what is done?", "with which thing?"))
    (folder / "epic-sounds").mkdir()
    header = (
        "annotation_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "description",
        "class", "class_id",
    )  # fmt: skip
    for split, kitchens in {"train": ("P01", "P02"), "validation": ("P11",)}.items():
        rows = [
            (f"{kitchen}_101_{place}", kitchen, f"{kitchen}_101", stamp(4 * place), stamp(4 * place + 1),
             "a clink", ("metal", "water")[place], place)
            for kitchen in kitchens
            for place in (0, 1)
        ]  # fmt: skip
        write(folder / "epic-sounds" / f"EPIC_Sounds_{split}.csv", header, rows)
    for name, sizes in MAKES.items():
        model = registry.build(name, weights="random", **sizes)
        module, words = THEIRS[name]
        state = module.theirs(model.state_dict(), model.config, *words)
        file = folder / ("ek_motionformer_336_16x4.pyth" if name == "motionformer-hr" else f"{name}.pth")
        torch.save({"model_state": state}, file)
        if name != "motionformer-hr":  # which a page converts
            table.convert(file, name, folder / f"{name}.safetensors")


def without_a_network(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """What these names would fetch is tiny, and is here; whatever else is asked for is built as ever."""
    models = folder / ".models"
    roberta = registry.ENCODERS["roberta-base"]
    build = lambda weights: text.transformers_text("roberta-base", weights or str(models / "roberta"))
    patch.setitem(registry.ENCODERS, "roberta-base", replace(roberta, build=build, width=16))
    fetched = {"hf": {"facebook/vjepa2-vitl-fpc64-256": str(models / "vjepa2")}}
    stand_in: dict[str, Callable[..., Any]] = {
        "timm": lambda name, weights, **sizes: image.timm_model(
            "test_vit", "random" if weights is None else weights, **sizes
        ),
        "hf": lambda name, weights, **sizes: transformers_model(
            fetched["hf"].get(name, name), weights, **sizes
        ),
    }
    for prefix, make in stand_in.items():
        patch.setitem(registry.PREFIXES, prefix, partial(make))


# --- what a page shows


FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
PROGRAMS = re.compile(
    r"(?:mambavl|python|pip|pytest|ruff|mypy|accelerate|torchrun|git|cd|\.ci/run|[A-Z_]+=\S+)(?= |$)", re.M
)


def blocks_of(page: str) -> list[tuple[str, str, str]]:
    """(reason why not, language, text) of each fenced block; the reason is empty where it is run. A comment
    above a block that is no such reason is none.
    """
    found = []
    for match in FENCE.finditer(page):
        mark = match["mark"] or ""
        reason = mark.removeprefix("not run: ") if mark.startswith("not run: ") else ""
        found.append((reason, match["language"], match["text"]))
    return found


def is_of_commands(language: str, text: str) -> bool:
    """Whether a block is to be typed; trees, lists and files are not."""
    return not language and any(PROGRAMS.match(line) for line in text.splitlines())


def lines_of(text: str) -> list[str]:
    """The commands of a block, those that go on behind a backslash as one; comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def words_of(line: str, folder: Path) -> list[str]:
    """What a shell makes of a line: comments go, quotes go, patterns and substitutions are filled in."""
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], cwd=folder, capture_output=True, check=True
    )
    return shown.stdout.decode().split("\0")[:-1]

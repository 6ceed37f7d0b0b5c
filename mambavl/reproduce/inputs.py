"""The stores that a row of a table is made from: what each must hold, whether a store is one, and the
commands that make it.

A store is known by its spec, never by its name: encoder, weights, task, sampling rule, boxes, text protocol
and levels are in there.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mambavl.cache import canonical
from mambavl.cache.spec import MANIFEST, EncoderIdentity, Spec, read_spec
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders.published.table import PUBLISHED
from mambavl.extract.encoders.registry import ENCODERS
from mambavl.extract.sampling import Task

LISTS, VIDEOS, BOXES = "EK100", "VIDEOS", "BOXES"  # what a command calls them; yours to fill in
RECOGNISER = "avion-vit-b"  # whose scores the predicted questions are about


@dataclass(frozen=True, kw_only=True)
class Features:
    """A store that a row reads."""

    kind: Literal["video", "text"]
    encoder: str
    levels: tuple[str, ...]  # as a recipe names them: `patch`, `verb_question/last_hidden`
    task: Task = "recognition"
    rule: str | None = None  # of sampling, where the row is of one alone
    boxes: bool = False  # of objects, which ORViT looks at
    protocol: str | None = None  # of questions
    is_random: bool = False  # an encoder that was never trained is what the row asks for

    @property
    def name(self) -> str:
        """What its store is called where the commands make it."""
        parts = [self.encoder, self.protocol or ""]
        if self.kind == "video":
            parts += ["anticipation" if self.task == "anticipation" else "", self.rule or ""]
        parts += ["random" if self.is_random else ""]
        return "-".join(part for part in parts if part)

    @property
    def said(self) -> str:
        """`video by orvit-hr, levels frame, object boxes`."""
        levels = "level " if len(self.levels) == 1 else "levels "
        parts = [f"{self.kind} by {self.encoder}{' with random weights' if self.is_random else ''}"]
        parts += [levels + ", ".join(self.levels)]
        if self.kind == "text":
            parts.append(f"{self.protocol} questions")
        elif self.task == "anticipation":
            parts.append(f"anticipation by rule {self.rule}")
        if self.boxes:
            parts.append("object boxes")
        return ", ".join(parts)

    @property
    def weights(self) -> str:
        """Where its encoder's are from."""
        return "drawn at random" if self.is_random else ENCODERS[self.encoder].weights

    def faults(self, spec: Spec, allowed: Collection[str]) -> list[str]:
        """Why a store of this spec is not one for the row. allowed: encoders whose random weights are taken
        for trained ones.
        """
        recipe = spec.recipe
        encoder = recipe.encoder or EncoderIdentity(name="unknown", state="unknown")
        if spec.kind != self.kind or encoder.name != self.encoder:
            return [f"it is {spec.kind} by {encoder.name}"]
        faults = []
        if self.is_random and encoder.state != "random":
            faults.append(f"its weights are {encoder.state}, and the row is of random ones")
        if not self.is_random and encoder.state == "random" and encoder.name not in allowed:
            faults.append(f"its weights are random; --allow-random {encoder.name} takes it all the same")
        there = {level.name for level in spec.levels}
        if lacking := [level for level in self.levels if level not in there]:
            faults.append(f"it has no level {', '.join(lacking)}, but {', '.join(sorted(there))}")
        if self.kind == "text":
            protocol = recipe.questions.protocol if recipe.questions else "unknown"
            if protocol != self.protocol:
                faults.append(f"its questions are {protocol}, not {self.protocol}")
            return faults
        sampling = recipe.sampling or {}
        if (task := sampling.get("task", "unknown")) != self.task:
            faults.append(f"it was extracted for {task}, not {self.task}")
        elif self.rule and (rule := sampling.get("rule")) != self.rule:
            faults.append(f"its sampling.rule is {rule}, not {self.rule}")
        if self.boxes and recipe.boxes is None:
            faults.append("it was extracted without object boxes")
        return faults

    def commands(self) -> list[str]:
        """What makes the store, and first what that needs."""
        return self._text_commands() if self.kind == "text" else self._video_commands()

    def _video_commands(self) -> list[str]:
        known = PUBLISHED[self.encoder]
        weights = f"{self.encoder}.safetensors"
        convert = f"mambavl encoders convert FILE --encoder {self.encoder} --out {weights}"
        words = [
            f"mambavl extract video --annotations {LISTS} --videos {VIDEOS} --encoder {self.encoder}",
            f"--weights {weights} --out stores/{self.name}.zarr",
        ]
        if self.task == "anticipation":
            words.append(f"--task anticipation --set sampling.rule={self.rule}")
        else:
            words.append(f"--set sampling.rule={_tested_with(self.encoder)}")
        words.append(f"--set 'levels={json.dumps(list(self.levels))}'")
        if self.boxes:
            words.append(f"--set boxes=hoa --set boxes_path={BOXES}")
        return [f"{convert}    # FILE: {known.file}", " ".join(words)]

    def _text_commands(self) -> list[str]:
        questions = f"questions-{self.protocol}.jsonl"
        levels = list(dict.fromkeys(level.partition("/")[2] for level in self.levels))
        extract = (
            f"mambavl extract text --annotations {LISTS} --questions {questions} --encoder {self.encoder} "
            f"--out stores/{self.name}.zarr"
        )
        if self.is_random:
            extract += " --weights random"
        if levels != ["last_hidden"]:
            extract += f" --set 'levels={json.dumps(levels)}'"
        return [*_question_commands(str(self.protocol), questions), extract]


def commands(wanted: Iterable[Features]) -> list[str]:
    """What makes some stores, each command once: a store that several rows read has the levels of all."""
    levels: dict[Features, list[str]] = {}
    for one in wanted:
        levels.setdefault(replace(one, levels=()), []).extend(one.levels)
    stores = [replace(one, levels=tuple(dict.fromkeys(names))) for one, names in levels.items()]
    return list(dict.fromkeys(command for store in stores for command in store.commands()))


def _tested_with(encoder: str) -> str:
    """The sampling rule that an encoder's authors tested it with."""
    rules = {"avion": "avion", "lavila": "lavila"}
    return rules.get(encoder.partition("-")[0], "mf_dense")


def _question_commands(protocol: str, file: str) -> list[str]:
    generate = f"mambavl questions generate --annotations {LISTS} --protocol {protocol} --out {file}"
    if protocol != "predicted":
        return [generate]
    seen = Features(kind="video", encoder=RECOGNISER, levels=("frame",), task="anticipation", rule="strict")
    one = f"'use_streams=[\"video\"]' --set streams.video.store=stores/{seen.name}.zarr"
    train = f"mambavl train fuse/default --set {one}"
    parts = [f"{number}/5" for number in range(5)]
    held = [f"{train} --set data.hold_out={part} --out runs/seen-{part[0]}" for part in parts]
    scores = " ".join(f"--train-from runs/seen-{part[0]}/scores/train_{part[0]}_of_5.npz" for part in parts)
    whole = f"{train} --out runs/seen"
    return [
        *seen.commands(),
        whole,
        *held,
        f"{generate} --scores runs/seen/scores/validation.npz {scores}",
    ]


# --- which stores are there


@dataclass(frozen=True)
class Found:
    """The stores that were named, by path."""

    specs: Mapping[Path, Spec]
    unfinished: Mapping[Path, str]  # why a store cannot be read
    allowed: tuple[str, ...]  # encoders whose random weights are taken for trained ones

    def fitting(self, wanted: Features) -> tuple[Path, ...]:
        """The stores of a row: several are parts of one extraction, train and validation for example. Raises
        UsageError where stores of different recipes fit.
        """
        paths = [path for path, spec in self.specs.items() if not wanted.faults(spec, self.allowed)]
        recipes = {canonical.digest(self.specs[path].recipe.to_dict()) for path in paths}
        if len(recipes) > 1:
            named = ", ".join(str(path) for path in paths)
            raise UsageError(
                f"{named}: each is {wanted.said}, and they were made by different recipes; name the one that "
                "is meant with --stores (`mambavl cache diff A B` says how they differ)"
            )
        return tuple(paths)

    def why_not(self, wanted: Features) -> list[str]:
        """What keeps those of the wanted encoder from being taken, and those that could not be read."""
        near = []
        for path, spec in self.specs.items():
            encoder = spec.recipe.encoder
            if spec.kind == wanted.kind and encoder and encoder.name == wanted.encoder:
                near.append(f"{path}: {'; '.join(wanted.faults(spec, self.allowed))}")
        return near + [f"{path}: {why}" for path, why in self.unfinished.items()]


def find(places: Sequence[Path], wanted: Iterable[Features], allowed: Sequence[str]) -> Found:
    """The stores among `places`, each a store or a folder of stores. Raises UsageError for a place without
    any, and for a store named itself that no row can read.
    """
    specs: dict[Path, Spec] = {}
    unfinished: dict[Path, str] = {}
    wanted = list(wanted)
    for place in places:
        is_store = (place / "spec.json").exists()
        stores = [place] if is_store else sorted(file.parent for file in place.glob("*/spec.json"))
        if not stores:
            raise UsageError(
                f"--stores {place}: is no feature store and holds none; `--plan` says what is needed"
            )
        for store in stores:
            if not (store / MANIFEST).exists():
                unfinished[store] = "is not finished; the command that made it goes on with it"
                continue
            try:
                specs[store] = read_spec(store)
            except DataError as error:
                unfinished[store] = str(error).removeprefix(f"{store}: ")
        if is_store and place in specs:
            reasons = {one.said: one.faults(specs[place], allowed) for one in wanted}
            if wanted and all(reasons.values()):
                lines = [f"not {said}: {'; '.join(faults)}" for said, faults in reasons.items()]
                raise UsageError("\n  ".join([f"--stores {place}: no row of this table reads it", *lines]))
    return Found(specs, unfinished, tuple(allowed))

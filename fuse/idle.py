"""Keys of a recipe that cannot act beside its other keys: another head's, or another optimiser's.

Such a key would make runs that differ in name alone, or leave somebody believing that they had changed a
head. A recipe is looked at as its TOML file has it: only what was given can be at fault.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from mambavl.configs import Config
from mambavl.fuse.attentive import AttentiveSettings
from mambavl.fuse.baselines import TransformerSettings
from mambavl.fuse.counts import COUNTS, CountsSettings
from mambavl.fuse.cross import CrossSettings
from mambavl.fuse.deep import DeepSettings
from mambavl.fuse.fusion import FusionSettings, preset_of
from mambavl.fuse.head import HeadSettings
from mambavl.fuse.mixture import MixtureSettings
from mambavl.fuse.optimizer import TrainConfig

SSM_HEADS = ("mambavl", "bidirectional", "cross", "mixture", "deep")
TRAINED = (*SSM_HEADS, "mlp", "transformer", "attentive")  # all but the one that counts
WITHOUT_TRAINING = {"batch_size", "keep", "score_dtype"}  # keys of [train] that act on a head that counts
OWN: dict[str, tuple[type[Config], tuple[str, ...]]] = {  # section of some heads -> its record, the heads
    "fusion": (FusionSettings, SSM_HEADS),
    "cross": (CrossSettings, ("cross",)),
    "mixture": (MixtureSettings, ("mixture",)),
    "deep": (DeepSettings, ("deep",)),
    "transformer": (TransformerSettings, ("transformer",)),
    "attentive": (AttentiveSettings, ("attentive",)),
    "counts": (CountsSettings, (COUNTS,)),
}


class Need(NamedTuple):
    """What a key acts with alone, and what the recipe has in its place."""

    key: str
    values: tuple[str, ...]
    found: Any

    def __str__(self) -> str:
        *others, last = self.values
        values = f"{', '.join(others)} or {last}" if others else last
        return (
            f"acts only with {self.key} = {values}, and that is {self.found}; "
            f"leave it out, or set {self.key}={self.values[0]}"
        )


# key -> which keys must have one of which values for it to act
NEEDS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    f"{section}.{key}": [("head.name", heads)]
    for section, (record, heads) in OWN.items()
    for key in record.model_fields
}
# a head that counts has no width and no updates
NEEDS |= {f"head.{key}": [("head.name", TRAINED)] for key in HeadSettings.model_fields}
NEEDS |= {
    f"train.{key}": [("head.name", TRAINED)]
    for key in TrainConfig.model_fields
    if key not in WITHOUT_TRAINING
}
NEEDS["fusion.expand"].append(("fusion.mixer", ("mamba",)))  # a plain mixer is d_model wide inside
NEEDS["train.lr_ssm"] = [("head.name", SSM_HEADS)]
NEEDS["data.require"] = [("data.missing", ("mask",))]  # else every stream is required
NEEDS["train.momentum"].append(("train.optimizer", ("sgd",)))


def own_sections(raw: dict[str, Any]) -> list[str]:
    """The sections that the recipe's head reads and some others do not; none where the name is no head's."""
    head = raw.get("head", {})
    name = head.get("name", "mambavl") if isinstance(head, dict) else None
    return [section for section, (_, heads) in OWN.items() if name in heads]


def idle(raw: dict[str, Any]) -> dict[str, Need]:
    """The keys of `raw` that cannot act -> what they need to. Keys that no recipe has are left to others."""
    given = flatten(raw)
    preset = preset_of({"preset": given.get("fusion.preset")}, ["mixer"])
    values = {
        "head.name": "mambavl",
        "data.missing": "refuse",
        "fusion.mixer": preset.get("mixer", "mamba"),
        "train.optimizer": "adamw",
        **{loss: "cross_entropy" for key in given if (loss := _loss_beside(key))},
        **given,
    }
    found: dict[str, Need] = {}
    for key in given:
        for needed, allowed in _needs_of(key):
            if values[needed] not in allowed:
                found.setdefault(key, Need(needed, allowed, values[needed]))
    return found


def _needs_of(key: str) -> list[tuple[str, tuple[str, ...]]]:
    if loss := _loss_beside(key):
        return [(loss, ("focal",))]
    of_train = ".".join(key.split(".")[:2]) if key.startswith("train.") else key  # train.drop_streams.audio
    return NEEDS.get(of_train, [])


def _loss_beside(key: str) -> str | None:
    """`targets.NAME.loss` for `targets.NAME.gamma`, which acts on a focal loss alone; None for other keys."""
    section, _, rest = key.partition(".")
    return f"{key.removesuffix('gamma')}loss" if section == "targets" and rest.endswith(".gamma") else None


def without(raw: dict[str, Any], keys: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """A copy of a recipe without some `key` and `section.key`."""
    left_out = set(keys)
    return {
        key: without(value, left_out, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in raw.items()
        if f"{prefix}{key}" not in left_out
    }


def flatten(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": [..]}} -> {"train.lr": [..]}."""
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found

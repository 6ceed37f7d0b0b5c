"""Keys of a recipe that cannot act beside its other keys: another head's, or another optimiser's.

Such a key would make runs that differ in name alone, or leave somebody believing that they had changed a
head. A recipe is looked at as its TOML file has it: only what was given can be at fault.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from mambavl.configs import Config
from mambavl.fuse.attentive import AttentiveSettings
from mambavl.fuse.baselines import TransformerSettings
from mambavl.fuse.fusion import FusionSettings, preset_of

OWN: dict[str, tuple[str, type[Config]]] = {  # head -> the section that it alone reads, and its record
    "mambavl": ("fusion", FusionSettings),
    "transformer": ("transformer", TransformerSettings),
    "attentive": ("attentive", AttentiveSettings),
}


class Need(NamedTuple):
    """What a key acts with alone, and what the recipe has in its place."""

    key: str
    value: str
    found: Any

    def __str__(self) -> str:
        return (
            f"acts only with {self.key} = {self.value}, and that is {self.found}; "
            f"leave it out, or set {self.key}={self.value}"
        )


NEEDS: dict[str, list[tuple[str, str]]] = {  # key -> which keys must have which values for it to act
    f"{section}.{key}": [("head.name", head)]
    for head, (section, record) in OWN.items()
    for key in record.model_fields
}
NEEDS["fusion.expand"].append(("fusion.mixer", "mamba"))  # a plain mixer is d_model wide inside
NEEDS["train.lr_ssm"] = [("head.name", "mambavl")]  # the others have no SSM
NEEDS["data.require"] = [("data.missing", "mask")]  # else every stream is required
NEEDS["train.momentum"] = [("train.optimizer", "sgd")]


def own_section(raw: dict[str, Any]) -> str | None:
    """The section that the recipe's head alone reads; None where it has none, or the name is no head's."""
    head = raw.get("head", {})
    name = head.get("name", "mambavl") if isinstance(head, dict) else None
    return OWN[name][0] if isinstance(name, str) and name in OWN else None


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
        for needed, value in _needs_of(key):
            if values[needed] != value:
                found.setdefault(key, Need(needed, value, values[needed]))
    return found


def _needs_of(key: str) -> list[tuple[str, str]]:
    loss = _loss_beside(key)
    return [(loss, "focal")] if loss else NEEDS.get(key, [])


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

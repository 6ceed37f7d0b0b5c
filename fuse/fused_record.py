"""What a result says of scores that are several runs' as one: which runs, by which rule, what was chosen on
which rows. Their result.json has this as `fused`, and the folder as fusion.json from the first moment on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mambavl.configs.errors import some
from mambavl.fuse.fused import Choice, Rule


@dataclass(frozen=True, kw_only=True)
class FusedInput:
    """Scores that were mixed with others."""

    run: str  # the folder
    title: str
    sha256: str  # of the file of scores
    held_run: str | None = None  # the same recipe, trained without the rows that were chosen on
    held_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fused:
    """How scores of several runs became one."""

    rule: Rule
    inputs: tuple[FusedInput, ...]
    on: str | None = None  # rows that were chosen on: `train_0_of_5`; None: nothing was chosen
    participants: tuple[str, ...] = ()  # whose rows those are
    known: tuple[str, ...] = ()  # those of them whose other rows were trained on: held out by video
    per: tuple[str, ...] | None = None  # targets to choose for; of the others all runs weigh alike. None: all
    chosen: Mapping[str, Choice] = field(default_factory=dict)  # by target

    @property
    def sources(self) -> list[tuple[str, ...]]:
        """Equal where the same scores are mixed by the same rule, wherever they lie."""
        inputs = [(one.sha256, one.held_sha256 or "") for one in self.inputs]
        return [(self.rule,), *inputs, self.per or ()]

    def weights(self, target: str) -> tuple[float, ...]:
        """Of the runs, in their order."""
        if target in self.chosen:
            return self.chosen[target].weights
        return (1 / len(self.inputs),) * len(self.inputs)

    @property
    def in_words(self) -> list[str]:
        """What was mixed, and a line for each target that was chosen for."""
        lines = [f"{self.rule} mixture of {', '.join(one.title for one in self.inputs)}"]
        if self.known:
            lines.append(
                f"chosen on other videos of participants that were trained on, too: {some(self.known)}"
            )
        for target, one in self.chosen.items():
            weights = ", ".join(f"{weight:g}" for weight in one.weights)
            others = f"; {one.equal - 1:,} others are as good, the first was taken" if one.equal > 1 else ""
            exponent = f", exponent {one.exponent:g}" if self.rule == "loglinear" else ""
            lines.append(
                f"{target}: weights {weights}{exponent}, chosen among {one.among:,} on {self.on}, by "
                f"class-mean recall@5 ({one.recall5:.1f} there, {one.rows:,} rows){others}"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["inputs"] = list(found["inputs"])
        found |= {"participants": list(self.participants), "known": list(self.known)}
        per = found.pop("per")
        if per is not None:
            found["per"] = list(per)
        for one in found["chosen"].values():
            one["weights"] = list(one["weights"])
        return found

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ValueError where a key is missing, or one is there that this version does not know."""
        try:
            inputs = tuple(FusedInput(**one) for one in raw["inputs"])
            chosen = {
                target: Choice(**{**one, "weights": tuple(one["weights"])})
                for target, one in raw["chosen"].items()
            }
            lists = {key: tuple(raw[key]) for key in ("participants", "known", "per") if key in raw}
            return cls(**{**raw, **lists, "inputs": inputs, "chosen": chosen})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"fused is damaged ({type(error).__name__}: {error})") from None

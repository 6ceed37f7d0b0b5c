"""The pictures of a page's rows: which, their strips as text, and what is said of them."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mambavl.cache.licences import Terms
from mambavl.cache.rows import Segment
from mambavl.configs.errors import counted
from mambavl.fuse.report.clips import WHY, choose, moments, said
from mambavl.fuse.report.told import Told, Wanted

MOST_NAMED = 20  # reasons why pictures are not there


@dataclass
class Pictured:
    """Of one table."""

    lines: list[str] = field(default_factory=list)  # a strip each, WebP in base64
    # row -> line, place in WHY, moments in hundredths of a second, how many of those are before the action
    clips: dict[int, list[Any]] = field(default_factory=dict)
    # narration_id -> why a row that was to have pictures has none
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def index(self) -> dict[str, Any]:
        """What the page knows of them."""
        return {"clips": self.clips, "why": WHY}


@dataclass(frozen=True)
class Choice:
    """What `clips.choose` goes by, of R runs and N rows; tau_a: where all of them anticipate."""

    first: np.ndarray
    probabilities: np.ndarray
    is_right: np.ndarray
    has_label: np.ndarray
    tau_a: float | None


def pictured(
    ids: Sequence[str], segments: Mapping[str, Segment], choice: Choice, told: Told, count: int
) -> Pictured:
    """Strips of `count` of the rows of which it is known where they are; none without videos."""
    found = Pictured()
    known = [row for row, name in enumerate(ids) if name in segments]
    if told.strips is None or not known or not count:
        return found
    chosen = choose(
        choice.first[:, known],
        choice.probabilities[:, known],
        choice.is_right[:, known],
        choice.has_label[known],
        count,
    )
    why = {known[place]: one for place, one in sorted(chosen.items())}
    wanted: list[Wanted] = []
    before: dict[int, int] = {}
    for row in why:
        times, before[row] = moments(segments[ids[row]], choice.tau_a)
        wanted.append((segments[ids[row]], times))
    strips = told.strips(wanted)
    for row, (segment, times) in zip(why, wanted, strict=True):
        strip = strips[segment.narration_id]
        if isinstance(strip, str):
            found.lost[segment.narration_id] = strip
            continue
        hundredths = [round(100 * time) for time in times]
        found.clips[row] = [len(found.lines), WHY.index(why[row]), hundredths, before[row]]
        found.lines.append(base64.b64encode(strip).decode("ascii"))
    return found


def said_of_pictures(every: Sequence[Pictured], rows: int, told: Told, terms: Terms | None) -> list[str]:
    """In words, for the page: which rows have pictures, which should have, and whose they are. terms: of the
    data set, where it is known.
    """
    if told.strips is None:
        return ["No row has pictures: `mambavl report ... --annotations DIR --videos DIR` adds them."]
    why = [WHY[clip[1]] for one in every for clip in one.clips.values()]
    if len(why) == rows:
        found = ["All rows have pictures."]
    else:
        found = [
            f"{len(why):,} of {counted(rows, 'row')} have pictures" + (f": {said(why)}." if why else ".")
        ]
    lost = Counter(reason for one in every for reason in one.lost.values())
    if lost:
        more = f"; and {len(lost) - MOST_NAMED} more reasons" if len(lost) > MOST_NAMED else ""
        listed = "; ".join(
            f"{reason} ({counted(rows, 'row')})" for reason, rows in lost.most_common(MOST_NAMED)
        )
        found.append(
            f"{counted(lost.total(), 'row')} should have some and have none; no others took their places: "
            f"{listed}{more}."
        )
    if why:
        found.append(_licence(terms))
    return found


def _licence(terms: Terms | None) -> str:
    if terms:
        return (
            f"By their classes the pictures are frames of {terms.says} They show people's homes: whoever "
            "hands this page on names the data set, and publishes it no further than its terms allow."
        )
    return (
        "The pictures are frames of the videos that were named; whether this page may be handed on is for "
        "their licence, and for the people in them, to say."
    )

"""Which actions a row may know of: against a loop over exact fractions, and labels dealt anew."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from mambavl.cache.rows import Segment
from mambavl.extract.history import histories, refuse_later


def action(number: int, start: float, stop: float, video: str = "P01_101", **fields) -> Segment:
    labels = fields.pop("labels", {"verb": number % 5, "noun": number % 7})
    return Segment(
        narration_id=f"{video}_{number}",
        participant_id="P01",
        video_id=video,
        narration_timestamp="",
        start=start,
        stop=stop,
        start_frame=1,
        stop_frame=2,
        split=fields.pop("split", "train"),
        labels=labels,
        **fields,
    )


def drawn(count: int = 300) -> list[Segment]:
    """Overlapping actions of three videos, in hundredths of a second, some with the same end."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        start = round(float(rng.integers(0, 6000)) / 100, 2)
        length = round(float(rng.integers(30, 900)) / 100, 2)
        found.append(action(number, start, round(start + length, 2), f"P01_10{number % 3}"))
    return found


def exact(seconds: float) -> Fraction:
    return Fraction(str(seconds))


def twin(row: Segment, actions: list[Segment], last: int, tau: float) -> list[Segment]:
    """The past by its definition, in exact decimals, looking at every action."""
    until = exact(row.start) - exact(tau)
    ended = [one for one in actions if one.video_id == row.video_id and exact(one.stop) <= until]
    return sorted(ended, key=lambda one: (exact(one.stop), exact(one.start), one.narration_id))[-last:]


@pytest.mark.parametrize("tau", [0.0, 0.1, 1.0, 2.33])
@pytest.mark.parametrize("last", [1, 3, 8])
def test_the_past_is_the_last_actions_that_have_ended_oldest_first(last, tau):
    segments = drawn()
    found = histories(segments, segments, last=last, tau=tau)
    assert any(len(past.actions) == last for past in found)
    assert any(not past.actions for past in found)
    for row, past in zip(segments, found, strict=True):
        expected = twin(row, segments, last, tau)
        assert [segments[number] for number in past.actions] == expected
        ages = [float(exact(row.start) - exact(tau) - exact(one.stop)) for one in expected]
        assert past.ages == pytest.approx(ages, abs=1e-9)
        assert min(past.ages, default=0) >= 0


def test_what_ends_exactly_then_is_in_and_what_ends_a_millisecond_later_is_not():
    """12.34 - 1 in binary is a little more than 11.34, 8.41 - 1 a little less than 7.41."""
    for start in (12.34, 8.41, 4.35, 100.1):
        end = float(exact(start) - 1)
        row = action(9, start, start + 2)
        then, later = action(0, 0.5, end), action(1, 0.6, float(exact(end) + Fraction(1, 1000)))
        (past,) = histories([row], [row, then, later], last=8, tau=1.0)
        assert past == ((1,), (0.0,)), start


def test_labels_of_a_row_and_of_all_that_ends_later_change_no_past():
    segments = drawn()
    found = histories(segments, segments, last=8, tau=1.0)
    rng = np.random.default_rng(1)
    for place in range(0, len(segments), 10):
        until = segments[place].start - 1.0
        dealt = [
            replace(one, labels={"verb": int(rng.integers(97)), "noun": int(rng.integers(300))})
            if one.stop > until
            else one
            for one in segments
        ]
        assert dealt[place].labels != segments[place].labels
        (past,) = histories([dealt[place]], dealt, last=8, tau=1.0)
        assert past == found[place]
        told = [dealt[number].labels for number in past.actions]
        assert told == [segments[number].labels for number in found[place].actions]


def test_rows_without_labels_have_a_past_and_are_in_nobodys():
    first, second = action(0, 0.0, 1.0), action(1, 1.5, 2.0, labels={}, split="test")
    third = action(2, 5.0, 6.0, labels={}, split="test")
    pasts = histories([first, second, third], [first, second, third], last=8, tau=0.5)
    assert [past.actions for past in pasts] == [(), (0,), (0,)]


def test_a_time_of_frame_numbers_is_over_when_its_last_frame_is():
    """Frame 300 of an old video is shown until 301 / 60 s; its number says no more."""
    coarse = action(0, 4.0, 5.0, "P01_01", time_from_frames=True)
    early, late = action(1, 6.0, 7.0, "P01_01"), action(2, 6.02, 7.0, "P01_01")
    pasts = histories([early, late], [coarse, early, late], last=8, tau=1.0)
    assert [past.actions for past in pasts] == [(), (0,)]
    assert pasts[1].ages[0] == pytest.approx(0.02 - 1 / 60, abs=1e-6)


def test_shuffling_deals_actions_to_other_places_and_leaves_ages():
    segments = drawn()
    ordered = histories(segments, segments, last=8, tau=1.0)
    shuffled = histories(segments, segments, last=8, tau=1.0, order="shuffled")
    again = histories(segments[::-1], segments, last=8, tau=1.0, order="shuffled")[::-1]
    assert shuffled == again  # drawn from the row's id, not from its place
    for one, other in zip(ordered, shuffled, strict=True):
        assert sorted(one.actions) == sorted(other.actions)
        assert one.ages == other.ages
    full = [(a.actions, b.actions) for a, b in zip(ordered, shuffled, strict=True) if len(a.actions) == 8]
    moved = np.mean([np.array(one) != np.array(other) for one, other in full])
    assert moved == pytest.approx(7 / 8, abs=0.06)  # of eight places one stays on average


def test_a_tau_below_0_is_refused():
    with pytest.raises(ValueError, match="own action would be in its past"):
        histories([], [], last=1, tau=-0.1)


def test_what_is_no_past_is_never_let_through():
    row = action(9, 5.0, 6.0)
    for wrong in (action(0, 3.0, 4.001), action(0, 1.0, 2.0, "P01_102"), replace(row, start=1.0, stop=2.0)):
        with pytest.raises(RuntimeError, match="is no past of it at tau = 1"):
            refuse_later(row, [wrong], 1.0)
    refuse_later(row, [action(0, 3.0, 4.0)], 1.0)

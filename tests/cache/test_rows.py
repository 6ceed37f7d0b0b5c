"""The rows of a store, and its classes: written and read back."""

from dataclasses import replace

from helpers.tiny import make_segments
from mambavl.cache.rows import FLAGS, STATUS, STATUS_CODE, Segment, read_segments, write_segments


def test_any_text_in_a_narration_survives(tmp_path):
    words = ("cut\rcup", "a\nb", 'say "cut", please', "a,b;c\t", " naïve 🍅 ", "'quoted'", "\u2028")
    segments = tuple(
        replace(s, narration=w, all_nouns=(w, "x"))
        for s, w in zip(make_segments(len(words)), words, strict=True)
    )
    assert read_segments(write_segments(segments)) == segments


def test_segments_come_back_with_their_types_and_their_gaps():
    """A test list has no labels: None stays None, an empty list stays empty, a float keeps its last bit."""
    labelled = replace(
        make_segments(1)[0], start=0.1 + 0.2, all_nouns=("onion", "top"), all_noun_classes=(0, 7)
    )
    bare = Segment("P01_1_0", "P01", "P01_1", "", 1e-9, 2.0, 1, 2, "test", time_from_frames=True)
    back = read_segments(write_segments((labelled, bare)))
    assert back == (labelled, bare)
    assert back[0].start == 0.1 + 0.2
    assert back[1].verb_class is None
    assert read_segments(write_segments(())) == ()


def test_statuses_and_flags_have_one_meaning_each():
    assert {STATUS_CODE[name] for name in STATUS.values()} == set(STATUS)
    assert len(STATUS_CODE) == len(STATUS)
    assert sum(FLAGS) == (1 << len(FLAGS)) - 1  # a bit each

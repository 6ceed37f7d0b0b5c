"""Hand-object detections: what EPIC's messages say is read, whatever else a file holds is refused and never
run.
"""

import os
import pickle
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.detections import LEFT, RIGHT, box_message, image_message, number, part, real, write
from mambavl.configs.errors import DataError
from mambavl.extract import detections
from mambavl.extract.detections import CORRECTED, read_detections

BOX = (0.25, 0.125, 0.5, 0.75)  # exact in float32


PROTOCOLS = [3, 4, 5]  # of Pythons that pickle bytes as bytes


def read(path, video="P01_01"):
    return list(read_detections(path, video))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_field_of_a_message(tmp_path, protocol):
    zeros = (0.0, 0.0, 0.5, 1.0)
    messages = [
        image_message(1, [(RIGHT, 0.75, BOX), (LEFT, 0.5, zeros)], [(0.25, BOX), (0.0, zeros)]),
        image_message(300),  # a number of two bytes, and images left out before it
    ]
    first, second = read(write(tmp_path / "P01_01.pkl", messages, protocol))
    assert first.image == 1
    assert first.hands == [(0.75, "right", BOX), (0.5, "left", zeros)]
    assert first.objects == [(0.25, BOX), (0.0, zeros)]
    assert second == (300, [], [])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_lists_and_long_messages(tmp_path, protocol):
    """Pickles write a list in pieces of a thousand, and bytes of more than 255 or 65,535 under other
    instructions.
    """
    messages = [image_message(i, objects=[(0.5, BOX)] * (800 if i == 7 else i % 20)) for i in range(1, 2501)]
    found = read(write(tmp_path / "P01_01.pkl", messages, protocol))
    assert [seen.image for seen in found] == list(range(1, 2501))
    assert [len(seen.objects) for seen in found] == [800 if i == 7 else i % 20 for i in range(1, 2501)]


class Runs:
    def __reduce__(self):
        return os.mkdir, (os.environ["MAMBAVL_TEST_HARM"],)


def memo_bomb():
    """A valid start, then a value filed under a number that makes an unpickler allocate gigabytes."""
    return b"\x80\x03]q\x00(C\x02ab" + b"r" + struct.pack("<I", 2**31 - 1) + b"e."


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "around", [lambda harm: harm, lambda harm: [harm], lambda harm: [image_message(1), harm]]
)
def test_what_a_pickle_wants_to_run_is_not_run(tmp_path, monkeypatch, protocol, around):
    harm = tmp_path / "harm"
    monkeypatch.setenv("MAMBAVL_TEST_HARM", str(harm))
    path = write(tmp_path / "P01_01.pkl", around(Runs()), protocol)
    with pytest.raises(
        DataError, match=r"P01_01\.pkl: is not a pickled list of bytes \(it (uses|makes) .*download"
    ):
        read(path)
    assert not harm.exists()
    pickle.loads(path.read_bytes())
    assert harm.exists()  # the pickle does what it is accused of


def test_a_pickle_cannot_make_a_large_table(tmp_path):
    path = tmp_path / "P01_01.pkl"
    path.write_bytes(memo_bomb())
    with pytest.raises(DataError, match="frame 1: "):  # its two bytes are no message
        read(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": b"1"}, "uses EMPTY_DICT"),
        ((b"1", b"2"), "uses TUPLE2"),
        (["1"], "uses SHORT_BINUNICODE"),
        ([[b"1"]], "makes 2 lists"),
        (b"1", "makes 0 lists"),
        (np.zeros(3), "uses SHORT_BINUNICODE"),
        ([None], "uses NONE"),
    ],
)
def test_other_pickles_are_refused(tmp_path, value, said):
    with pytest.raises(DataError, match=rf"is not a pickled list of bytes \(it {said}"):
        read(write(tmp_path / "P01_01.pkl", value))


def test_files_cut_short_or_too_large(tmp_path, monkeypatch):
    path = write(tmp_path / "P01_01.pkl", [image_message(i, objects=[(0.5, BOX)]) for i in range(1, 40)])
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"P01_01\.pkl: is not a pickled list of bytes"):
            read(path)
    path.write_bytes(whole)
    monkeypatch.setattr(detections, "MAX_BYTES", len(whole) - 1)
    with pytest.raises(
        DataError, match=rf"has {len(whole):,} bytes; more than {len(whole) - 1:,} are not read"
    ):
        read(path)
    with pytest.raises(DataError, match=r"P02_01\.pkl: cannot be read"):
        read(tmp_path / "P02_01.pkl", "P02_01")


def test_a_message_cut_anywhere_is_refused_or_has_lost_whole_fields(tmp_path):
    """Protobuf has no end mark, so a cut between two fields is no fault that shows; any other cut is named
    with its frame.
    """
    message = image_message(2, [(RIGHT, 0.75, BOX)], [(0.25, BOX)])
    starts = {len(image_message(2)), len(image_message(2, [(RIGHT, 0.75, BOX)])), len(message)}
    for size in range(len(message) + 1):
        path = write(tmp_path / "P01_01.pkl", [image_message(1), message[:size]])
        if size in starts:
            assert len(read(path)) == 2
        else:
            with pytest.raises(DataError, match=r"P01_01\.pkl: frame 2: "):
                read(path)


def nested(box=box_message(BOX), score=real(2, 0.5), more=b""):
    return [part(1, b"P01_01") + number(2, 1) + part(4, part(1, box) + score + more)]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        # the raw detections: pixels
        (nested(number(1, 100)), "field 1 of kind 0 is not in the published layout"),
        (nested(more=real(3, 1.0)), "field 3 of kind 5 is not"),
        (nested(part(1, b"1234")), "field 1 of kind 2 is not"),
        (nested(box_message((0.25, float("nan"), 0.5, 0.75))), "a box is 0.25, nan, 0.5, 0.75, not left"),
        (nested(box_message((0.25, 0.125, float("inf"), 0.75))), "a box is 0.25, 0.125, inf"),
        (nested(box_message((0.5, 0.125, 0.25, 0.75))), "a box is 0.5, 0.125, 0.25, 0.75"),
        (
            nested(box_message((114.0, 32.0, 228.0, 192.0))),
            "a box is 114, 32, 228, 192, not .* fractions of the frame",
        ),
        (nested(score=real(2, float("nan"))), "a score is nan"),
        (nested(score=b"\x15\x00\x00"), "ends in the middle of field 2"),
        (nested(more=b"\x80"), "ends in the middle of a number"),
        ([number(2, 1) + b"\x80" * 11], "more than ten bytes"),
        ([image_message(1, [(2, 0.5, BOX)])], "side is 2, neither 0"),
        ([part(1, b"\xff") + number(2, 1)], "'utf-8' codec"),
        ([image_message(1, objects=[(0.5, BOX)] * 1001)], "more than 1,000 boxes"),
        ([image_message(1, video="P01_02")], "is of video 'P01_02', not of P01_01"),
        ([number(2, 1)], "is of video '', not of P01_01"),
        ([part(1, b"P01_01")], "is image 0 after 0; expected are rising numbers from 1"),
        ([image_message(10**7)], "is image 10,000,000 after 0"),
        ([image_message(2**64 - 1)], "is image 18,446,744,073,709,551,615 after 0"),  # protobuf's -1
    ],
)
def test_what_is_not_published_is_refused_by_file_and_frame(tmp_path, messages, said):
    with pytest.raises(DataError, match=rf"P01_01\.pkl: frame 1: .*{said}"):
        read(write(tmp_path / "P01_01.pkl", messages))


@pytest.mark.parametrize("numbers", [[1, 1], [2, 1]])
def test_images_come_in_order_and_once(tmp_path, numbers):
    with pytest.raises(DataError, match=rf"frame 2: is image 1 after {numbers[0]}"):
        read(write(tmp_path / "P01_01.pkl", [image_message(i) for i in numbers]))


def test_messages_may_name_the_participant_alone(tmp_path):
    assert read(write(tmp_path / "P01_01.pkl", [image_message(1, video="P01")]))[0].image == 1


@pytest.mark.parametrize("video", CORRECTED)
def test_the_two_files_that_were_published_wrongly_are_known_by_their_length(tmp_path, video):
    right = CORRECTED[video]
    path = write(tmp_path / f"{video}.pkl", [image_message(i, video=video) for i in (1, right)])
    assert [seen.image for seen in read(path, video)] == [1, right]
    write(path, [image_message(i, video=video) for i in (1, right + 1)])
    with pytest.raises(
        DataError, match=rf"goes on to image {right + 1:,}, .* wrong images; .* links the corrected file"
    ):
        read(path, video)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_their_frame(tmp_path_factory, noise):
    path = write(tmp_path_factory.mktemp("noise") / "P01_01.pkl", [image_message(1) + noise])
    try:
        assert [seen.image for seen in read(path)] != []
    except DataError as error:
        refused = str(error)
        if not re.search(r"P01_01\.pkl: frame 1: ", refused):
            raise

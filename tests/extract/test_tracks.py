"""Linking: which detections of a video are the same thing."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambavl.extract.detections import Detections
from mambavl.extract.tracks import MAX_GAP, MIN_OVERLAP, link, overlap

A, B, C = (0.0, 0.0, 0.25, 0.25), (0.5, 0.5, 0.75, 0.75), (0.25, 0.5, 0.5, 1.0)  # apart, and exact in float32


def moved(box, x=0.0, y=0.0):
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def linked(images):
    """objects of images 1, 2, ... (or a dict by number) -> id -> box for each, as plain tuples."""
    numbered = images if isinstance(images, dict) else dict(enumerate(images, 1))
    tracks = link(Detections(number, [], list(objects)) for number, objects in numbered.items())
    found = [tracks.of_image(number) for number in numbered]
    return [dict(zip(seen.ids.tolist(), map(tuple, seen.corners.tolist()), strict=True)) for seen in found]


def test_the_best_hand_of_each_side_is_taken_and_small_things_are_dropped():
    hands = [(0.3, "right", A), (0.8, "right", B), (0.9, "left", C), (0.99, "left", (0.5, 0.5, 0.5, 0.9))]
    objects = [(0.9, (0.1, 0.1, 0.109, 0.9)), (0.8, (0.1, 0.1, 0.9, 0.109)), (0.7, (0.1, 0.1, 0.111, 0.111))]
    seen = link([Detections(4, hands, objects)]).of_image(4)
    assert seen.ids.tolist() == [0, 1, 3]
    np.testing.assert_array_equal(seen.corners, np.array([B, C, (0.1, 0.1, 0.111, 0.111)], np.float32))


def test_objects_keep_their_ids_when_they_change_places_in_the_list():
    assert linked([[(0.9, A), (0.5, B)], [(0.5, B), (0.9, A)], [(0.2, A), (0.9, B)]]) == [{3: A, 4: B}] * 3


def test_an_object_that_moves_on_is_followed_and_one_that_jumps_is_new():
    steps = [moved(A, x=0.0625 * i) for i in range(8)]  # neighbours share 3/5
    assert linked([[(0.5, box)] for box in steps]) == [{3: box} for box in steps]
    assert linked([[(0.5, A)], [(0.5, B)]]) == [{3: A}, {4: B}]
    few, many = moved(A, x=0.140625), moved(A, x=0.125)  # 7/25 and 1/3 of the union
    assert linked([[(0.5, A)], [(0.5, few)]]) == [{3: A}, {4: few}]
    assert linked([[(0.5, A)], [(0.5, many)]]) == [{3: A}, {3: many}]


def test_the_larger_overlap_goes_first():
    near, far = moved(A, x=0.03125), moved(A, x=0.09375)
    assert linked([[(0.5, A)], [(0.9, far), (0.1, near)]]) == [{3: A}, {3: near, 4: far}]
    # both want the first track; the second one is content with the track that is left
    assert linked([[(0.9, A), (0.5, far)], [(0.9, near), (0.5, A)]]) == [{3: A, 4: far}, {3: A, 4: near}]


@pytest.mark.parametrize("missed", [0, 1, MAX_GAP, MAX_GAP + 1])
@pytest.mark.parametrize("listed", [True, False])
def test_an_object_may_be_missed_for_a_moment(missed, listed):
    """Whether the images between are listed as empty or not listed at all."""
    images = (
        {1: [(0.5, A)]}
        | ({1 + i: [] for i in range(1, missed + 1)} if listed else {})
        | {2 + missed: [(0.5, A)]}
    )
    assert linked(images)[-1] == ({3: A} if missed <= MAX_GAP else {4: A})


corner = st.integers(0, 48)
length = st.integers(1, 16)
boxes = st.builds(
    lambda x, y, w, h: (x / 64, y / 64, (x + w) / 64, (y + h) / 64), corner, corner, length, length
)
objects = st.lists(st.tuples(st.integers(0, 4).map(lambda score: score / 4), boxes), max_size=5)
videos = st.lists(objects, min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(objects, st.integers(1, MAX_GAP + 3))
def test_constant_boxes_keep_their_ids(found, times):
    apart = [
        one
        for place, one in enumerate(found)
        if all(overlap(one[1], other[1]) == 0 for other in found[:place])
    ]
    ids = linked([apart] * times)
    assert ids == [ids[0]] * times
    assert list(ids[0]) == list(range(3, 3 + len(apart)))


@settings(max_examples=200, deadline=None)
@given(videos, st.randoms(use_true_random=False))
def test_ids_do_not_depend_on_the_order_of_the_list_or_on_what_comes_later(video, random):
    ids = linked(video)
    shuffled = [random.sample(found, len(found)) for found in video]
    assert linked(shuffled) == ids
    for end in range(1, len(video)):
        assert linked(video[:end]) == ids[:end]


@settings(max_examples=200, deadline=None)
@given(videos)
def test_every_box_has_one_id_and_ids_are_used_in_turn(video):
    ids = linked(video)
    for found, seen in zip(video, ids, strict=True):
        assert sorted(seen.values()) == sorted(box for _, box in found)
    used = {track for seen in ids for track in seen}
    assert used == set(range(3, 3 + len(used)))
    for old, new in pairwise(ids):
        for track in old.keys() & new.keys():
            assert overlap(old[track], new[track]) >= MIN_OVERLAP


@given(boxes, boxes)
def test_overlap_agrees_with_counting_cells(a, b):
    def cells(box):
        x0, y0, x1, y1 = (round(side * 64) for side in box)
        return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}

    expected = len(cells(a) & cells(b)) / len(cells(a) | cells(b))
    assert overlap(a, b) == pytest.approx(expected, abs=1e-12) == overlap(b, a)


def test_a_long_video_is_linked_in_reasonable_time():
    """100,000 images of 4 objects took 1.3 s of one core; a tenth of them is tried here, with room for a slow
    machine.
    """
    steps = np.random.default_rng(0).integers(-1, 2, (10_000, 4, 2)) / 64
    places = np.clip(np.cumsum(steps, axis=0) + 0.375, 0, 0.75)
    video = [
        Detections(number, [], [(0.5, (x, y, x + 0.25, y + 0.25)) for x, y in found])
        for number, found in enumerate(places.tolist(), 1)
    ]
    since = time.process_time()
    tracks = link(video)
    assert len(tracks.ids) == 40_000
    assert time.process_time() - since < 10

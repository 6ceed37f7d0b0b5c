"""Boxes of clips: the authors' file and our own linking, against what was put into the files by hand."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from helpers.detections import LEFT, RIGHT, image_message, write
from helpers.input_faults import FailingReads
from helpers.parity import SMALL_ORVIT as SMALL
from helpers.parity import clips, redrawn
from mambavl.configs.errors import DataError, SystemFault, UsageError
from mambavl.extract import boxes as box_files
from mambavl.extract import input_files
from mambavl.extract.boxes import NUMERICS, image_numbers, in_slots, open_boxes
from mambavl.extract.encoders.published.orvit import ORViT, crop_boxes
from mambavl.extract.tracks import MAX_GAP, MIN_OVERLAP, Boxes
from mambavl.extract.video_files import END, box_keys

A, B, C = (0.0, 0.0, 0.25, 0.25), (0.5, 0.5, 0.75, 0.75), (0.25, 0.5, 0.5, 1.0)  # apart, and exact in float32
OUT = Path("nowhere.zarr")  # a store that is still to be made


def write_h5(path, videos):
    """videos: video -> image -> rows of x0, y0, x1, y1, id."""
    with h5py.File(path, "w") as file:
        for video, images in videos.items():
            group = file.create_group(video)
            for image, rows in images.items():
                group[str(image)] = np.array(rows, np.float64).reshape(-1, 5)
    return path


def rows(**boxes):
    """id_3=A -> [[*A, 3]]."""
    return [[*box, int(name[3:])] for name, box in boxes.items()]


def at(*images, rate=60):
    """Moments in the middle of what the lists call these images."""
    return (np.array(images) + 0.5) / rate


def write_hoa(root, video, images):
    """images: number -> (hands, objects)."""
    messages = [image_message(number, *found, video=video) for number, found in sorted(images.items())]
    return write(root / video.partition("_")[0] / "hand-objects" / f"{video}.pkl", messages)


# --- moments and slots


@pytest.mark.parametrize(
    ("video", "seconds", "image"),
    [
        ("P01_01", 0.0, 1),
        ("P01_01", 0.016, 1),
        ("P01_01", 0.034, 2),
        ("P01_01", 3692.65, 221_559),
        ("P01_101", 0.0, 1),
        ("P01_101", 0.05, 2),
        ("P01_101", 0.29, 14),  # 14.499999999999998
        ("P01_101", 1.0, 50),
    ],
)
def test_images_are_counted_at_60_or_50_a_second(video, seconds, image):
    assert image_numbers(video, np.array([seconds])) == image


def test_images_are_those_of_the_lists_frame_columns(ek100_validation):
    segments = ek100_validation.segments
    assert len(segments) == 9668
    for segment in segments:
        found = image_numbers(segment.video_id, np.array([segment.start, segment.stop]))
        assert found.tolist() == [segment.start_frame, segment.stop_frame]


def test_slots_are_for_the_hands_and_the_tracks_seen_first():
    def seen(*ids):
        return Boxes(np.array(ids), np.array([[i / 100, 0, 1, 1] for i in ids], np.float32).reshape(-1, 4))

    images = [seen(1), seen(9, 0), seen(), seen(4, 9, 1), seen(3, 4, 2)]
    track = (in_slots(images, 4)[..., 0] * 100).round()
    there = in_slots(images, 4).any(-1)
    assert np.where(there, track, -1).tolist() == [
        [-1, 1, -1, -1],
        [0, -1, 9, -1],
        [-1, -1, -1, -1],
        [-1, 1, 9, 4],
        [-1, -1, -1, 4],
    ]
    assert in_slots(images, 2).shape == (5, 2, 4)
    assert (in_slots(images, 6)[:, :4] == in_slots(images, 4)).all()
    assert (in_slots(images, 6)[4, :, 0] * 100).round().tolist() == [0, 0, 0, 4, 3, 2]


@pytest.fixture(params=["h5", "hoa"])
def source(request, tmp_path):
    """The same boxes in either form: right hand A, left hand B and object C in images 1 to 9 of P01_01, but
    for the fifth.
    """
    if request.param == "h5":
        found = dict.fromkeys([1, 2, 3, 4, 6, 7, 8, 9], rows(id_3=C, id_1=B, id_0=A))
        path = write_h5(tmp_path / "boxes.h5", {"P01_01": found, "P01_02": {}})
    else:
        found = ([(LEFT, 0.5, B), (RIGHT, 0.5, A), (RIGHT, 0.25, C)], [(0.5, C)])
        write_hoa(tmp_path, "P01_01", {i: ((), ()) if i == 5 else found for i in range(1, 10)})
        path = tmp_path
    return open_boxes(request.param, path)


def test_a_clip_has_its_boxes_in_fractions_of_the_frame(source):
    found = source.clip("P01_01", at(1, 2, 5, 9))
    expected = np.array([A, B, C, (0, 0, 0, 0)], np.float32)
    assert found.dtype == np.float32
    assert found.tolist() == [
        expected.tolist(),
        expected.tolist(),
        np.zeros((4, 4)).tolist(),
        expected.tolist(),
    ]
    assert source.clip("P01_01", at(9, 9), objects=2).tolist() == [[[*A], [*B]]] * 2
    assert source.clip("P01_01", np.empty(0)).shape == (0, 4, 4)


def test_beyond_the_last_image_there_are_no_boxes(source):
    assert not source.clip("P01_01", at(10, 1000)).any()
    assert source.clip("P01_01", np.array([0.0])).any()  # the first moment is the first image


def test_videos_without_boxes_are_named(source):
    assert source.missing(["P01_03", "P01_01", "P01_02"]) == ["P01_03", "P01_02"]
    assert source.missing(["P01_01"]) == []
    with pytest.raises(DataError, match=r"has no .*P01_03"):
        source.clip("P01_03", at(1))
    source.close()


def test_calls_that_make_no_sense_are_refused(source):
    for times in (np.array([np.nan]), np.array([-0.1]), np.zeros((2, 2)), np.array([np.inf])):
        with pytest.raises(UsageError, match="times are seconds from 0 on"):
            source.clip("P01_01", times)
    with pytest.raises(UsageError, match="1 slots were asked for; the hands alone have two"):
        source.clip("P01_01", at(1), objects=1)


def test_other_kinds_and_other_paths_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no boxes 'sort'; use h5 .* or hoa"):
        open_boxes("sort", tmp_path)
    with pytest.raises(DataError, match="no such file; boxes h5 are"):
        open_boxes("h5", tmp_path)
    with pytest.raises(DataError, match="no such folder; boxes hoa are"):
        open_boxes("hoa", tmp_path / "nowhere")


@pytest.mark.parametrize("method", ["fast", "full"])
def test_fingerprints_are_of_what_is_in_the_files(source, tmp_path, method):
    path = getattr(source, "path", None) or source.root / "P01" / "hand-objects" / "P01_01.pkl"
    kind = "h5" if path.suffix == ".h5" else "hoa"

    def found():
        return open_boxes(kind, path if kind == "h5" else source.root, method).fingerprint(["P01_01"], OUT)

    first = found()
    assert json.loads(json.dumps(first)) == first
    assert (first["kind"], first["numerics"]) == (kind, NUMERICS)
    os.utime(path, ns=(5, 7))  # as a copy has it
    assert found() == first
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    size, key = found().get("file") or found()["videos"]["P01_01"]
    assert size == len(whole)
    assert key not in json.dumps(first)


def test_whole_files_of_boxes_are_known_to_the_last_byte(tmp_path):
    """One in the middle of a large file, too, though head and tail stay what they were."""
    path = write_h5(tmp_path / "boxes.h5", {"P01_01": {n: rows(id_0=A) for n in range(1, 2000)}})
    (tmp_path / "s.zarr" / "commit").mkdir(parents=True)
    keys = [box_keys({"file": path}, tmp_path / "s.zarr", method) for method in ("fast", "full")]
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"changed")
    assert path.stat().st_size > 2 * END + 100
    assert box_keys({"file": path}, tmp_path / "s.zarr", "fast") == keys[0]
    assert box_keys({"file": path}, tmp_path / "s.zarr", "full") != keys[1]


def test_errors_of_the_system_are_outlived_where_files_of_boxes_are_known(source, monkeypatch):
    expected = source.fingerprint(["P01_01"], OUT)
    for retries, times in ((1, 1), (0, 1)):
        source._retries = retries
        monkeypatch.setattr(input_files, "calls", FailingReads(first=2, times=times))
        if retries:
            assert source.fingerprint(["P01_01"], OUT) == expected
        else:
            with pytest.raises(SystemFault, match="cannot be read"):
                source.fingerprint(["P01_01"], OUT)


def test_a_fingerprint_of_detections_is_of_the_videos_asked_for(tmp_path):
    write_hoa(tmp_path, "P01_01", {1: ((), [(0.5, A)])})
    source = open_boxes("hoa", tmp_path)
    first = source.fingerprint(["P01_01"], OUT)
    write_hoa(tmp_path, "P01_02", {1: ((), [(0.5, A)])})
    assert source.fingerprint(["P01_01"], OUT) == first
    assert source.fingerprint(["P01_02", "P01_01", "P01_03"], OUT)["videos"].keys() == {
        "P01_01",
        "P01_02",
        "P01_03",
    }
    assert source.fingerprint(["P01_03"], OUT)["videos"] == {"P01_03": None}
    assert first["linking"] == {"min_overlap": MIN_OVERLAP, "max_gap": MAX_GAP, "min_object_side": 0.01}


# --- h5


def test_boxes_that_reach_beyond_the_frame_are_cut_and_empty_ones_take_no_slot(tmp_path):
    found = rows(
        id_3=(-0.25, 0.5, 0.25, 1.5), id_4=(0.5, 0.5, 0.5, 0.75), id_5=(1.25, 0, 1.5, 1), id_6=A, id_0=B
    )
    source = open_boxes("h5", write_h5(tmp_path / "b.h5", {"P01_101": {50: found}}))
    assert source.clip("P01_101", np.array([1.0])).tolist() == [
        [[*B], [0, 0, 0, 0], [0, 0.5, 0.25, 1.0], [*A]]
    ]


def test_images_are_read_one_at_a_time(tmp_path):
    """A broken image elsewhere in the file is not looked at."""
    source = open_boxes(
        "h5", write_h5(tmp_path / "b.h5", {"P01_01": {1: rows(id_3=A), 2: rows(id_3=(0, 0, np.nan, 1))}})
    )
    assert source.clip("P01_01", at(1, 1)).any()
    with pytest.raises(DataError, match=r"b\.h5: P01_01/2: corners go from nan"):
        source.clip("P01_01", at(1, 2))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (rows(id_3=(0, 0, 228, 192)), "corners go from 0 to 228; expected are fractions of the frame"),
        ([[*A, 3], [*B, 3]], "track ids are .*each once"),
        ([[*A, 3.5]], "track ids are .*whole numbers"),
        ([[*A, -1]], "track ids are"),
        ([[*A, np.nan]], "track ids are"),
        ([[*A, 1e300]], "track ids are"),
    ],
)
def test_values_that_are_no_boxes_are_refused_by_video_and_image(tmp_path, found, said):
    path = write_h5(tmp_path / "b.h5", {"P01_01": {1: rows(id_0=A), 7: found}})
    with pytest.raises(DataError, match=rf"b\.h5: P01_01/7: .*{said}"):
        open_boxes("h5", path).clip("P01_01", at(7))


@pytest.mark.parametrize(
    "values", [np.zeros((2, 4)), np.zeros(5), np.zeros((2, 5), int), np.zeros((1001, 5)), np.float64(1)]
)
def test_arrays_of_another_shape_are_refused(tmp_path, values):
    path = write_h5(tmp_path / "b.h5", {"P01_01": {1: rows(id_0=A)}})
    with h5py.File(path, "a") as file:
        file["P01_01/7"] = values
    with pytest.raises(DataError, match=r"P01_01/7 is (float|int)64 \(.*\); expected are floats \(n, 5\)"):
        open_boxes("h5", path).clip("P01_01", at(7))


def test_inavits_file_is_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "inavit.h5", "w") as file:
        for part in ("hand", "obj"):
            file[f"P01_01/1/{part}/bbox"] = np.zeros((2, 4))
    with pytest.raises(
        DataError, match=r"inavit\.h5: P01_01/1 is a group \(hand, obj\): the layout of InAViT's file"
    ):
        open_boxes("h5", tmp_path / "inavit.h5")


@pytest.mark.parametrize("name", ["0", "0000000001", "frame_1", "boxes"])
def test_images_under_other_names_are_refused_and_not_taken_for_images_without_boxes(tmp_path, name):
    path = write_h5(tmp_path / "b.h5", {"P01_01": {1: rows(id_0=A)}, "P01_02": {name: rows(id_0=A)}})
    with pytest.raises(
        DataError, match=f"P01_02 holds '{name}' where numbers of images, from 1, are expected"
    ):
        open_boxes("h5", path).clip("P01_02", at(1))


def test_files_that_are_something_else_are_refused(tmp_path):
    path = tmp_path / "b.h5"
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(DataError, match=r"b\.h5: cannot be read"):
        open_boxes("h5", path)
    for videos in ({}, {"P01_01": {}}):
        write_h5(path, videos)
        with pytest.raises(DataError, match="has no image of any video"):
            open_boxes("h5", path)
    with h5py.File(path, "w") as file:
        file["P01_01"] = np.zeros((3, 5))
    with pytest.raises(DataError, match="P01_01 is an array; expected is a group"):
        open_boxes("h5", path)


def test_a_video_with_no_image_is_refused(tmp_path):
    source = open_boxes("h5", write_h5(tmp_path / "b.h5", {"P01_01": {1: rows(id_0=A)}, "P01_02": {}}))
    with pytest.raises(DataError, match="P01_02 has no image, so no boxes; --set boxes=none"):
        source.clip("P01_02", at(1))


@pytest.mark.parametrize("link_to", [h5py.ExternalLink("secret.h5", "x"), h5py.SoftLink("/P01_01/1")])
def test_links_are_not_followed(tmp_path, link_to):
    write_h5(tmp_path / "secret.h5", {"x": {1: rows(id_0=A)}})
    path = write_h5(tmp_path / "b.h5", {"P01_01": {1: rows(id_0=A)}})
    with h5py.File(path, "a") as file:
        file["P01_01/2"] = link_to
        file["P01_02"] = link_to
    source = open_boxes("h5", path)
    for video in ("P01_01", "P01_02"):
        with pytest.raises(DataError, match="is a link, and links are not followed"):
            source.clip(video, at(2))


# --- hoa


@pytest.mark.parametrize("folder", ["P01/hand-objects", "P01", "."])
def test_detections_are_found_in_the_layouts_people_have(tmp_path, folder):
    write(tmp_path / folder / "P01_01.pkl", [image_message(1, objects=[(0.5, A)])])
    assert open_boxes("hoa", tmp_path).clip("P01_01", at(1))[0, 2].tolist() == [*A]


def test_a_video_without_any_box_is_refused(tmp_path):
    write_hoa(tmp_path, "P01_01", {1: ((), ()), 2: ((), [(0.9, (0.5, 0.5, 0.505, 0.9))])})
    with pytest.raises(DataError, match=r"P01_01\.pkl: has no box in any image of P01_01"):
        open_boxes("hoa", tmp_path).clip("P01_01", at(1))


def test_a_video_is_linked_once_and_the_last_two_are_kept(tmp_path):
    for number in (1, 2, 3):
        write_hoa(tmp_path, f"P01_0{number}", {1: ((), [(0.5, A)])})
    source = open_boxes("hoa", tmp_path)
    for number in (1, 2, 3):
        source.clip(f"P01_0{number}", at(1))
    for path in tmp_path.rglob("*.pkl"):
        path.unlink()
    assert source.clip("P01_03", at(1)).any()
    assert source.clip("P01_02", at(1)).any()
    with pytest.raises(SystemFault, match=r"P01_01\.pkl: cannot be read \(No such file"):
        source.clip("P01_01", at(1))
    with pytest.raises(DataError, match=r"has no boxes of P01_04; expected P01/hand-objects/P01_04\.pkl"):
        source.clip("P01_04", at(1))


def test_boxes_that_cannot_be_read_for_a_while_are_read_then(tmp_path, monkeypatch):
    path = write_h5(tmp_path / "b.h5", {"P01_01": {1: rows(id_0=A)}})
    write_hoa(tmp_path, "P01_01", {1: ((), [(0.5, A)])})
    expected = {}
    for kind, where in (("h5", path), ("hoa", tmp_path)):
        expected[kind] = open_boxes(kind, where).clip("P01_01", at(1))
    calls = FailingReads(times=2)
    monkeypatch.setattr(input_files, "calls", calls)
    found = open_boxes("hoa", tmp_path, retries=3).clip("P01_01", at(1))
    np.testing.assert_array_equal(found, expected["hoa"])
    assert calls.waits == [1.0, 5.0]
    source, failing = open_boxes("h5", path, retries=2), [1, 1]

    def torn(*_):
        if failing:
            failing.pop()
            raise OSError("Can't read data (file read failed: errno = 5, error = 'Input/output error')")
        return real(*_)

    real = box_files.hdf5_node
    monkeypatch.setattr(box_files, "hdf5_node", torn)
    calls.waits.clear()
    np.testing.assert_array_equal(source.clip("P01_01", at(1)), expected["h5"])
    assert calls.waits == [1.0, 5.0]
    failing += [1, 1, 1]
    said = r"b\.h5: cannot be read \(Can't read data \(.*Input/output error'\)\), tried 3 times"
    with pytest.raises(SystemFault, match=said):
        source.clip("P01_01", at(1))


def test_nothing_later_than_a_clip_changes_its_boxes(tmp_path):
    """What anticipation promises: the same file, cut behind the clip's last moment, gives the same boxes."""
    rng = np.random.default_rng(0)
    images = {}
    for number in range(1, 121):
        near = np.round(rng.uniform(0, 0.7, (4, 2)) * 64) / 64
        images[number] = (
            [(RIGHT, 0.5, A)],
            [(float(rng.integers(1, 8)) / 8, (x, y, x + 0.25, y + 0.25)) for x, y in near],
        )
    write_hoa(tmp_path / "whole", "P01_01", images)
    write_hoa(tmp_path / "cut", "P01_01", {number: found for number, found in images.items() if number <= 60})
    times = np.linspace(0, 1, 16)  # image 60 is the last
    whole, cut = (open_boxes("hoa", tmp_path / name).clip("P01_01", times) for name in ("whole", "cut"))
    assert whole[:, 2:].any()
    assert (whole == cut).all()


# --- the encoder


def test_a_clip_of_images_without_boxes_is_to_orvit_a_clip_without_boxes(tmp_path):
    write_hoa(tmp_path, "P01_01", {1: ([(RIGHT, 0.5, A)], [(0.5, B)]), 100: ((), ())})
    source, config = open_boxes("hoa", tmp_path), replace(SMALL, objects=4)
    given_boxes, none = redrawn(ORViT(config)), redrawn(ORViT(replace(config, boxes="none")))
    video = clips(config, 1)
    to_crop = partial(crop_boxes, frame=(256, 456), crop=(0, 0, 256), image_size=config.image_size)
    tokens = {}
    for name, times in {"empty": at(*range(2, 8)), "seen": at(1, *range(2, 7))}.items():
        found = to_crop(torch.from_numpy(source.clip("P01_01", times, config.objects)))
        tokens[name] = given_boxes.tokens(video, found[None])
    assert torch.equal(tokens["empty"], none.tokens(video))
    assert not torch.allclose(tokens["seen"], tokens["empty"])

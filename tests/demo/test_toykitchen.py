"""The toy kitchen: read by the reader of the real files, and true to what it says is in its videos."""

import ast
import csv
from itertools import pairwise

import av
import pytest

from mambavl.demo import toykitchen
from mambavl.extract.annotations import read_annotations
from mambavl.extract.video_folder import VideoFolder

SEGMENTS = 24


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    return toykitchen.render(tmp_path_factory.mktemp("toy"), segments=SEGMENTS, seed=3)


@pytest.fixture(scope="module")
def annotations(kitchen):
    return read_annotations(kitchen.annotations)


def written(folder, segments=SEGMENTS, seed=3):
    """The CSV files alone, by name; no video is drawn."""
    toykitchen.write_annotations(folder, toykitchen.plan(segments, seed))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_reader_of_the_real_files_finds_every_segment(kitchen, annotations):
    assert len(annotations.segments) == SEGMENTS == kitchen.num_train + kitchen.num_validation
    assert not any(segment.time_from_frames or segment.words_from_classes for segment in annotations.segments)
    assert len(annotations.verbs.keys) == kitchen.num_verbs >= 12
    assert len(annotations.nouns.keys) == kitchen.num_nouns >= 10


def test_every_video_lies_where_epic_has_it_and_outlasts_its_last_segment(kitchen, annotations):
    stops = {}
    for segment in annotations.segments:
        key = segment.participant_id, segment.video_id
        stops[key] = max(segment.stop, stops.get(key, 0.0))
    assert len(stops) == kitchen.num_videos == len(annotations.videos)
    folder = VideoFolder(kitchen.videos)
    for (participant_id, video_id), stop in stops.items():
        with av.open(str(folder.find(participant_id, video_id))) as container:
            stream, info = container.streams.video[0], annotations.videos[video_id]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height) == (info.width, info.height)
            seconds = sum(1 for _ in container.decode(stream)) / info.fps
            assert seconds == pytest.approx(info.duration)
            assert seconds >= stop
            assert float(stream.average_rate) == info.fps


def test_on_video_counts_up_to_the_number_of_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(toykitchen, "draw_film", lambda film, seed: [])
    monkeypatch.setattr(toykitchen, "_encode", lambda path, frames: None)
    calls = []
    kitchen = toykitchen.render(
        tmp_path, segments=SEGMENTS, on_video=lambda done, total: calls.append((done, total))
    )
    assert calls == [(done, kitchen.num_videos) for done in range(1, kitchen.num_videos + 1)]


@pytest.mark.parametrize("segments", [24, 96, 320])
def test_unseen_participants_cook_in_validation_only(tmp_path, segments):
    written(tmp_path, segments)
    annotations = read_annotations(tmp_path)
    cooks = {
        split: {s.participant_id for s in annotations.segments if s.split == split}
        for split in ("train", "validation")
    }
    unseen = annotations.classes.groups["unseen"].values
    assert set(unseen) == cooks["validation"] - cooks["train"]
    assert len(unseen) == 2
    assert cooks["validation"] & cooks["train"]


@pytest.mark.parametrize("segments", [24, 96, 320])
def test_train_shows_every_class(tmp_path, segments):
    written(tmp_path, segments)
    annotations = read_annotations(tmp_path)
    train = [segment for segment in annotations.segments if segment.split == "train"]
    assert {segment.verb_class for segment in train} == set(annotations.verbs.keys)
    assert {segment.noun_class for segment in train} == set(annotations.nouns.keys)
    for name, target in annotations.classes.targets.items():
        rows = sum(segment.labels[name] in target.sets["tail"] for segment in train)
        assert 0 < rows <= max(0.2 * len(train), len(train) / 12)


def test_some_segments_overlap_and_none_is_swallowed(tmp_path):
    written(tmp_path, 96)
    segments = read_annotations(tmp_path).segments
    pairs = [(a, b) for a, b in pairwise(segments) if a.video_id == b.video_id]
    overlaps = [a.stop - b.start for a, b in pairs if b.start < a.stop]
    assert 0.05 < len(overlaps) / len(pairs) < 0.5
    assert max(overlaps) < 0.6 < min(segment.stop - segment.start for segment in segments)


def test_rows_have_epics_columns_and_frame_numbers(tmp_path):
    written(tmp_path)
    with (tmp_path / "EPIC_100_train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows[0]) == 15
    for row in rows:
        for end in ("start", "stop"):
            hours, minutes, seconds = row[f"{end}_timestamp"].split(":")
            hundredths = (int(hours) * 60 + int(minutes)) * 6000 + int(seconds.replace(".", ""))
            assert int(row[f"{end}_frame"]) == max(1, hundredths * 50 // 100)
        nouns, classes = ast.literal_eval(row["all_nouns"]), ast.literal_eval(row["all_noun_classes"])
        assert (nouns[0], classes[0]) == (row["noun"], int(row["noun_class"]))
        assert len(nouns) == len(classes)


def test_words_are_instances_of_their_class_and_occur_in_the_narration(annotations):
    for segment in annotations.segments:
        assert segment.verb in annotations.verbs.instances[segment.verb_class]
        assert segment.noun in annotations.nouns.instances[segment.noun_class]
        assert segment.narration.startswith(segment.verb.replace("-", " "))
        assert all(word in segment.narration.split() for word in segment.noun.split(":"))


def test_no_word_serves_two_classes():
    """A hint or a category that names a class would hand an oracle question its answer."""
    for words in (toykitchen.VERBS, toykitchen.NOUNS):
        names = [name for word in words for name in word.instances]
        assert len(names) == len(set(names))
    said = {
        part
        for word in toykitchen.VERBS + toykitchen.NOUNS
        for name in word.instances
        for part in name.split(":")
    }
    spare = {
        part for word in toykitchen.VERBS + toykitchen.NOUNS for hint in word.hints for part in hint.split()
    }
    spare |= {word.category for word in toykitchen.VERBS + toykitchen.NOUNS}
    spare |= {part for manner in toykitchen.MANNERS for part in manner.split()}
    assert not said & spare


def test_the_seed_decides_every_byte_of_the_annotations(tmp_path):
    first, again, other = (
        written(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first["EPIC_100_train.csv"] != other["EPIC_100_train.csv"]


def test_too_few_segments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fewer than 24"):
        toykitchen.render(tmp_path, segments=23)

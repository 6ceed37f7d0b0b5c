"""Settings of the extraction jobs: what contradicts itself is refused by the record alone."""

import pytest

from mambavl.configs import override, validate
from mambavl.configs.errors import UsageError
from mambavl.extract.options import (
    AudioExtraction,
    Extraction,
    SoundWindow,
    TextExtraction,
    VideoExtraction,
)

KINDS = (VideoExtraction, AudioExtraction, TextExtraction)


def settings(kind, *sets):
    """As a command reads them."""
    return validate(override({"encoder": "x"}, sets), kind, "--set")


@pytest.mark.parametrize(
    ("kind", "level"),
    [(VideoExtraction, "patch"), (AudioExtraction, "clip"), (TextExtraction, "pooled")],
)
def test_one_name_stands_for_a_list_of_one(kind, level):
    found = settings(kind, f"levels={level}", "splits=test")
    assert (found.levels, found.splits) == ((level,), ("test",))
    assert found == settings(kind, f'levels=["{level}"]', 'splits=["test"]')


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["levels", "splits"])
def test_lists_that_name_nothing_or_something_twice_or_unknown_are_refused(kind, key):
    known = getattr(settings(kind), key)[0]
    for value, message in (
        ("[]", rf"{key} = \[\]: names none"),
        (f'["{known}", "{known}"]', f"names {known} twice"),
        ("plenty", rf"\[{key}\]: 0 = 'plenty': Input should be '"),
    ):
        with pytest.raises(UsageError, match=message) as raised:
            settings(kind, f"{key}={value}")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_jobs_share_is_the_same_in_each(kind):
    assert issubclass(kind, Extraction)
    default = settings(kind)
    shared = {name: getattr(default, name) for name in Extraction.model_fields if name != "encoder"}
    assert shared == {
        "weights": None,
        "weights_state": None,
        "splits": ("train", "validation"),
        "dtype": "float16",
        "compressor": "none",
        "rows_per_group": None,
        "device": "auto",
    }


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["boxes=h5"], "boxes = h5 needs `--set boxes_path"),
        (["boxes=hoa"], "boxes = hoa needs `--set boxes_path"),
        (["boxes=none", "boxes_path=x.h5"], "boxes_path = x.h5, but boxes = none; set boxes = h5 or hoa"),
        (["boxes_path=x.h5"], "but boxes = nothing"),
        (["box_transform=released"], "box_transform = released is about boxes"),
        (["boxes=none", "box_transform=released"], "box_transform = released is about boxes"),
        (["fit=squash", "crops=3"], "a squeezed frame"),
        (["fit=squash", "boxes=h5", "boxes_path=x.h5", "box_transform=released"], "fit = squash has none"),
    ],
)
def test_settings_of_the_video_job_that_contradict_each_other_are_refused(sets, message):
    with pytest.raises(UsageError, match=message):
        settings(VideoExtraction, *sets)


def test_views_are_those_in_time_times_the_crops():
    assert settings(VideoExtraction).views == 1
    assert settings(VideoExtraction, "sampling.views=5", "crops=3").views == 15


def test_seconds_are_for_anticipation():
    assert SoundWindow(task="anticipation", seconds=3.0).seconds == 3.0
    with pytest.raises(ValueError, match="seconds are for anticipation"):
        SoundWindow(seconds=3.0)

"""Features of a video's moments, made by the jobs of stage one as those were that the head was trained on.

Nothing is encoded where the features would be others: of another encoder, of other weights, by another
version of this program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mambavl.cache import open_store
from mambavl.cache.pool import pool
from mambavl.cache.reader import FeatureStore
from mambavl.cache.spec import Spec
from mambavl.configs.errors import UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract.annotations import Annotations
from mambavl.extract.audio_job import extract_audio
from mambavl.extract.encoders import registry
from mambavl.extract.job import OtherRecipe
from mambavl.extract.text_job import extract_text
from mambavl.extract.video_job import extract_video
from mambavl.predict.alike import audio_settings, common_settings, text_settings, video_settings
from mambavl.predict.asked import Asked
from mambavl.predict.trained import Stream


@dataclass(frozen=True, kw_only=True)
class Making:
    """How features are made here."""

    folder: Path  # where their stores go; each call makes its own
    weights: Mapping[str, str]  # stream -> file or folder of its encoder's weights
    trusted: Mapping[str, str]  # stream -> somebody's own function that the user named, and so lets run
    device: str = "auto"
    progress: Progress = unseen
    should_stop: ShouldStop = never


def make(
    streams: Sequence[Stream], rows: Annotations, video: Path, questions: Asked | None, how: Making
) -> FeatureStore:
    """A store with what some streams read, all of one training store: of each row of a video, or of text one
    row, since the questions are the same at all.

    Raises UsageError, naming the stream and the way out, where these features cannot be made here, DataError
    and Interrupted as the jobs do.
    """
    first = streams[0]
    refuse_what_cannot_be_made(first)
    spec = first.store.spec
    out = how.folder / f"{first.name}.zarr"
    try:
        if spec.kind == "text":
            assert questions is not None  # a run that reads text has some
            questions.write(how.folder / f"{first.name}.jsonl", rows.segments[0].narration_id)
        if spec.recipe.pooled is None:
            return _run(streams, _levels(streams), rows, video, out, how)
        whole = _run(streams, {spec.recipe.pooled.from_level}, rows, video, how.folder / "whole.zarr", how)
        pool(whole, out, spec.recipe.pooled.to)
        return open_store(out)
    except UsageError as error:
        raise UsageError(_explained(first, error)) from None


def refuse_what_cannot_be_made(stream: Stream) -> None:
    """Raises UsageError for features that were not made from a video, a soundtrack or a question alone."""
    recipe, why = stream.store.spec.recipe, ""
    if recipe.source or recipe.imported or recipe.encoder is None:
        why = "were not made by `mambavl extract` but imported"
    elif recipe.history:
        why = "are actions that were done before, which no encoder here can name"
    elif recipe.boxes:
        why = f"show object boxes ({recipe.boxes.source}), and nobody has found those of this video"
    elif recipe.pooled and recipe.pooled.from_level == "grid":
        why = "were pooled from a grid whose size is not recorded"
    if why:
        raise UsageError(
            f"stream {stream.name}: its features {why}; give a store that has rows of this video: "
            f"--store {stream.name}=PATH"
        )


def _levels(streams: Sequence[Stream]) -> set[str]:
    """The levels to ask for. Of a text store's, `verb_question/last_hidden`, what follows the question."""
    levels = {stream.source.level.rpartition("/")[2] for stream in streams}
    return levels | {"cls" for stream in streams if stream.source.class_token}


def _run(
    streams: Sequence[Stream], levels: set[str], rows: Annotations, video: Path, out: Path, how: Making
) -> FeatureStore:
    spec = streams[0].store.spec
    try:
        _job(streams, spec, levels, rows, video, out, how, None)
    except OtherRecipe as error:
        pixels = spec.recipe.pixels
        # the encoder was told another size than its own
        if pixels is None or not any(fault.startswith("pixels.image_size:") for fault in error.faults):
            raise
        _job(streams, spec, levels, rows, video, out, how, pixels.image_size)
    return open_store(out)


def _job(
    streams: Sequence[Stream],
    spec: Spec,
    levels: set[str],
    rows: Annotations,
    video: Path,
    out: Path,
    how: Making,
    image_size: int | None,
) -> None:
    """The job that makes such features."""
    encoder, names = spec.recipe.encoder, [stream.name for stream in streams]
    assert encoder is not None  # imported features were refused
    if registry.is_own(encoder.name) and encoder.name not in [how.trusted.get(name) for name in names]:
        raise UsageError(
            "that is somebody's own function, and code runs only where you name it: "
            f"--encoder {names[0]}={encoder.name}"
        )
    weights = next((how.weights[name] for name in names if name in how.weights), None)
    common = common_settings(encoder, streams[0].level.dtype, weights, how.device)
    like = replace(spec.recipe, pooled=None)
    if spec.kind == "text":
        one = replace(rows, segments=rows.segments[:1])
        questions = out.with_suffix(".jsonl")
        settings = text_settings(spec, levels, common)
        extract_text(one, questions, out, settings, like=like, should_stop=how.should_stop)
        return
    files = {rows.segments[0].video_id: video}
    common["max_failed"] = len(rows.segments)  # a moment without features is said to be one
    if spec.kind == "audio":
        heard = audio_settings(spec, levels, common)
        extract_audio(rows, files, out, heard, like=like, progress=how.progress, should_stop=how.should_stop)
    else:
        seen = video_settings(spec, levels, common, image_size=image_size)
        extract_video(rows, files, out, seen, like=like, progress=how.progress, should_stop=how.should_stop)


def _explained(stream: Stream, error: UsageError) -> str:
    encoder = stream.store.spec.recipe.encoder
    if encoder is None or str(error).startswith("stream "):
        return str(error)
    said = (
        f"stream {stream.name}: the head was trained on features of encoder {encoder.name}, "
        f"{encoder.state}, weights {(encoder.sha256 or 'unknown')[:16]}, which cannot be made here: {error}"
    )
    if isinstance(error, OtherRecipe):
        return (
            f"{said}\nGive the weights that made them, --weights {stream.name}=FILE, and use the version "
            f"that did; or give a store that has rows of this video, --store {stream.name}=PATH"
        )
    return f"{said}\nWeights are given as --weights {stream.name}=FILE here" if "weights" in said else said

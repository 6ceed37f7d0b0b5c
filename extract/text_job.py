"""Text features: both questions of every row, each distinct text encoded once a row group."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mambavl.cache import shards
from mambavl.cache.canonical import file_sha256
from mambavl.cache.fill import FillResult, fill
from mambavl.cache.rows import OK, STATUS_CODE
from mambavl.cache.shards import Level
from mambavl.cache.spec import FeatureRecipe, Inputs, QuestionsProvenance, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders.base import TextEncoder
from mambavl.extract.options import TextExtraction
from mambavl.extract.questions import QUESTION_KEYS, read_questions


def extract_text(
    annotations: Annotations,
    questions: Path,
    out: Path,
    options: TextExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Encode both questions of every segment and write (or resume) the store `out`.

    Raises DataError naming the rows without a question; else as `extract_video`.
    """
    encoder = job.build_encoder(
        options.encoder, TextEncoder, options.weights, options.weights_state, options.device
    )
    asked = read_questions(questions)
    missing = [s.narration_id for s in annotations.segments if s.narration_id not in asked]
    if missing:
        raise DataError(
            f"{questions}: has no question for {len(missing):,} of {len(annotations.segments):,} rows ({some(missing)}); "
            "generate it for the same splits"
        )
    segments = annotations.segments
    tokens = {
        q: [encoder.tokenize(getattr(asked[segment.narration_id], q)) for segment in segments]
        for q in QUESTION_KEYS
    }
    first = asked[segments[0].narration_id]
    if first.backend.endswith("-unmasked") and not options.allow_unmasked:
        raise UsageError(
            f"{questions}: its questions say their answers (backend {first.backend}); they are for the leak audit. "
            "--set allow_unmasked=true encodes them all the same"
        )
    provenance = QuestionsProvenance(
        protocol=first.protocol, backend=first.backend, prompt_version=first.prompt_version
    )
    spec = _text_spec(annotations, questions, provenance, encoder, options, tokens)
    writer = StoreWriter(out, spec, segments, annotations.classes, job.environment(options.device))

    def encode(rows: range, result: FillResult) -> RowGroup:
        ids = {q: tokens[q][rows.start : rows.stop] for q in QUESTION_KEYS}
        return _text_group(encoder, ids, options, result)

    return fill(writer, encode, shard=shard, progress=progress, should_stop=should_stop)


def _text_group(
    encoder: TextEncoder, ids: dict[str, list[list[int]]], options: TextExtraction, result: FillResult
) -> RowGroup:
    since = time.perf_counter()
    # each text once, in order
    distinct = list({tuple(tokens): None for q in QUESTION_KEYS for tokens in ids[q]})
    place = {tokens: i for i, tokens in enumerate(distinct)}
    features: dict[str, list[np.ndarray]] = {level: [] for level in options.levels}
    for batch in _chunks(distinct, options.batch_texts):
        for level, values in encoder.encode([list(tokens) for tokens in batch], options.levels).items():
            features[level] += [value.numpy() for value in values]
    levels, lengths, reasons = {}, {}, {}
    for question in QUESTION_KEYS:
        order = [place[tuple(tokens)] for tokens in ids[question]]
        for level in options.levels:
            # a value past float16's range becomes infinite and is refused here
            with np.errstate(over="ignore"):
                found = [features[level][i].astype(options.dtype) for i in order]
            for row, value in enumerate(found):
                if not np.isfinite(value).all():
                    reasons.setdefault(
                        row, f"{options.encoder}: {question} at level {level} holds NaN or infinity"
                    )
            levels[f"{question}/{level}"] = found
        lengths[f"{question}/length"] = np.array([len(tokens) for tokens in ids[question]])
    bad = np.isin(np.arange(len(order)), list(reasons))
    for name in lengths:
        lengths[name] = np.where(bad, 0, lengths[name])
    for name, found in levels.items():
        kept = [value[:0] if row in reasons else value for row, value in enumerate(found)]
        levels[name] = (
            np.stack([_one_vector(v) for v in kept]) if name.endswith("/pooled") else np.concatenate(kept)
        )
    result.timed("encode", since)
    status = np.where(bad, STATUS_CODE["nonfinite_features"], OK).astype(np.uint8)
    return RowGroup(
        levels=levels, lengths=lengths, status=status, flags=np.zeros(len(order), np.uint8), reasons=reasons
    )


def _one_vector(value: np.ndarray) -> np.ndarray:
    """(1, D); zeros for an empty or failed text, whose length of 0 says that it does not count."""
    return value if len(value) else np.zeros((1, value.shape[1]), value.dtype)


def _text_spec(
    annotations: Annotations,
    questions: Path,
    provenance: QuestionsProvenance,
    encoder: TextEncoder,
    options: TextExtraction,
    tokens: dict[str, list[list[int]]],
) -> Spec:
    lengths = {q: np.array([len(ids) for ids in tokens[q]]) for q in QUESTION_KEYS}
    row_bytes = (
        max(lengths[q].mean() for q in QUESTION_KEYS) * encoder.width * np.dtype(options.dtype).itemsize
    )
    group_rows = options.rows_per_group or shards.rows_per_group(row_bytes)
    levels: list[Level] = []
    for question in QUESTION_KEYS:
        largest = max(
            int(lengths[question][i : i + group_rows].sum())
            for i in range(0, len(lengths[question]), group_rows)
        )
        capacity = max(1, -(-largest // shards.TOKEN_CHUNK)) * shards.TOKEN_CHUNK
        for level in options.levels:
            name = f"{question}/{level}"
            if level == "pooled":
                levels.append(
                    Level(name, "dense", (1, encoder.width), options.dtype, compressor=options.compressor)
                )
            else:
                levels.append(
                    Level(
                        name,
                        "ragged",
                        (encoder.width,),
                        options.dtype,
                        capacity=capacity,
                        compressor=options.compressor,
                    )
                )
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=job.encoder_identity(encoder),
        questions=provenance,
        batch_texts=options.batch_texts,
    )
    inputs = Inputs(
        annotations=annotations.sha256,
        splits=options.splits,
        questions_sha256=file_sha256(questions),
    )
    return Spec(kind="text", recipe=recipe, inputs=inputs, levels=tuple(levels), rows_per_group=group_rows)


def _chunks(items: list, size: int) -> Iterator[list]:
    for i in range(0, len(items), size):
        yield items[i : i + size]

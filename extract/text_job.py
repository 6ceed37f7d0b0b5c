"""The text job: both questions of every row, each distinct text encoded once.

Every process encodes the texts that its rows have. Most texts are those of many rows, so several processes do
much of the work several times; one is enough.
"""

import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from mambavl.cache import shards
from mambavl.cache.canonical import file_sha256
from mambavl.cache.fill import FillResult, fill
from mambavl.cache.rows import OK, STATUS_CODE
from mambavl.cache.shards import Level
from mambavl.cache.spec import FeatureRecipe, Inputs, QuestionsProvenance, Spec
from mambavl.cache.writer import RowGroup
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.distinct_texts import DistinctTexts, Tokens
from mambavl.extract.encoders.base import TextEncoder
from mambavl.extract.options import TextExtraction
from mambavl.extract.questions import QUESTION_KEYS, Question, read_questions

Ids = Sequence[Tokens]  # of a question, of each row


def extract_text(
    annotations: Annotations,
    questions: Path,
    out: Path,
    options: TextExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    like: FeatureRecipe | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Encode both questions of every segment and write (or resume) the store `out`.

    Raises DataError naming the rows without a question, UsageError for questions that say their answers where
    that was not asked for; shard, other errors and interrupts: as `video_job.extract_video`.
    """
    encoder = job.build_encoder(options, TextEncoder)
    asked = _read_for(annotations, questions)
    _refuse_unmasked(questions, asked[0], options)
    ids = _tokenized(encoder, asked)
    spec = _text_spec(annotations, questions, asked[0], encoder, options, ids)
    with closing(DistinctTexts(encoder, itertools.chain(*ids.values()), options, should_stop)) as distinct:
        writer = job.open_writer(out, spec, annotations, options.device, retry_failed=retry_failed, like=like)

        def encode(rows: range) -> RowGroup:
            return _row_group(
                distinct, {key: ids[key][rows.start : rows.stop] for key in QUESTION_KEYS}, options
            )

        return fill(writer, encode, stage="encode", shard=shard, progress=progress, should_stop=should_stop)


def _read_for(annotations: Annotations, path: Path) -> list[Question]:
    """The question of each segment. Raises DataError where some have none."""
    questions = read_questions(path)
    names = [segment.narration_id for segment in annotations.segments]
    missing = [name for name in names if name not in questions]
    if missing:
        raise DataError(
            f"{path}: has no question for {len(missing):,} of {len(names):,} rows ({some(missing)}); "
            "generate it for the same splits"
        )
    return [questions[name] for name in names]


def _refuse_unmasked(path: Path, first: Question, options: TextExtraction) -> None:
    if first.backend.endswith("-unmasked") and not options.allow_unmasked:
        raise UsageError(
            f"{path}: its questions say their answers (backend {first.backend}); they are for the leak "
            "audit. --set allow_unmasked=true encodes them all the same"
        )


def _tokenized(encoder: TextEncoder, asked: Sequence[Question]) -> dict[str, Ids]:
    """Question -> the token ids of each row; each distinct text is tokenized once."""
    texts = list(dict.fromkeys(getattr(question, key) for question in asked for key in QUESTION_KEYS))
    tokens = dict(zip(texts, map(tuple, encoder.tokenize_all(texts)), strict=True))
    return {key: [tokens[getattr(question, key)] for question in asked] for key in QUESTION_KEYS}


def _row_group(distinct: DistinctTexts, ids: dict[str, Ids], options: TextExtraction) -> RowGroup:
    """The features of some rows' questions; a row whose features are not finite fails and has none."""
    found: dict[str, list[np.ndarray]] = {}  # level of the store -> (L, D) of each row
    for key in QUESTION_KEYS:
        for level, values in distinct.features(ids[key]).items():
            found[f"{key}/{level}"] = values
    reasons = _not_finite(options.encoder, found)
    levels: dict[str, np.ndarray] = {}
    for name, values in found.items():
        kept = [value[:0] if row in reasons else value for row, value in enumerate(values)]
        levels[name] = _joined(name, kept)
    rows = len(ids[QUESTION_KEYS[0]])
    has_failed = np.isin(np.arange(rows), list(reasons))
    lengths: dict[str, np.ndarray] = {}
    for key in QUESTION_KEYS:
        lengths[f"{key}/length"] = np.where(has_failed, 0, [len(tokens) for tokens in ids[key]])
    return RowGroup(
        levels=levels,
        lengths=lengths,
        status=np.where(has_failed, STATUS_CODE["nonfinite_features"], OK).astype(np.uint8),
        flags=np.zeros(rows, np.uint8),
        reasons=reasons,
    )


def _not_finite(encoder: str, found: dict[str, list[np.ndarray]]) -> dict[int, str]:
    """Row -> reason, of the rows that hold NaN or infinity."""
    reasons: dict[int, str] = {}
    for name, values in found.items():
        question, _, level = name.partition("/")
        for row, value in enumerate(values):
            if row not in reasons and not np.isfinite(value).all():
                reasons[row] = f"{encoder}: {question} at level {level} holds NaN or infinity"
    return reasons


def _joined(name: str, values: list[np.ndarray]) -> np.ndarray:
    """(rows, 1, D) of a pooled level, else the tokens of all rows one after another, (tokens, D)."""
    if not name.endswith("/pooled"):
        return np.concatenate(values)
    # of an empty or failed text, whose length of 0 says that it does not count: zeros
    return np.stack([value if len(value) else np.zeros((1, value.shape[1]), value.dtype) for value in values])


def _text_spec(
    annotations: Annotations,
    questions: Path,
    first: Question,
    encoder: TextEncoder,
    options: TextExtraction,
    ids: dict[str, Ids],
) -> Spec:
    lengths = {key: np.array(list(map(len, ids[key]))) for key in QUESTION_KEYS}
    token_bytes = encoder.width * np.dtype(options.dtype).itemsize
    row_bytes = max(lengths[key].mean() for key in QUESTION_KEYS) * token_bytes
    group_rows = options.rows_per_group or shards.rows_per_group(row_bytes)
    levels: list[Level] = []
    for key in QUESTION_KEYS:
        capacity = shards.token_capacity(lengths[key], group_rows)
        for level in options.levels:
            levels.append(_level(f"{key}/{level}", encoder.width, capacity, options))
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=job.encoder_identity(encoder),
        questions=QuestionsProvenance(
            protocol=first.protocol, backend=first.backend, prompt_version=first.prompt_version
        ),
        batch_texts=options.batch_texts,
    )
    inputs = Inputs(
        annotations=annotations.sha256,
        splits=options.splits,
        questions_sha256=file_sha256(questions),
    )
    return Spec(kind="text", recipe=recipe, inputs=inputs, levels=tuple(levels), rows_per_group=group_rows)


def _level(name: str, width: int, capacity: int, options: TextExtraction) -> Level:
    if name.endswith("/pooled"):
        return Level(name, "dense", (1, width), options.dtype, compressor=options.compressor)
    return Level(name, "ragged", (width,), options.dtype, capacity=capacity, compressor=options.compressor)

"""The history job: the past actions of every row as tokens, in an ordinary store.

    level past/actions    (tokens, D + 1): oldest first; D channels of the action, the last one its age

Encoder `classes` writes a verb and a noun class, each one-hot, so that a linear layer on it is a table of
embeddings; a text encoder writes its pooled vector of the narration. What is hot is sqrt(D / 2), by which the
mean square over the D channels is 1: a head that is fed ones among 400 channels learns next to nothing in its
first epochs, for its activations are as small. The age is log(1 + seconds): from 0, for an action that has
just ended, to 8 after an hour. A row without a past is `empty_window`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from mambavl.cache import shards
from mambavl.cache.canonical import file_sha256
from mambavl.cache.fill import FillResult, fill
from mambavl.cache.rows import EMPTY_WINDOW, OK, STATUS_CODE, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, HistoryRecipe, Inputs, Spec
from mambavl.cache.writer import RowGroup
from mambavl.configs.errors import UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.distinct_texts import DistinctTexts
from mambavl.extract.encoders.base import TextEncoder
from mambavl.extract.history import Past, histories
from mambavl.extract.options import HistoryExtraction, TextExtraction
from mambavl.extract.questions.labels import classes_of, is_labelled
from mambavl.extract.questions.predicted import as_predicted

LEVEL = "past/actions"
LENGTH = "past/length"
AGE = "log(1 + seconds)"

Vectors = Callable[[Sequence[int]], np.ndarray]  # numbers of actions -> (n, D)


def extract_history(
    annotations: Annotations,
    out: Path,
    options: HistoryExtraction,
    *,
    scores: Sequence[Path] = (),
    train_from: Sequence[Path] = (),
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Write (or resume) the store `out` of what was done before each segment.

    scores, train_from: of protocol predicted, as `predicted.predict` takes them. Raises UsageError for a data
    set without verbs and nouns, for scores that nobody reads, and for a split of which no label is known
    where the past is told by labels; DataError as `as_predicted`; other errors and interrupts as
    `text_job.extract_text`.
    """
    told = _told(annotations, options, scores, train_from)
    pasts = histories(annotations.segments, told, last=options.last, tau=options.tau, order=options.order)
    with _encoder(annotations, told, pasts, options, should_stop) as (identity, vectors):
        spec = _spec(annotations, pasts, identity, options, scores, train_from)
        writer = job.open_writer(out, spec, annotations, options.device, retry_failed=False)

        def make(rows: range) -> RowGroup:
            return _row_group(annotations.segments, pasts, rows, vectors, options)

        return fill(writer, make, stage="encode", progress=progress, should_stop=should_stop)


def _told(
    annotations: Annotations, options: HistoryExtraction, scores: Sequence[Path], train_from: Sequence[Path]
) -> Sequence[Segment]:
    """The segments as whoever tells of the past knows them."""
    if options.protocol == "predicted":
        return as_predicted(annotations, scores, train_from=train_from)
    if scores or train_from:
        raise UsageError(
            "--scores and --train-from are a recogniser's, and --protocol oracle asks none; add --protocol "
            "predicted, or leave them out"
        )
    for split in dict.fromkeys(segment.split for segment in annotations.segments):
        if not any(is_labelled(segment) for segment in annotations.segments if segment.split == split):
            raise UsageError(
                f"no row of split {split} has a verb and a noun class, so --protocol oracle knows nothing of "
                "what was done there; use --protocol predicted with --scores FILE, or leave the split out"
            )
    return annotations.segments


@contextmanager
def _encoder(
    annotations: Annotations,
    told: Sequence[Segment],
    pasts: Iterable[Past],
    options: HistoryExtraction,
    should_stop: ShouldStop,
) -> Iterator[tuple[EncoderIdentity, Vectors]]:
    """What makes a vector of an action."""
    if options.encoder == "classes":
        if options.weights or options.weights_state:
            raise UsageError("--encoder classes has no weights; leave --weights and weights_state out")
        yield _one_hot(annotations, told)
        return
    as_text = TextExtraction(
        encoder=options.encoder,
        weights=options.weights,
        weights_state=options.weights_state,
        levels=("pooled",),
        dtype=options.dtype,
        batch_texts=options.batch_texts,
        device=options.device,
    )
    encoder = job.build_encoder(as_text, TextEncoder)
    used = sorted({number for past in pasts for number in past.actions})
    texts = [_words(annotations, told[number]) for number in used]
    tokens = dict(zip(used, map(tuple, encoder.tokenize_all(texts)), strict=True))
    with closing(DistinctTexts(encoder, tokens.values(), as_text, should_stop)) as distinct:

        def vectors(numbers: Sequence[int]) -> np.ndarray:
            found = distinct.features([tokens[number] for number in numbers])["pooled"]
            return np.concatenate(found) if found else np.zeros((0, encoder.width), options.dtype)

        yield job.encoder_identity(encoder), vectors


def _one_hot(annotations: Annotations, told: Sequence[Segment]) -> tuple[EncoderIdentity, Vectors]:
    """(n, verbs + nouns): hot at the verb's class, and at the noun's behind the verbs'."""
    verbs, nouns = annotations.verbs.size, annotations.nouns.size
    hot = ((verbs + nouns) / 2) ** 0.5

    def vectors(numbers: Sequence[int]) -> np.ndarray:
        found = np.zeros((len(numbers), verbs + nouns), np.float32)
        for row, number in enumerate(numbers):
            verb, noun = classes_of(told[number])
            found[row, verb] = found[row, verbs + noun] = hot
        return found

    details = {"verb": verbs, "noun": nouns, "hot": hot}
    return EncoderIdentity(name="classes", state="none", width=verbs + nouns, details=details), vectors


def _words(annotations: Annotations, action: Segment) -> str:
    """The narration of an action; without one, the words of its classes."""
    verb, noun = classes_of(action)
    return action.narration or f"{annotations.verbs.words(verb)} {annotations.nouns.words(noun)}"


def _row_group(
    segments: Sequence[Segment],
    pasts: Sequence[Past],
    rows: range,
    vectors: Vectors,
    options: HistoryExtraction,
) -> RowGroup:
    own = [pasts[row] for row in rows]
    counts = np.array([len(past.actions) for past in own])
    ages = np.array([age for past in own for age in past.ages])
    encoded = vectors([number for past in own for number in past.actions])
    with np.errstate(over="ignore"):  # past float16's range: infinite, and refused below
        tokens = np.concatenate([encoded, np.log1p(ages)[:, None]], 1).astype(options.dtype)
    broken = np.zeros(len(own), bool)
    broken[np.repeat(np.arange(len(own)), counts)[~np.isfinite(tokens).all(1)]] = True
    status = np.where(broken, STATUS_CODE["nonfinite_features"], np.where(counts, OK, EMPTY_WINDOW))
    reasons = {}
    for place, row in enumerate(rows):
        until = segments[row].start - options.tau
        if broken[place]:
            reasons[place] = f"{options.encoder}: level {LEVEL} holds NaN or infinity"
        elif not counts[place]:
            reasons[place] = f"no action of {segments[row].video_id} had ended by {until:.2f} s"
    return RowGroup(
        levels={LEVEL: tokens[np.repeat(~broken, counts)]},
        lengths={LENGTH: np.where(broken, 0, counts)},
        status=status.astype(np.uint8),
        flags=np.zeros(len(own), np.uint8),
        reasons=reasons,
    )


def _spec(
    annotations: Annotations,
    pasts: Sequence[Past],
    identity: EncoderIdentity,
    options: HistoryExtraction,
    scores: Sequence[Path],
    train_from: Sequence[Path],
) -> Spec:
    width = (identity.width or 0) + 1
    lengths = np.array([len(past.actions) for past in pasts])
    row_bytes = lengths.mean() * width * np.dtype(options.dtype).itemsize
    group_rows = options.rows_per_group or shards.rows_per_group(row_bytes)
    capacity = shards.token_capacity(lengths, group_rows)
    level = Level(LEVEL, "ragged", (width,), options.dtype, capacity=capacity, compressor=options.compressor)
    told_train = "scores" if train_from else "labels"
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=identity,
        batch_texts=None if options.encoder == "classes" else options.batch_texts,
        history=HistoryRecipe(
            protocol=options.protocol,
            last=options.last,
            tau_a=options.tau,
            age=AGE,
            order=options.order,
            train_rows=told_train if options.protocol == "predicted" else None,
        ),
    )
    inputs = Inputs(
        annotations=annotations.sha256,
        splits=options.splits,
        scores=tuple(sorted(file_sha256(path) for path in (*scores, *train_from))) or None,
    )
    return Spec(kind="history", recipe=recipe, inputs=inputs, levels=(level,), rows_per_group=group_rows)

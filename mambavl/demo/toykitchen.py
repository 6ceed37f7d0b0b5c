"""A toy kitchen in EPIC-KITCHENS' clothes: untrimmed videos with known answers, and the CSV files to them.

    folder/annotations/EPIC_100_*.csv       columns, ids and time formats of EK100; only classes that occur
    folder/videos/P01/videos/P01_101.MP4    H.264, 224x160 at 20 fps, some 16 actions each, some overlapping

Verbs are motions whose marks (hand, tool, water, pieces, lid, flame) show in single frames even after global
pooling; nouns are drawn objects; every verb meets every noun. take/put, open/close and turn-on/turn-off show
each other's frames backwards, so only the order of time tells them apart. P09 and P10 cook in validation
only. Ids and keys are EK100's; instances, categories and narrations are our own words. Everything follows
from `seed`. Here it is planned, written down and encoded; toypictures.py draws it.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import av
from PIL import Image

from mambavl.demo.toypictures import FPS, HEIGHT, UNSEEN_PARTICIPANTS, WIDTH, Act, Film, Word, draw_film
from mambavl.extract.annotations import LABEL_COLUMNS, TIME_COLUMNS
from mambavl.extract.class_lists import spoken

GOP = 12  # short, so that reading one segment decodes little before it
ACTS_PER_VIDEO = 16
MIN_SEGMENTS = 24  # below it three quarters cannot hold every verb once
TRAIN_PARTICIPANTS = tuple(f"P{number:02d}" for number in range(1, 9))
COLUMNS = TIME_COLUMNS + LABEL_COLUMNS


def _word(class_id: int, instances: str, category: str, weight: float, hints: str) -> Word:
    names = tuple(instances.split())
    return Word(class_id, names[0], names, category, weight, tuple(hint.strip() for hint in hints.split(",")))


VERBS = (
    _word(0, "take pick-up grab fetch", "transport", 1.9, "from the table, with one arm"),
    _word(1, "put put-down place set-down", "transport", 1.7, "on the table, back where it was"),
    _word(2, "wash rinse hose", "hygiene", 1.4, "under running water, with foam"),
    _word(3, "open unseal uncover", "access", 1.2, "to look inside, without noise"),
    _word(4, "close shut cover", "access", 1.0, "for later, without noise"),
    _word(6, "turn-on switch-on fire-up", "heating", 0.9, "on the stove, with a click"),
    _word(7, "cut slice chop", "alteration", 1.2, "into pieces, with a sharp blade"),
    _word(8, "turn-off switch-off shut-off", "heating", 0.7, "on the stove, at the end"),
    _word(9, "pour pour-over drizzle", "combination", 0.9, "from the jug, until wet"),
    _word(10, "mix stir whirl", "combination", 0.9, "round and round, in a basin"),
    _word(14, "dry wipe dab", "hygiene", 0.8, "with a checked rag, until clean"),
    _word(19, "peel pare strip", "alteration", 0.7, "in long ribbons, with a sharp blade"),
    _word(18, "squeeze press squash", "alteration", 0.6, "until juice comes, with both palms"),
    _word(42, "sprinkle season dust", "combination", 0.6, "with fine grains, from a shaker"),
)
NOUNS = (
    _word(43, "tomato tomato:cherry", "produce", 1.6, "sweet, soft, round"),
    _word(13, "cup cup:tea mug", "tableware", 1.5, "blue, empty, clean"),
    _word(41, "carrot carrot:orange", "produce", 1.3, "long, fresh, pointed"),
    _word(2, "plate dish plate:dinner", "tableware", 1.2, "white, clean, flat"),
    _word(53, "egg egg:boiled", "pantry", 1.1, "pale, whole, round"),
    _word(33, "bread loaf slice:bread", "pantry", 1.1, "crusty, brown, fresh"),
    _word(5, "pan skillet pan:frying", "cookware", 1.0, "black, heavy, flat"),
    _word(145, "banana banana:ripe", "produce", 0.9, "yellow, long, sweet"),
    _word(16, "onion onion:red", "produce", 0.8, "purple, round, strong"),
    _word(15, "bottle bottle:oil flask", "tableware", 0.8, "green, tall, empty"),
    _word(101, "broccoli floret:broccoli", "produce", 0.7, "green, fresh, small"),
    _word(18, "board:chopping board plank", "cookware", 0.6, "plastic, flat, square"),
)
MANNERS = ("slowly", "with care", "quickly", "gently", "once more")


@dataclass(frozen=True)
class ToyKitchen:
    """Where a rendered kitchen lies and how much of it there is."""

    annotations: Path
    videos: Path
    num_videos: int
    num_train: int
    num_validation: int
    num_verbs: int
    num_nouns: int


def render(
    folder: Path, *, segments: int = 320, seed: int = 0, on_video: Callable[[int, int], None] | None = None
) -> ToyKitchen:
    """Write the annotations and draw every video under `folder`; `on_video(done, total)` is called after each
    video.
    """
    films = plan(segments, seed)
    annotations, videos = Path(folder) / "annotations", Path(folder) / "videos"
    write_annotations(annotations, films)
    for done, film in enumerate(films, start=1):
        path = videos / film.participant_id / "videos" / f"{film.video_id}.MP4"
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(path, draw_film(film, seed))
        if on_video is not None:
            on_video(done, len(films))
    counts = Counter(film.split for film in films for _ in film.acts)
    return ToyKitchen(
        annotations, videos, len(films), counts["train"], counts["validation"], len(VERBS), len(NOUNS)
    )


# --- what happens


def plan(segments: int, seed: int) -> list[Film]:
    """Decide every video, action, time and word before a pixel is drawn."""
    if segments < MIN_SEGMENTS:
        raise ValueError(f"segments = {segments}: fewer than {MIN_SEGMENTS} cannot show every verb in train")
    dice = Random(f"plan {seed}")
    num_validation = round(segments / 4)
    films = _films("train", segments - num_validation, _train_cooks, Counter(), dice)
    shot = Counter(film.participant_id for film in films)
    return films + _films("validation", num_validation, _validation_cooks, shot, dice)


def _films(
    split: str, num_acts: int, cooks: Callable[[int], list[str]], shot: Counter[str], dice: Random
) -> list[Film]:
    pairs = list(zip(_labels(VERBS, num_acts, dice), _labels(NOUNS, num_acts, dice), strict=True))
    participants = cooks(max(3, round(num_acts / ACTS_PER_VIDEO)))
    films = []
    for index, participant in enumerate(participants):
        shot[participant] += 1
        video_id = f"{participant}_{100 + shot[participant]}"  # three digits, as in EK100's extension
        films.append(_film(video_id, participant, split, pairs[index :: len(participants)], dice))
    return films


def _train_cooks(num_videos: int) -> list[str]:
    return [TRAIN_PARTICIPANTS[index % len(TRAIN_PARTICIPANTS)] for index in range(num_videos)]


def _validation_cooks(num_videos: int) -> list[str]:
    unseen = [UNSEEN_PARTICIPANTS[index % 2] for index in range(max(2, round(0.4 * num_videos)))]
    return _train_cooks(num_videos - len(unseen)) + unseen


def _labels(words: tuple[Word, ...], count: int, dice: Random) -> list[Word]:
    """`count` labels in random order: each class once while there is room, the rest in proportion to the
    weights.
    """
    labels = list(words[:count])
    shares = {word: count * word.weight / sum(other.weight for other in words) for word in words}
    while len(labels) < count:
        labels.append(max(words, key=lambda word: shares[word] - labels.count(word)))
    dice.shuffle(labels)
    return labels


def _film(video_id: str, participant: str, split: str, pairs: list[tuple[Word, Word]], dice: Random) -> Film:
    acts, clock = [], dice.uniform(0.3, 0.8)
    for index, (verb, noun) in enumerate(pairs):
        begin, end = clock, clock + dice.uniform(1.6, 2.6)
        gap = dice.uniform(0.15, 0.6)
        reach = gap + dice.uniform(0.15, 0.35) if dice.random() < 0.25 else dice.uniform(0.0, 0.1)
        acts.append(_act(f"{video_id}_{index}", verb, noun, begin, end, end + reach, dice))
        clock = end + gap
    return Film(video_id, participant, split, tuple(acts), acts[-1].stop + 0.4)


def _act(
    narration_id: str, verb: Word, noun: Word, begin: float, end: float, stop: float, dice: Random
) -> Act:
    second = dice.choice([word for word in NOUNS if word is not noun]) if dice.random() < 0.2 else None
    verb_word, noun_word = _instance(verb, dice), _instance(noun, dice)
    start = round(begin - dice.uniform(0.0, 0.1), 2)
    return Act(
        narration_id=narration_id,
        verb=verb,
        noun=noun,
        begin=begin,
        end=end,
        start=start,
        stop=round(stop, 2),
        narrated=round(start + dice.uniform(0.0, 0.6), 3),
        verb_word=verb_word,
        noun_word=noun_word,
        narration=_narration(verb, verb_word, noun, noun_word, second, dice),
        second=second,
    )


def _instance(word: Word, dice: Random) -> str:
    return word.key if dice.random() < 0.5 else dice.choice(word.instances)


def _narration(
    verb: Word, verb_word: str, noun: Word, noun_word: str, second: Word | None, dice: Random
) -> str:
    """As somebody would say it: sometimes two bare words, sometimes with manner, looks or a neighbour."""
    parts = [spoken(verb_word)]
    if dice.random() < 0.5:
        parts.append("the")
    if dice.random() < 0.4:
        parts.append(dice.choice(noun.hints))
    parts.append(spoken(noun_word))
    if second:
        parts.append(f"beside the {spoken(second.key)}")
    if dice.random() < 0.4:
        parts.append(dice.choice(verb.hints))
    if dice.random() < 0.3:
        parts.append(dice.choice(MANNERS))
    return " ".join(parts)


# --- the CSV files


def write_annotations(folder: Path, films: list[Film]) -> None:
    """The eight files that a reader of EPIC-KITCHENS-100 opens."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        rows = [_row(film, act) for film in films if film.split == split for act in film.acts]
        _write_csv(folder / f"EPIC_100_{split}.csv", COLUMNS, rows)
    train = [act for film in films if film.split == "train" for act in film.acts]
    for kind, words in (("verb", VERBS), ("noun", NOUNS)):
        classes = sorted((word.class_id, word.key, list(word.instances), word.category) for word in words)
        _write_csv(folder / f"EPIC_100_{kind}_classes.csv", ("id", "key", "instances", "category"), classes)
        tail = _tail(Counter(getattr(act, kind).class_id for act in train))
        _write_csv(folder / f"EPIC_100_tail_{kind}s.csv", (kind,), [(class_id,) for class_id in tail])
    unseen = [(participant,) for participant in UNSEEN_PARTICIPANTS]
    _write_csv(folder / "EPIC_100_unseen_participant_ids_validation.csv", ("participant_id",), unseen)
    info = [
        (film.video_id, f"{film.num_frames / FPS:.6f}", float(FPS), f"{WIDTH}x{HEIGHT}") for film in films
    ]
    _write_csv(folder / "EPIC_100_video_info.csv", ("video_id", "duration", "fps", "resolution"), info)


def _row(film: Film, act: Act) -> tuple[object, ...]:
    nouns = [act.noun_word] + ([act.second.key] if act.second else [])
    noun_classes = [act.noun.class_id] + ([act.second.class_id] if act.second else [])
    return (
        act.narration_id,
        film.participant_id,
        film.video_id,
        _timestamp(act.narrated, 3),
        _timestamp(act.start, 2),
        _timestamp(act.stop, 2),
        _frame_number(act.start),
        _frame_number(act.stop),
        act.narration,
        act.verb_word,
        act.verb.class_id,
        act.noun_word,
        act.noun.class_id,
        nouns,
        noun_classes,
    )


def _timestamp(seconds: float, digits: int) -> str:
    minutes, rest = divmod(round(seconds * 10**digits), 60 * 10**digits)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest / 10**digits:0{3 + digits}.{digits}f}"


def _frame_number(seconds: float) -> int:
    # floor(seconds x 50), in whole hundredths so that 0.1 is 0.1
    return max(1, round(seconds * 100) * 50 // 100)


def _tail(counts: Counter[int]) -> list[int]:
    """EK100's rule: the smallest classes that together make up a fifth of the train rows."""
    tail: list[int] = []
    covered = 0
    for class_id, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        covered += count
        if tail and covered > 0.2 * counts.total():
            break
        tail.append(class_id)
    return sorted(tail)


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


# --- the videos


def _encode(path: Path, frames: Iterable[Image.Image]) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = GOP
        stream.codec_context.thread_count = 1
        # 0.65 MB a video; drawing and encoding take 1.6 ms a frame
        stream.options = {"preset": "superfast", "crf": "26"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))

"""Answers as a picture: the last frame that was seen, and beside it the best classes as bars."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mambavl.cache import fsops
from mambavl.configs.errors import DataError
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video
from mambavl.predict.predict import Answer

MOST = 40  # moments in a picture; of more, so many at even steps
COLUMNS = 4
FRAME = (240, 136)  # the box that a frame is fitted into, in pixels
BAR, LINE, GAP = 108, 15, 10  # width of a full bar, height of a line, space between panels
NAME = 150  # width of a class's name
SIZE = 11  # of letters
BACK, INK, FAINT, FILL = "white", "#222222", "#e8e8e8", "#3b6ea5"


def shown(count: int) -> list[int]:
    """Which of some moments are in a picture: all, or MOST of them at even steps."""
    if count <= MOST:
        return list(range(count))
    return [round(step * (count - 1) / (MOST - 1)) for step in range(MOST)]


def draw(video: Path, answers: Sequence[Answer], out: Path) -> int:
    """Write a PNG of the answers and return how many are in it. Raises DataError where the video cannot be
    read.
    """
    chosen = [answers[number] for number in shown(len(answers))]
    frames = _frames(video, [answer.moment.time for answer in chosen])
    height = _height(chosen)
    width = FRAME[0] + GAP + NAME + BAR
    rows = -(-len(chosen) // COLUMNS)
    columns = min(COLUMNS, len(chosen))
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), BACK)
    for number, (answer, frame) in enumerate(zip(chosen, frames, strict=True)):
        row, column = divmod(number, COLUMNS)
        page.paste(
            _panel(answer, frame, (width, height)), (GAP + column * (width + GAP), GAP + row * (height + GAP))
        )
    fsops.make_folder(out.parent)
    with fsops.written_aside(out) as unfinished:
        page.save(unfinished, format="PNG")
    return len(chosen)


def _frames(video: Path, times: Sequence[float]) -> list[Image.Image | None]:
    """What is on display at some times; None where the file does not show it."""
    try:
        reader = open_video(video)
    except VideoError as error:
        raise DataError(str(error)) from None
    try:
        places: list[int | None] = []
        for time in times:
            try:
                places.append(int(reader.timeline.at(np.array([min(time, reader.timeline.end)]))[0][0]))
            except VideoError:
                places.append(None)
        wanted = np.array([place for place in places if place is not None], np.int64)
        small: dict[int, Image.Image] = {}
        for number, pixels in reader.frames(wanted) if len(wanted) else ():
            if not isinstance(pixels, VideoError):
                image = Image.fromarray(pixels)
                image.thumbnail(FRAME)
                small[number] = image
        return [None if place is None else small.get(place) for place in places]
    finally:
        reader.close()


def _height(answers: Sequence[Answer]) -> int:
    lines = max(sum(1 + len(guesses) for guesses in (answer.best or {}).values()) for answer in answers)
    return max(FRAME[1], lines * LINE) + LINE


def _panel(answer: Answer, frame: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    panel = Image.new("RGB", size, BACK)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(SIZE)
    pen.text((0, 0), said_of_time(answer), INK, font)
    if frame is None:
        pen.rectangle((0, LINE, FRAME[0] - 1, LINE + FRAME[1] - 1), FAINT)
    else:
        panel.paste(frame, (0, LINE))
    left, top = FRAME[0] + GAP, LINE
    if answer.best is None:
        pen.text((left, top), answer.status, INK, font)
        return panel
    for target, guesses in answer.best.items():
        pen.text((left, top), target, FILL, font)
        top += LINE
        for guess in guesses:
            pen.text((left, top), _fitted(guess.name, font), INK, font)
            at = left + NAME
            pen.rectangle((at, top + 2, at + BAR - 1, top + LINE - 4), FAINT)
            full = round(guess.probability * BAR)
            if full:
                pen.rectangle((at, top + 2, at + full - 1, top + LINE - 4), FILL)
            top += LINE
    return panel


def said_of_time(answer: Answer) -> str:
    """`at 2.00 s`, and in anticipation what it is about."""
    moment = answer.moment
    if moment.about == moment.time:
        return f"at {moment.time:.2f} s"
    return f"at {moment.time:.2f} s, for {moment.about:.2f} s"


def _fitted(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name, cut where it would reach into its bar."""
    while font.getlength(name) > NAME - 6:
        name = name[:-2].rstrip(".") + "."
    return name

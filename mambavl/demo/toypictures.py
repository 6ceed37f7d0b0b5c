"""The pictures of the toy kitchen: what toykitchen.py has planned as a Film, drawn frame by frame.

A Kitchen is what one video keeps (worktop, light, camera, hands), a Stage what one action keeps (object,
place, tools). Nouns and verbs each have a painter, found by the key of the class: a noun's draws on a sheet
of 256 x 256, a verb's on the canvas, twice the video's size; p is the progress of an action, 0 to 1. A film
and a seed decide every pixel.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

FPS = 20
WIDTH, HEIGHT = 224, 160
# drawn at twice the size, 16 px to spare on each side for the camera's sway
CANVAS = (2 * WIDTH + 32, 2 * HEIGHT + 32)
UNSEEN_PARTICIPANTS = ("P09", "P10")  # their light may be a little further from the usual

Colour = tuple[int, int, int]
Point = tuple[float, float]
Paint = Callable[[int, int, int], Colour]  # red, green, blue -> the same in the shade of one object


@dataclass(frozen=True)
class Word:
    """A class: EK100's id and key, our instances and category; `hints` are what a narrator may add when
    saying it.
    """

    class_id: int
    key: str
    instances: tuple[str, ...]
    category: str
    weight: float  # how often it occurs, relative to the others: a mild long tail
    hints: tuple[str, ...]


@dataclass(frozen=True)
class Act:
    """One action: what is shown in [begin, end), and what the annotator wrote down about it."""

    narration_id: str
    verb: Word
    noun: Word
    begin: float  # seconds
    end: float
    start: float  # the label's, near begin; it may reach into the neighbour, as EPIC's do
    stop: float
    narrated: float
    verb_word: str
    noun_word: str
    narration: str
    second: Word | None  # a second noun, in the picture and in the narration


@dataclass(frozen=True)
class Film:
    """One video and all that happens in it."""

    video_id: str
    participant_id: str
    split: str
    acts: tuple[Act, ...]
    duration: float

    @property
    def num_frames(self) -> int:
        return math.ceil(self.duration * FPS)


def draw_film(film: Film, seed: int) -> Iterator[Image.Image]:
    """Every frame of the video in order; between two actions only the kitchen is seen."""
    kitchen = Kitchen(film.participant_id, film.video_id, seed)
    upcoming, stage = list(film.acts), None
    for index in range(film.num_frames):
        seconds = index / FPS
        if upcoming and seconds >= upcoming[0].begin:
            act = upcoming.pop(0)
            stage = Stage(kitchen, act.noun, act.second, Random(f"{seed} {act.narration_id}"))
        if stage is not None and seconds >= act.end:
            stage = None
        if stage is None:
            yield kitchen.shot(kitchen.background, seconds)
        else:
            yield kitchen.shot(
                stage.picture(act.verb, (seconds - act.begin) / (act.end - act.begin)), seconds
            )


class Kitchen:
    """What stays the same in a video: worktop, clutter, light, camera, and the cook's hands."""

    def __init__(self, participant_id: str, video_id: str, seed: int) -> None:
        home, day = Random(f"{seed} {participant_id}"), Random(f"{seed} {video_id}")
        self.skin = home.choice(
            [(241, 200, 170), (224, 172, 130), (176, 120, 84), (120, 78, 52), (90, 56, 38)]
        )
        self.sleeve = _random_colour(home, 30, 220)
        self.background = _worktop(home, day)
        self._light = _light(home, day, strange=participant_id in UNSEEN_PARTICIPANTS)
        self._sway = [day.uniform(0.5, 1.4) for _ in range(2)]
        self._hand = _hand(self.skin, self.sleeve)
        self._turned: dict[int, Image.Image] = {}

    def hand(self, degrees: float) -> Image.Image:
        """The hand turned by whole steps of 15 degrees, since turning costs more than all else in a frame."""
        step = round(degrees / 15) * 15 % 360
        if step not in self._turned:
            self._turned[step] = self._hand.rotate(step, Image.Resampling.BILINEAR)
        return self._turned[step]

    def shot(self, picture: Image.Image, seconds: float) -> Image.Image:
        """The canvas through a head-worn camera: it sways, halves the size, and has this kitchen's light."""
        left = 16 + round(12 * math.sin(self._sway[0] * seconds))
        top = 16 + round(12 * math.sin(self._sway[1] * seconds + 1))
        return picture.reduce(2, box=(left, top, left + 2 * WIDTH, top + 2 * HEIGHT)).point(self._light)


def _light(home: Random, day: Random, strange: bool) -> list[int]:
    # kitchens never seen in training are lit a little further from the usual
    spread = 0.15 if strange else 0.08
    gains = [home.uniform(1 - spread, 1 + spread) * gain for gain in [day.uniform(0.85, 1.1)] * 3]
    gamma = home.uniform(0.8, 1.25)
    return [min(255, round(255 * (value / 255) ** gamma * gain)) for gain in gains for value in range(256)]


def _worktop(home: Random, day: Random) -> Image.Image:
    base = np.array([home.randrange(70, 215) for _ in range(3)], dtype=np.float32)
    base += 0.6 * (base.mean() - base)  # worktops are duller than what lies on them
    width, height = CANVAS
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    period, kind = home.uniform(36, 90), home.choice(["planks", "tiles", "stripes", "plain"])
    pattern = {
        "planks": np.sign(np.sin(2 * np.pi * y / period)) + 0.5 * np.sin(x / 17 + y / 3),
        "tiles": -2.0 * ((x % period < 4) | (y % period < 4)),
        "stripes": np.sign(np.sin(2 * np.pi * (x + 0.6 * y) / period)),
        "plain": np.sin(x / 150) + np.sin(y / 130),
    }[kind]
    noise = np.random.default_rng(day.randrange(2**32)).normal(0, 1, (height, width)).astype(np.float32)
    grain = 12 * pattern + home.uniform(2, 6) * noise
    image = Image.fromarray(np.clip(base + grain[..., None], 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(day.randrange(3, 7)):
        _clutter(pen, day)
    return image


def _clutter(pen: ImageDraw.ImageDraw, day: Random) -> None:
    """Something at the rim of the table that is not one of our classes."""
    x = day.choice([day.randrange(0, 90), day.randrange(390, CANVAS[0])])
    y, size = day.randrange(0, CANVAS[1]), day.randrange(20, 55)
    colour = _random_colour(day, 70, 200)
    box = (x - size, y - size * 0.7, x + size, y + size * 0.7)
    day.choice([pen.ellipse, pen.rectangle])(box, fill=colour, outline=_shade(colour, 0.6), width=4)


def _hand(skin: Colour, sleeve: Colour) -> Image.Image:
    """A hand seen from above whose fingers point down and end near the middle, so that turning keeps the tips
    there.
    """
    image = Image.new("RGBA", (400, 400))
    pen, edge = ImageDraw.Draw(image), _shade(skin, 0.75)
    pen.polygon([(165, 0), (235, 0), (228, 80), (172, 80)], fill=sleeve)
    pen.rectangle((178, 70, 222, 110), fill=skin)
    pen.ellipse((155, 90, 245, 165), fill=skin, outline=edge, width=2)
    for x, tip in ((164, 190), (186, 204), (208, 204), (230, 192)):
        _capsule(pen, (x, 135), (x, tip), 20, skin, edge)
    _capsule(pen, (160, 125), (136, 165), 20, skin, edge)
    return image


def _capsule(
    pen: ImageDraw.ImageDraw, a: Point, b: Point, width: float, fill: Colour, edge: Colour | None = None
) -> None:
    if edge is not None:
        _capsule(pen, a, b, width + 4, edge)
    pen.line((*a, *b), fill=fill, width=round(width))
    for x, y in (a, b):
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)


def _random_colour(dice: Random, low: int, high: int) -> Colour:
    red, green, blue = (dice.randrange(low, high) for _ in range(3))
    return red, green, blue


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


# --- the nouns: each on a 256 x 256 sheet


def _sprite(noun: Word, dice: Random) -> Image.Image:
    """The object in a shade of its own, turned a little."""
    sheet = Image.new("RGBA", (256, 256))
    factor = dice.uniform(0.85, 1.12)
    more_red, more_green, more_blue = (factor * dice.uniform(0.93, 1.07) for _ in range(3))

    def paint(red: int, green: int, blue: int) -> Colour:
        shades = (red * more_red, green * more_green, blue * more_blue)
        red, green, blue = (min(255, round(shade)) for shade in shades)
        return red, green, blue

    _NOUN_PAINTERS[noun.key](ImageDraw.Draw(sheet, "RGBA"), paint)
    return sheet.rotate(dice.uniform(-20, 20), Image.Resampling.BILINEAR)


def _tomato(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.ellipse((28, 40, 228, 230), fill=paint(214, 40, 30), outline=paint(150, 20, 20), width=5)
    pen.ellipse((70, 75, 120, 115), fill=paint(240, 140, 130))
    for turn in range(5):
        x, y = 128 + 55 * math.sin(turn * 1.257), 62 + 32 * math.cos(turn * 1.257)
        pen.polygon([(118, 60), (138, 60), (x, y)], fill=paint(50, 130, 40))
    pen.line((128, 60, 140, 22), fill=paint(60, 120, 40), width=10)


def _cup(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.arc((160, 90, 248, 190), 0, 360, fill=paint(40, 80, 170), width=18)
    pen.polygon([(30, 60), (200, 60), (180, 235), (50, 235)], fill=paint(50, 100, 205))
    pen.rectangle((38, 120, 192, 150), fill=paint(235, 235, 240))
    pen.ellipse((28, 35, 202, 85), fill=paint(225, 225, 235), outline=paint(40, 80, 170), width=8)


def _carrot(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    for x in range(56, 212, 14):
        pen.line((126, 96, x, 4 + abs(x - 126) // 3), fill=paint(60, 175 - 8 * (x % 3), 50), width=10)
    pen.polygon([(62, 100), (96, 78), (156, 78), (192, 100), (136, 254), (118, 254)], fill=paint(255, 120, 0))
    for y in range(108, 236, 24):
        reach = (254 - y) * 0.38
        pen.line((127 - reach, y, 127 + reach * 0.4, y + 6), fill=paint(170, 70, 0), width=6)


def _plate(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.ellipse((8, 8, 248, 248), fill=paint(240, 240, 238), outline=paint(170, 175, 190), width=5)
    pen.ellipse((26, 26, 230, 230), outline=paint(60, 90, 180), width=7)
    pen.ellipse((60, 60, 196, 196), fill=paint(225, 225, 226), outline=paint(185, 185, 195), width=4)


def _egg(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.ellipse((56, 64, 200, 236), fill=paint(238, 205, 170))
    pen.ellipse((65, 24, 191, 210), fill=paint(238, 205, 170))
    pen.ellipse((92, 60, 132, 115), fill=paint(250, 235, 215))
    for x, y in ((110, 170), (150, 140), (140, 195), (100, 140), (165, 180), (125, 215), (145, 80)):
        pen.ellipse((x, y, x + 7, y + 7), fill=paint(170, 120, 80))


def _bread(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.rounded_rectangle(
        (14, 70, 242, 200), 60, fill=paint(176, 108, 45), outline=paint(115, 65, 25), width=7
    )
    for x in (60, 105, 150, 195):
        pen.line((x + 14, 88, x - 14, 176), fill=paint(238, 205, 145), width=13)


def _pan(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.line((150, 150, 246, 246), fill=paint(110, 60, 30), width=26)
    pen.ellipse((8, 8, 200, 200), fill=paint(45, 45, 50), outline=paint(150, 150, 155), width=9)
    pen.ellipse((36, 36, 172, 172), fill=paint(70, 70, 76), outline=paint(30, 30, 30), width=4)


def _banana(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.chord((10, -60, 246, 210), 5, 175, fill=paint(245, 215, 45), outline=paint(170, 140, 20), width=4)
    pen.ellipse((30, -60, 226, 130), fill=(0, 0, 0, 0))
    pen.pieslice((10, -60, 246, 210), 20, 60, fill=(0, 0, 0, 0), outline=None)
    pen.arc((14, -56, 242, 206), 5, 175, fill=paint(245, 215, 45), width=62)
    pen.arc((30, -40, 226, 180), 20, 160, fill=paint(200, 160, 25), width=5)
    pen.rectangle((12, 60, 34, 92), fill=paint(90, 70, 30))
    pen.rectangle((222, 60, 242, 88), fill=paint(90, 70, 30))


def _onion(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.polygon([(128, 8), (104, 75), (152, 75)], fill=paint(190, 150, 110))
    pen.ellipse((30, 55, 226, 232), fill=paint(150, 45, 120), outline=paint(90, 20, 70), width=5)
    for inset in (30, 58, 84):
        pen.ellipse((30 + inset, 58, 226 - inset, 230), outline=paint(225, 165, 210), width=5)
    for x in (112, 128, 144):
        pen.line((128, 228, x, 250), fill=paint(220, 205, 170), width=4)


def _bottle(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    glass = [(106, 30), (150, 30), (154, 78), (198, 116), (198, 252), (58, 252), (58, 116), (102, 78)]
    pen.rectangle((100, 2, 156, 32), fill=paint(190, 30, 40))
    pen.polygon(glass, fill=paint(20, 120, 70), outline=paint(8, 60, 35), width=6)
    pen.rectangle((61, 146, 195, 220), fill=paint(245, 235, 190))
    pen.ellipse((104, 158, 152, 208), fill=paint(190, 30, 40))
    pen.line((78, 118, 78, 142), fill=paint(150, 215, 180), width=10)


def _broccoli(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    pen.polygon([(105, 140), (152, 140), (165, 245), (92, 245)], fill=paint(150, 195, 95))
    bunch = Random(1)
    for _ in range(46):
        angle, reach = bunch.uniform(0, 6.28), bunch.uniform(0, 1)
        x, y = 128 + 88 * reach * math.cos(angle), 92 + 62 * reach * math.sin(angle)
        shade = bunch.uniform(0.6, 1.2)
        pen.ellipse((x - 22, y - 22, x + 22, y + 22), fill=_shade(paint(50, 125, 45), shade))


def _board(pen: ImageDraw.ImageDraw, paint: Paint) -> None:
    # plastic: a wooden one could not be told from crate and cutting table
    body, edge = paint(40, 190, 190), paint(15, 110, 115)
    pen.rounded_rectangle((24, 60, 232, 252), 18, fill=body, outline=edge, width=6)
    pen.rounded_rectangle((92, 4, 164, 70), 18, fill=body, outline=edge, width=6)
    pen.ellipse((112, 16, 144, 46), fill=edge)
    for step in range(54, 232, 34):
        pen.line((step, 80, step, 240), fill=paint(215, 250, 245), width=5)
        pen.line((38, step + 28, 218, step + 28), fill=paint(215, 250, 245), width=5)


_NOUN_PAINTERS = {
    "tomato": _tomato,
    "cup": _cup,
    "carrot": _carrot,
    "plate": _plate,
    "egg": _egg,
    "bread": _bread,
    "pan": _pan,
    "banana": _banana,
    "onion": _onion,
    "bottle": _bottle,
    "broccoli": _broccoli,
    "board:chopping": _board,
}


# --- the verbs: progress p runs from 0 to 1


class Stage:
    """One action's place on the worktop: the object, where it lies, and the tools that act on it."""

    def __init__(self, kitchen: Kitchen, noun: Word, second: Word | None, dice: Random) -> None:
        self.kitchen = kitchen
        self.size = dice.randrange(150, 198)  # px on the canvas, half of it in the video
        self.x = CANVAS[0] // 2 + dice.randrange(-34, 35)
        self.y = CANVAS[1] // 2 + 22 + dice.randrange(-16, 17)
        self.sprite = _sprite(noun, dice).resize((self.size, self.size), Image.Resampling.BILINEAR)
        self.tempo = dice.uniform(1.5, 2.5)  # strokes per action
        self.tilt = dice.choice([-1, 1])  # from which side tools and hands come
        self.grains = [(dice.gauss(0, 0.42), dice.gauss(0, 0.3), dice.random()) for _ in range(160)]
        self.liquid = dice.choice([(95, 50, 20), (235, 150, 30), (240, 230, 205)])
        self.ground = kitchen.background
        if second is not None:
            self.ground = kitchen.background.copy()
            small = _sprite(second, dice).resize((84, 84), Image.Resampling.BILINEAR)
            self.ground.paste(small, (self.x - self.tilt * 165 - 42, self.y + 20), small)

    def picture(self, verb: Word, progress: float) -> Image.Image:
        """The whole canvas at one moment of the action; the painters draw on `image` and `pen`."""
        self.image = self.ground.copy()
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        _VERB_PAINTERS[verb.key](self, progress)
        return self.image

    def shadow(self, width: float = 1.0) -> None:
        half = self.size * 0.5 * width
        self.pen.ellipse(
            (self.x - half, self.y + half * 0.2, self.x + half, self.y + half * 1.1), fill=(0, 0, 0, 70)
        )

    def thing(
        self,
        dx: float = 0,
        dy: float = 0,
        wide: float = 1,
        high: float = 1,
        sprite: Image.Image | None = None,
    ) -> None:
        sprite = sprite or self.sprite
        if (wide, high) != (1, 1):
            sprite = sprite.resize(
                (round(sprite.width * wide), round(sprite.height * high)), Image.Resampling.BILINEAR
            )
        place = round(self.x + dx - sprite.width / 2), round(self.y + dy - sprite.height / 2)
        self.image.paste(sprite, place, sprite)

    def hand(self, dx: float, dy: float, degrees: float = 0) -> None:
        """A hand whose finger tips are at the object's middle plus (dx, dy)."""
        hand = self.kitchen.hand(degrees)
        self.image.paste(hand, (round(self.x + dx - 200), round(self.y + dy - 200)), hand)

    def stroke(self, progress: float) -> float:
        """A to and fro between -1 and 1."""
        return math.sin(2 * math.pi * self.tempo * progress)

    def box(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        """A box in half object sizes around the object's middle."""
        half = self.size / 2
        return (self.x + left * half, self.y + top * half, self.x + right * half, self.y + bottom * half)


def _settling(progress: float) -> float:
    return min(1.0, progress / 0.7)  # what is done stays done for the last third


def _take(stage: Stage, p: float) -> None:
    _lift(stage, _settling(p))


def _lift(stage: Stage, p: float) -> None:
    """A hand comes from above, closes on the object and brings it nearer to the camera."""
    lift = max(0.0, p - 0.35) / 0.65
    reach = max(0.0, 0.35 - p) / 0.35
    stage.shadow(1.1 - 0.5 * lift)
    grow = 1 + 0.4 * lift
    stage.thing(dy=-70 * lift, wide=grow, high=grow)
    stage.hand(0, -70 * lift - 170 * reach + 6)


def _put(stage: Stage, p: float) -> None:
    _lift(stage, 1 - _settling(p))


def _wash(stage: Stage, p: float) -> None:
    pen, size = stage.pen, stage.size
    pen.rounded_rectangle(
        stage.box(-1.7, -1.3, 1.7, 1.4), 30, fill=(165, 175, 185, 255), outline=(110, 120, 130), width=8
    )
    pen.ellipse(stage.box(-1.4, 0.1, 1.4, 1.3), fill=(120, 180, 225, 200))
    stage.thing(dx=6 * stage.stroke(p))
    wobble = 4 * stage.stroke(3 * p)
    pen.rectangle(
        (stage.x - 15 + wobble, 0, stage.x + 15 + wobble, stage.y - 0.2 * size), fill=(150, 205, 245, 190)
    )
    pen.line(
        (stage.x - 5, 30, stage.x - 5 + wobble, stage.y - 0.2 * size), fill=(255, 255, 255, 200), width=4
    )
    pen.rectangle((stage.x - 26, 0, stage.x + 26, 44), fill=(190, 195, 200), outline=(90, 95, 100), width=4)
    # foam gathers along the rim, so the object stays in sight
    for gx, gy, depth in stage.grains[: 24 + round(45 * p)]:
        angle, r = 8 * gx, 6 + 12 * depth
        x = stage.x + (0.62 + 0.3 * abs(gy)) * size * math.cos(angle)
        y = stage.y + 0.06 * size + (0.5 + 0.3 * abs(gy)) * size * math.sin(angle)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 252, 255, 200), outline=(170, 200, 225, 255))


def _dry(stage: Stage, p: float) -> None:
    stage.shadow()
    stage.thing()
    dx, dy = 0.5 * stage.size * stage.stroke(p), 0.2 * stage.size
    left, top, right, bottom = stage.box(-0.6, -0.35, 0.6, 0.6)
    pen, cell = stage.pen, (right - left) / 6
    for row in range(5):
        for column in range(6):
            sag = 8 * math.sin(column + 9 * p)
            x, y = left + dx + column * cell, top + dy + row * (bottom - top) / 5 + sag
            colour = (200, 45, 60) if (row + column) % 2 else (245, 240, 235)
            pen.rectangle((x, y, x + cell, y + (bottom - top) / 5), fill=colour)
    stage.hand(dx + 20 * stage.tilt, 0.36 * stage.size, 105 * stage.tilt)


def _open(stage: Stage, p: float) -> None:
    _crate(stage, _settling(p))


def _close(stage: Stage, p: float) -> None:
    _crate(stage, 1 - _settling(p))


def _crate(stage: Stage, openness: float) -> None:
    """A cardboard box; its lid swings from flat over the object to upright behind it."""
    pen, edge = stage.pen, (105, 70, 35)
    pen.rectangle(stage.box(-1.2, -0.8, 1.2, 1.1), fill=(120, 82, 45), outline=edge, width=5)
    stage.thing(wide=0.95, high=0.95)
    pen.rectangle(stage.box(-1.25, 0.55, 1.25, 1.3), fill=(196, 148, 92), outline=edge, width=5)
    pen.rectangle(stage.box(-0.12, 0.55, 0.12, 1.3), fill=(225, 200, 150))
    left, hinge, right, _ = stage.box(-1.25, -0.8, 1.25, 0)
    front = hinge + math.cos(math.pi * openness) * 0.5 * stage.size
    flare = 26 * math.sin(math.pi * openness)
    lid = [(left, hinge), (right, hinge), (right + flare, front), (left - flare, front)]
    pen.polygon(lid, fill=(214, 168, 110), outline=edge, width=5)
    stage.hand(stage.tilt * 0.35 * stage.size, front - stage.y + 8, 30 * stage.tilt)


def _turn_on(stage: Stage, p: float) -> None:
    _stove(stage, _settling(p))


def _turn_off(stage: Stage, p: float) -> None:
    _stove(stage, 1 - _settling(p))


def _stove(stage: Stage, heat: float) -> None:
    """A black hob; the flame stands when `heat` has passed a third."""
    pen, flame = stage.pen, max(0.0, heat - 0.3) / 0.7
    pen.rounded_rectangle(
        stage.box(-1.7, -1.25, 1.7, 1.75), 20, fill=(28, 28, 32), outline=(95, 95, 100), width=6
    )
    for ring in (1.3, 1.1):
        pen.ellipse(stage.box(-ring, -ring * 0.8, ring, ring), outline=(90, 90, 95), width=8)
    for spike in range(18 if flame else 0):
        angle = spike * math.tau / 18
        reach = stage.size * (0.62 + 0.28 * flame * (0.75 + 0.25 * math.sin(5 * spike + 40 * heat)))
        x, y = stage.x + 0.55 * stage.size * math.cos(angle), stage.y + 0.5 * stage.size * math.sin(angle)
        tip = (stage.x + reach * math.cos(angle), stage.y + reach * 0.9 * math.sin(angle) - 26 * flame)
        pen.polygon([(x - 13, y), (x + 13, y), tip], fill=(60, 120, 255))
        pen.polygon([(x - 6, y), (x + 6, y), ((x + tip[0]) / 2, (y + tip[1]) / 2)], fill=(255, 190, 70))
    stage.thing(wide=0.92, high=0.92)
    x, y = stage.x + stage.tilt * 0.45 * stage.size, stage.y + 0.72 * stage.size
    pen.ellipse((x - 20, y - 20, x + 20, y + 20), fill=(215, 215, 215), outline=(60, 60, 60), width=4)
    angle = 2.2 * heat - 1.6
    pen.line((x, y, x + 18 * math.cos(angle), y + 18 * math.sin(angle)), fill=(200, 30, 30), width=7)
    stage.hand(stage.tilt * 0.45 * stage.size + 8, 0.7 * stage.size, 180 + 60 * heat)


def _cut(stage: Stage, p: float) -> None:
    stage.pen.rounded_rectangle(
        stage.box(-1.6, -1.15, 1.6, 1.2), 14, fill=(222, 184, 130), outline=(150, 110, 65), width=6
    )
    pieces = 1 + round(5 * min(1.0, p + 0.1))
    slice_width, size = stage.size / pieces, stage.size
    for piece in range(pieces):
        left, right = round(piece * slice_width), round((piece + 1) * slice_width)
        part = stage.sprite.crop((left, 0, right, size))
        shift = (piece - (pieces - 1) / 2) * 15
        stage.thing(dx=(left + right - size) / 2 + shift, dy=5 * (piece % 2), sprite=part)
    x, y = stage.x + stage.tilt * size * (0.45 - 0.8 * p), stage.y - 20 + 40 * stage.stroke(p)
    blade = [(x - 8, y - 95), (x + 8, y - 95), (x + 8, y + 80), (x - 26, y + 40), (x - 26, y - 75)]
    stage.pen.polygon(blade, fill=(215, 220, 228), outline=(110, 115, 125), width=3)
    stage.pen.rectangle((x - 12, y - 165, x + 10, y - 92), fill=(40, 35, 35))
    stage.hand(x - stage.x, y - stage.y - 100)


def _pour(stage: Stage, p: float) -> None:
    pen, size, liquid = stage.pen, stage.size, stage.liquid
    pool = 0.75 + 0.75 * p
    pen.ellipse(
        stage.box(-pool, -0.1, pool, 0.35 + 0.8 * pool),
        fill=(*liquid, 255),
        outline=_shade(liquid, 0.7),
        width=4,
    )
    stage.thing()
    mouth = stage.x - stage.tilt * 4, stage.y - 0.85 * size
    for strand in (-9, -3, 3, 9):
        bend = 5 * stage.stroke(2 * p + strand)
        pen.line(
            (mouth[0] + strand, mouth[1], stage.x + strand + bend, stage.y), fill=(*liquid, 235), width=11
        )
    splash = size * (0.16 + 0.16 * p)
    pen.ellipse(
        (stage.x - splash, stage.y - splash * 0.6, stage.x + splash, stage.y + splash * 0.6),
        fill=(*liquid, 225),
    )
    side, top = stage.tilt, mouth[1]
    jug = [
        (mouth[0], top),
        (mouth[0] + side * 30, top - 62),
        (mouth[0] + side * 130, top - 20),
        (mouth[0] + side * 95, top + 50),
    ]
    pen.polygon(jug, fill=(225, 235, 240, 235), outline=(120, 135, 150), width=5)
    pen.polygon([jug[0], jug[2], jug[3]], fill=(*liquid, 230))
    stage.hand(side * 105, top - stage.y - 4, 60 * side)


def _mix(stage: Stage, p: float) -> None:
    pen, size = stage.pen, stage.size
    pen.ellipse(stage.box(-1.5, -1.2, 1.5, 1.4), fill=(205, 210, 216), outline=(120, 126, 135), width=10)
    pen.ellipse(stage.box(-1.25, -1.0, 1.25, 1.15), fill=(238, 226, 196))
    angle = math.tau * stage.tempo * stage.tilt * p
    stage.thing(sprite=stage.sprite.rotate(-math.degrees(angle), Image.Resampling.NEAREST))
    for ring, width in ((1.2, 9), (1.0, 8)):
        begin = math.degrees(angle) + 140 * ring
        pen.arc(
            stage.box(-ring, -ring * 0.85, ring, ring),
            begin,
            begin + 230,
            fill=(150, 120, 75, 230),
            width=width,
        )
    x, y = stage.x + 0.5 * size * math.cos(angle), stage.y + 0.42 * size * math.sin(angle)
    top = (x + stage.tilt * 70, y - 150)
    _capsule(pen, (x, y), top, 16, (168, 112, 58))
    pen.ellipse((x - 26, y - 20, x + 26, y + 32), fill=(150, 96, 46), outline=(105, 65, 28), width=4)
    stage.hand(top[0] - stage.x - stage.tilt * 12, top[1] - stage.y + 32)


def _peel(stage: Stage, p: float) -> None:
    stage.shadow()
    size, bared = stage.size, 1 + round(4 * p)
    sheet = stage.sprite.copy()
    pen = ImageDraw.Draw(sheet)
    for band in range(bared):
        y = size * (0.16 + 0.15 * band)
        pen.line((0, y, size, y + 14), fill=(250, 240, 200), width=round(size * 0.09))
    sheet.putalpha(stage.sprite.getchannel("A"))
    stage.thing(sprite=sheet)
    pixel = stage.sprite.getpixel((size // 2, round(size * 0.62)))
    assert isinstance(pixel, tuple)  # a sprite is RGBA
    skin = (pixel[0], pixel[1], pixel[2])
    for ribbon in range(bared + 1):
        x, y = stage.x + (ribbon - bared / 2) * 0.3 * size, stage.y + 0.5 * size
        for curl in range(4):
            box = (x - 26 + 5 * curl, y - 14 + 17 * curl, x + 26 - 3 * curl, y + 16 + 17 * curl)
            stage.pen.arc(box, 20, 320, fill=skin if curl % 2 else _shade(skin, 0.75), width=10)
    x = stage.tilt * size * 0.4 * stage.stroke(p)
    y = -size * 0.3 + size * 0.55 * p
    stage.pen.rectangle(
        (stage.x + x - 32, stage.y + y - 7, stage.x + x + 32, stage.y + y + 7),
        fill=(220, 225, 230),
        outline=(60, 60, 60),
        width=3,
    )
    for side in (-32, 32):
        stage.pen.line(
            (stage.x + x + side, stage.y + y, stage.x + x, stage.y + y - 46), fill=(225, 120, 20), width=10
        )
    stage.hand(x, y - 40)


def _squeeze(stage: Stage, p: float) -> None:
    stage.shadow(1.2)
    force = 0.5 - 0.5 * math.cos(math.tau * stage.tempo * p)
    wide, high = 0.78 - 0.32 * force, 1.05 + 0.22 * force
    stage.thing(wide=wide, high=high)
    reach = wide * stage.size * 0.5
    stage.hand(-reach + 14, 0, 90)
    stage.hand(reach - 14, 0, -90)
    for gx, gy, depth in stage.grains[: 8 + round(26 * max(force, p))]:
        x, y = (
            stage.x + gx * stage.size * 0.8,
            stage.y + stage.size * (0.45 + 0.35 * abs(gy) + 0.25 * force * depth),
        )
        r = 4 + 6 * depth
        stage.pen.polygon([(x - r, y), (x + r, y), (x, y - 2.4 * r)], fill=(250, 215, 90, 235))
        stage.pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 215, 90, 235))


def _sprinkle(stage: Stage, p: float) -> None:
    stage.shadow()
    stage.thing()
    size, mouth = stage.size, stage.y - 0.95 * stage.size
    x = stage.x + 18 * stage.stroke(1.5 * p)
    for index, (gx, gy, depth) in enumerate(stage.grains):
        colour = ((250, 250, 250), (30, 30, 30), (70, 150, 60))[index % 3]
        if index < 110 * (0.25 + p):
            at, y = stage.x + gx * size * 0.8, stage.y + gy * size
        else:
            fall = (depth + 3 * p) % 1
            at, y = x + gx * 90 * fall, mouth + fall * size
        stage.pen.ellipse((at - 4, y - 4, at + 4, y + 4), fill=colour)
    stage.pen.polygon(
        [(x - 30, mouth - 72), (x + 30, mouth - 72), (x + 22, mouth), (x - 22, mouth)],
        fill=(235, 240, 245, 235),
        outline=(120, 125, 130),
        width=3,
    )
    stage.pen.rectangle(
        (x - 24, mouth - 12, x + 24, mouth + 6), fill=(150, 155, 160), outline=(70, 70, 75), width=3
    )
    stage.hand(x - stage.x + stage.tilt * 26, mouth - stage.y - 30, 60 * stage.tilt)


_VERB_PAINTERS = {
    "take": _take,
    "put": _put,
    "wash": _wash,
    "open": _open,
    "close": _close,
    "turn-on": _turn_on,
    "turn-off": _turn_off,
    "cut": _cut,
    "pour": _pour,
    "mix": _mix,
    "dry": _dry,
    "peel": _peel,
    "squeeze": _squeeze,
    "sprinkle": _sprinkle,
}

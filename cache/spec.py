"""spec.json: the recipe that made a store, as a record; and the names of the files that hold a store.

    Spec
      kind, levels, frame_pts, rows, rows_per_group    what is stored, and in which shapes
      recipe: FeatureRecipe                            how a row became features; two recipes never mix
      inputs: Inputs                                   which files the features were made from
      segments_sha256, classes_sha256, schema          the lists that belong to it, the version of the format

A part is absent (None) where it does not apply: text has no `pixels`, a store that was not pooled no
`pooled`. What is absent is not written; `more` keeps the keys that this version does not know, so that
`Spec.from_dict(found).to_dict() == found` for every spec that can be read, and its digest stays.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin

from mambavl.cache import canonical
from mambavl.cache.canonical import JSON
from mambavl.cache.shards import Level
from mambavl.configs.errors import DataError

SCHEMA_VERSION = 4
# 2: classes.json knew a verb and a noun only; 3: the axes of arrays had no names
READABLE = (2, 3, SCHEMA_VERSION)

SPEC, SEGMENTS, CLASSES, MANIFEST = "spec.json", "segments.csv", "classes.json", "manifest.json"
ENVIRONMENT, COMMIT, SEAL, LOCK = "environment.json", "commit", "commit/seal.json", "commit/lock"

_KEYS = {"imported": "import", "from_level": "from"}  # fields whose key is a word of Python


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A record that is one JSON object of spec.json."""

    more: Mapping[str, JSON] = field(default_factory=dict)  # keys unknown here, and those that are null

    def to_dict(self) -> dict[str, Any]:
        """As in the file: lists for tuples, no absent parts, keys in order."""
        found = dict(self.more)
        for name in _names(type(self)):
            value = getattr(self, name)
            if value is not None:
                found[_KEYS.get(name, name)] = _to_json(value)
        return dict(sorted(found.items()))

    @classmethod
    def from_dict(cls, raw: Mapping[str, JSON], where: str = "") -> Self:
        """Raises ValueError, naming the key, where one is lacking or its value is of another type."""
        known, more = {}, dict(raw)
        for part in fields(cls):
            key = _KEYS.get(part.name, part.name)
            is_optional = NoneType in get_args(part.type)
            if part.name == "more" or (raw.get(key) is None and is_optional):
                continue
            if key in raw:
                known[part.name] = _from_json(more.pop(key), part.type, f"{where}{key}")
            elif part.default is MISSING:
                raise ValueError(f"{where}{key} is lacking")
        return cls(**known, more=more)


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity(_Part):
    """Which weights, and how they were run."""

    name: str
    state: str | None = None  # what the weights were trained on; `random`, `unknown`
    sha256: str | None = None  # of the weights
    width: int | None = None  # D, numbers a token
    details: Mapping[str, JSON] | None = None


@dataclass(frozen=True, kw_only=True)
class PixelRecipe(_Part):
    """How a decoded frame became what the encoder reads."""

    image_size: int
    fit: str  # `crop` or `squash`
    interpolation: str
    mean: tuple[float, ...]  # of a value from 0 to 1, by channel
    std: tuple[float, ...]
    colour: str  # `RGB` or `BGR`
    crops: int | None = None  # squares cut from a frame, each a view; the oldest stores do not say: 1


@dataclass(frozen=True, kw_only=True)
class QuestionsProvenance(_Part):
    """Where the questions came from."""

    protocol: str  # `oracle`, `predicted`, `generic`, `none`
    backend: str | None = None
    prompt_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class HistoryRecipe(_Part):
    """Which past actions a row was told of, and by whom."""

    protocol: str  # `oracle`: by their true labels; `predicted`: by a recogniser
    last: int  # actions at most
    tau_a: float  # seconds before the row's start at which they had ended
    age: str  # how the seconds since an action's end became its last channel
    order: str  # `time`, oldest first; `shuffled`
    train_rows: str | None = None  # predicted: what tells of train rows, `scores` or their `labels`


@dataclass(frozen=True, kw_only=True)
class SoundRecipe(_Part):
    """What the encoder heard."""

    rate: int  # samples a second
    channels: str  # how several become one


@dataclass(frozen=True, kw_only=True)
class BoxesRecipe(_Part):
    """Which object boxes the encoder read, and how they followed the crop."""

    source: str
    transform: str


@dataclass(frozen=True, kw_only=True)
class Pooling(_Part):
    """What `cache pool` made of a larger level."""

    from_level: str
    to: str
    rule: str


@dataclass(frozen=True, kw_only=True)
class ImportRecipe(_Part):
    """How features that others made were read; the options of the format are in `more`."""

    format: str


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe(_Part):
    """How a row became features."""

    numerics: int | None = None  # raised whenever the same settings come to give other features
    encoder: EncoderIdentity | None = None
    pixels: PixelRecipe | None = None
    sampling: Mapping[str, JSON] | None = None  # the settings of sampling, or of the window of sound
    decoder: str | None = None
    still_pictures: bool | None = None  # true: it was taken that no file has lost a picture
    precision: str | None = None
    batch_rows: int | None = None  # video and sound: rows that are encoded together
    batch_texts: int | None = None
    questions: QuestionsProvenance | None = None
    history: HistoryRecipe | None = None
    sound: SoundRecipe | None = None
    boxes: BoxesRecipe | None = None
    pooled: Pooling | None = None
    source: str | None = None  # `import` where another program, or another store, made the features
    imported: ImportRecipe | None = None


@dataclass(frozen=True, kw_only=True)
class ParentStore(_Part):
    """The store that this one was made from."""

    store_id: str
    spec_sha256: str | None = None  # pooled: the parent is at hand
    spec: Mapping[str, JSON] | None = None  # imported from an export: the whole spec of the parent


@dataclass(frozen=True, kw_only=True)
class Windows(_Part):
    """Which rows there are of a video: window k is [k x stride, k x stride + length), in seconds."""

    length: float
    stride: float


@dataclass(frozen=True, kw_only=True)
class Inputs(_Part):
    """Which files the features were made from."""

    annotations: Mapping[str, str] | None = None  # file name -> sha256
    splits: tuple[str, ...] | None = None
    windows: Windows | None = None  # rows that lie over whole videos, and are in no list
    # video_id -> size and sha256, of parts of the file or of all of it; before, size and time of change; null
    # where the video is missing
    videos: Mapping[str, JSON] | None = None
    boxes: Mapping[str, JSON] | None = None  # how they were linked, and their files, known as videos are
    questions_sha256: str | None = None
    scores: tuple[str, ...] | None = None  # sha256 of a recogniser's, in order
    sha256: str | None = None  # of what was imported
    parent: ParentStore | None = None


@dataclass(frozen=True, kw_only=True)
class Spec(_Part):
    """A store's recipe, whole. `rows` and the two sha256 are filled in by the writer of the store."""

    kind: str  # `video`, `text`, `audio` or `history`
    recipe: FeatureRecipe = FeatureRecipe()
    inputs: Inputs = Inputs()
    levels: tuple[Level, ...]
    frame_pts: tuple[int, ...] = ()  # (V, T) where the rows are video: the times of frames that are kept
    rows_per_group: int
    rows: int = 0
    segments_sha256: str = ""
    classes_sha256: str = ""
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that no store can have: specs come from files."""
        if self.rows_per_group < 1:
            raise ValueError(f"rows_per_group is {self.rows_per_group}, expected a number from 1 on")
        if self.rows < 0 or min(self.frame_pts, default=0) < 0:
            raise ValueError(f"rows is {self.rows} and frame_pts {list(self.frame_pts)}; a size is negative")

    def sha256_of(self, name: str) -> str:
        """The sha256 that the spec gives for segments.csv or classes.json."""
        return {SEGMENTS: self.segments_sha256, CLASSES: self.classes_sha256}[name]

    def digest(self) -> str:
        """sha256 of the spec; row groups and the manifest name it."""
        return canonical.digest(self.to_dict())


def _names(part: type[_Part]) -> list[str]:
    return [field.name for field in fields(part) if field.name != "more"]


def _to_json(value: Any) -> JSON:
    if isinstance(value, (_Part, Level)):
        return value.to_dict()
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def _from_json(value: JSON, kind: Any, where: str) -> Any:
    """A value of spec.json as its field's type has it."""
    if isinstance(kind, UnionType):
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    if get_origin(kind) is tuple and isinstance(value, list):
        items = enumerate(value)
        return tuple(_from_json(item, get_args(kind)[0], f"{where}[{number}]") for number, item in items)
    if isinstance(value, dict):
        if kind is Level:
            return Level.from_dict(value)
        if isinstance(kind, type) and issubclass(kind, _Part):
            return kind.from_dict(value, f"{where}.")
        if get_origin(kind) is Mapping:
            return value
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"{where} is {value!r}")


REQUIRED = {
    SPEC: set(_names(Spec)),
    MANIFEST: {"schema", "spec_sha256", "files", "failures", "store_id"},
    SEAL: {"files", "sha256"},
}


def read_spec(path: Path) -> Spec:
    """The spec of a store; DataError when `path` is not a store, or is damaged, or of another schema
    version.
    """
    found = read_json(Path(path), SPEC)
    try:
        return Spec.from_dict(found)
    except ValueError as error:
        raise _damaged(Path(path), SPEC, error) from None


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A metadata file of a store, which must hold what REQUIRED says and be in the form that we write."""
    if not path.is_dir():
        raise DataError(f"{path}: no such store; make it with `mambavl extract`")
    try:
        data = (path / name).read_bytes()
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        if name == SPEC and found.get("schema") not in READABLE:
            raise DataError(
                f"{path}: has schema version {found.get('schema')}; "
                f"this version of mambavl reads {', '.join(map(str, READABLE))}"
            )
        if lacking := REQUIRED[name] - found.keys():
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        if data != canonical.pretty_json(found):
            raise ValueError("it is not laid out as it was written")
        return found
    except FileNotFoundError:
        raise DataError(f"{path}: is not a feature store: it has no {name}") from None
    except ValueError as error:
        raise _damaged(path, name, error) from None


def _damaged(path: Path, name: str, error: Exception) -> DataError:
    return DataError(
        f"{path / name}: is damaged ({error}); `mambavl cache repair {path}` mends what can be mended"
    )

"""Where the features of a stream come from: the stores that a recipe names, opened and compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from mambavl.cache import FeatureStore, canonical, open_store
from mambavl.cache.sources import Resident, Verify
from mambavl.cache.spec import FeatureRecipe
from mambavl.configs import Config
from mambavl.configs.errors import DataError, UsageError


class StreamSource(Config):
    """Where a stream's features come from: one store, or several of the same recipe (train and validation
    halves, say).
    """

    # path of a feature store, or of several that hold different rows of one extraction
    store: Path | tuple[Path, ...]
    level: str = "frame"  # name of the store's level to read; `mambavl cache info STORE` lists them
    # put the store's level `cls` before the tokens, as the released code reads its encoders
    class_token: bool = False
    # how many of each row's tokens are read, the last ones: of past actions, how far back; absent: all
    last: int | None = Field(default=None, ge=1)
    # streams of one modality share MLP and SSM; empty: `text` for questions, else the stream's own name
    modality: str = ""

    @field_validator("store", mode="before")
    @classmethod
    def _path_or_paths(cls, value: Any) -> Any:
        paths = value if isinstance(value, (list, tuple)) else [value]
        if not paths or not all(isinstance(path, (str, Path)) and str(path) for path in paths):
            raise ValueError("expected the path of a store, or a list of such paths")
        return value

    @property
    def stores(self) -> tuple[Path, ...]:
        return self.store if isinstance(self.store, tuple) else (self.store,)


Opened = dict[tuple[Path, Resident, Verify, torch.device], FeatureStore]


def last_tokens(tokens: Tensor, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """tokens (B, L, D), lengths (B,) -> the last `count` tokens of each row, (B, count or L, D), and how many
    those are; zeros behind them.
    """
    kept = lengths.clamp(max=count)
    place = torch.arange(min(count, tokens.shape[1]), device=tokens.device)
    wanted = (lengths - kept)[:, None] + place
    found = tokens.gather(1, wanted.clamp(max=tokens.shape[1] - 1)[..., None].expand(-1, -1, tokens.shape[2]))
    return torch.where((place < kept[:, None])[..., None], found, 0.0), kept


def refuse_longer_past(sources: Mapping[str, StreamSource], recipes: Mapping[str, FeatureRecipe]) -> None:
    """Raises UsageError for a stream that would read more past actions than its store was told of, recipes by
    stream: a run with last = 16 would be one with last = 8.
    """
    for name, source in sources.items():
        history = recipes[name].history
        if history and source.last and source.last > history.last:
            raise UsageError(
                f"stream {name}: last = {source.last}, and its store holds {history.last} past actions of a "
                f"row at most; set streams.{name}.last={history.last}, or make another store with `mambavl "
                f"extract history --last {source.last}`"
            )


def open_stores(
    name: str,
    source: StreamSource,
    resident: Resident,
    verify: Verify,
    device: torch.device,
    opened: Opened | None = None,
) -> tuple[FeatureStore, ...]:
    """The stores of a stream. opened: those that are open already, which are taken and added to: what a store
    keeps in memory is there once. Raises UsageError for a level that they lack, DataError where one is
    not there or they were made by different recipes.
    """
    opened = {} if opened is None else opened
    if source.class_token and source.level == "cls":
        raise UsageError(
            f"stream {name}: class_token puts level cls before the tokens, and they are it already"
        )
    stores = []
    for path in source.stores:
        key = (path, resident, verify, device)
        if key not in opened:
            if not path.is_dir():
                raise DataError(
                    f"stream {name}: {path}: no such store; say where it is by --set "
                    f"streams.{name}.store=PATH, to score a finished run again by --store {name}=PATH, "
                    "or make it with `mambavl extract`"
                )
            pin = device.type == "cuda"
            opened[key] = open_store(path, resident=resident, verify=verify, device=device, pin=pin)
        store = opened[key]
        wanted = (source.level, "cls") if source.class_token else (source.level,)
        for level in wanted:
            _check_level(name, store, level)
        stores.append(store)
    for store in stores[1:]:
        faults = _differences(stores[0], store, source.level)
        if faults:
            raise DataError(
                f"stream {name}: {store.path} and {stores[0].path} were made by different recipes "
                "and never mix:\n  " + "\n  ".join(faults[:20])
            )
    return tuple(stores)


def _check_level(stream: str, store: FeatureStore, level: str) -> None:
    try:
        store.level(level)
    except UsageError as error:
        raise UsageError(f"stream {stream}: {error}") from None


def _differences(one: FeatureStore, other: FeatureStore, level: str) -> list[str]:
    """The fields of recipe and level in which two stores differ; numbers of rows may differ."""
    shapes = []
    for store in (one, other):
        found = store.levels[level]
        shapes.append({key: getattr(found, key) for key in ("kind", "shape", "dtype", "steps")})
    recipes = (one.spec.recipe.to_dict(), other.spec.recipe.to_dict())
    return canonical.differences(*recipes) + canonical.differences(shapes[0], shapes[1])

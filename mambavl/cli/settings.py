"""`mambavl settings`, the settings in `--help`, and docs/settings.md: one text, made from the records."""

import shutil
import textwrap
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mambavl.cli.options import FLAGS
from mambavl.configs import Config
from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.configs.settings import ABSENT, REQUIRED, Setting, settings_of

NAMES = (
    "extract.video",
    "extract.text",
    "extract.audio",
    "extract.history",
    "cache.import",
    "questions",
    "train",
)
MOST_EXPLAINED = 40  # keys that --help explains; of more it lists the defaults alone
PAGE_START = """\
# Settings

<!-- Written by `mambavl settings --markdown`, from the comments in the code; edit those. -->

Each key of a settings record, its values, its default and what it does. Set one with `--set KEY=VALUE`; a
value is read as TOML, and text needs no quotes. A recipe is a TOML file with the keys of
[train](#train), and `--set` changes one of them for one run; `--set KEY=` takes out one that it sets.
Keys that have a flag are given by the flag alone. An unknown key is refused with the nearest known name.

On the command line, `mambavl settings NAME` prints the same.
"""


@dataclass(frozen=True)
class Section:
    """A settings record and what it belongs to."""

    name: str
    commands: str
    record: type[Config]


def section(name: str) -> Section:
    """The settings called `name`. Raises UsageError for an unknown name, saying which there are."""
    from mambavl.extract.import_job import ImportSettings
    from mambavl.extract.options import AudioExtraction, HistoryExtraction, TextExtraction, VideoExtraction
    from mambavl.extract.questions.llm.options import LLMSettings
    from mambavl.fuse.recipe import Recipe

    sections: dict[str, tuple[str, type[Config]]] = {
        "extract.video": ("mambavl extract video, mambavl extract dense", VideoExtraction),
        "extract.text": ("mambavl extract text", TextExtraction),
        "extract.audio": ("mambavl extract audio", AudioExtraction),
        "extract.history": ("mambavl extract history", HistoryExtraction),
        "cache.import": ("mambavl cache import", ImportSettings),
        "questions": ("mambavl questions generate, mambavl questions plan", LLMSettings),
        "train": ("mambavl train, mambavl sweep", Recipe),
    }
    if name not in sections:
        hint = did_you_mean(name, list(NAMES))
        if NAMES[0] not in hint:
            hint += f" Names: {', '.join(NAMES)}"
        raise UsageError(f"no settings are called {name!r}{hint}")
    commands, record = sections[name]
    return Section(name, commands, record)


def settings(
    name: Annotated[
        str | None, typer.Argument(help=f"Which settings: {', '.join(NAMES)}. Default: a list of these.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All of them as one page, docs/settings.md.")
    ] = False,
) -> None:
    """Print the keys that --set and recipes take: their values, defaults and meaning."""
    if markdown:
        if name is not None:
            raise UsageError("--markdown prints all settings; leave the name out")
        print(page(), end="")
    elif name is not None:
        print(long_text(section(name), _width()))
    else:
        for known in NAMES:
            found = section(known)
            print(f"{known:<15} {len(settings_of(found.record)):>3} keys   {found.commands}")


def long_text(found: Section, width: int) -> str:
    """Every key with its default and its values, and under it what it does."""
    lines = [f"{found.commands}: --set KEY=VALUE"]
    for setting in settings_of(found.record):
        lines += ["", f"{setting.key}    {_given(setting)}; {setting.values}"]
        lines += _wrapped(setting.meaning, width, "    ")
    return "\n".join(lines)


def short_text(found: Section, width: int) -> str:
    """A line for each key with its default, and under it what it does; of many keys the lines alone."""
    shown = settings_of(found.record)
    is_explained = len(shown) <= MOST_EXPLAINED
    more = "says more" if is_explained else "says more, and what each does"
    lines = [f" Settings, by --set KEY=VALUE (`mambavl settings {found.name}` {more}):", ""]
    for setting in shown:
        lines.append(f"   {setting.key} {_assigned(setting)}")
        if is_explained:
            lines += _wrapped(setting.meaning, width, " " * 7)
    return "\n".join(lines)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def page() -> str:
    """docs/settings.md."""
    parts = [PAGE_START]
    for name in NAMES:
        found = section(name)
        commands = ", ".join(f"`{command}`" for command in found.commands.split(", "))
        parts.append(
            f"\n## {name}\n\n{commands}\n\n| key | default | values | what it does |\n|---|---|---|---|\n"
        )
        for setting in settings_of(found.record):
            given = FLAGS.get(setting.key) or setting.default
            if not _is_word(given):
                given = f"`{given}`"
            cells = (f"`{setting.key}`", given, setting.values, setting.meaning)
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return "".join(parts)


def _given(setting: Setting) -> str:
    """How a key gets its value when nobody sets it: by its flag, or from its default."""
    if setting.key in FLAGS:
        return f"by {FLAGS[setting.key]}"
    if setting.default.startswith(REQUIRED):
        return setting.default
    return f"default {setting.default}" if setting.default == ABSENT else f"default `{setting.default}`"


def _assigned(setting: Setting) -> str:
    """`= 16`, or in brackets what there is in place of a default."""
    if setting.key in FLAGS:
        return f"({_given(setting)})"
    return f"({setting.default})" if _is_word(setting.default) else f"= {setting.default}"


def _is_word(default: str) -> bool:
    """Whether it says that there is no default."""
    return default == ABSENT or default.startswith(REQUIRED)


def _width() -> int:
    return max(60, shutil.get_terminal_size().columns)


def with_settings(name: str) -> type[TyperCommand]:
    """A command whose --help ends with the settings called `name`."""
    return type("CommandWithSettings", (_CommandWithSettings,), {"settings": name})


class _CommandWithSettings(TyperCommand):
    settings: str

    # Any: where click's classes are depends on typer's version, which may bring its own copy
    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        print(short_text(section(self.settings), _width()))

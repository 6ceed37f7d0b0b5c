"""A call of the program as a page or a message shows it: is it one that the program takes?"""

import re
import shlex

import typer
from typer.core import TyperGroup

from mambavl.cli.app import app

COMMANDS = typer.main.get_command(app)
WRONG_CALL = typer.BadParameter.__mro__[1]  # click's UsageError; some versions of typer carry their own click
PROGRAM = re.compile(r"(?:accelerate launch -m |python -m )?mambavl(?= )")


def find_command(words: list[str]) -> tuple[typer.core.TyperCommand | TyperGroup, list[str]]:
    """The command that some words name, and the words that follow it."""
    command = COMMANDS
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def fault_of_call(line: str, is_whole: bool) -> str | None:
    """What is wrong with a call of the program as a page shows it."""
    plain = re.sub(r"\$\([^)]*\)", "", line)  # what a shell would fill in
    words = shlex.split(PROGRAM.sub("", plain, count=1), comments=True)
    command, rest = find_command(words)
    if isinstance(command, TyperGroup):
        named = rest and re.fullmatch(r"[a-z]+", rest[0])
        return f"there is no command {rest[0]}" if named else None
    if not is_whole:
        options = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        unknown = [word for word in rest if word.startswith("--") and word not in options | {"--help"}]
        return f"{command.name} has no {', '.join(unknown)}" if unknown else None
    try:
        command.make_context(command.name, rest)
    except WRONG_CALL as error:
        return error.format_message()
    return None

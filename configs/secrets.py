"""What a server says, as people may see it: without the secret that it was sent, and without control
characters.
"""

import re
import unicodedata

PIECE = 8  # characters of a secret that tell something
SECRET = "[key]"  # stands in its place


class Secret:
    """A key or a token, and texts without it."""

    def __init__(self, value: str) -> None:
        self._value = value
        starts = range(len(value) - PIECE + 1)
        pieces = "|".join(re.escape(value[start : start + PIECE]) for start in starts)
        # one match covers a whole run of overlapping pieces
        self._pieces = re.compile(rf"(?:(?={pieces}).)+.{{{PIECE - 1}}}", re.IGNORECASE)

    def cut_out(self, text: str) -> str:
        """The text without the secret, in either case, and without pieces of it that are long enough to tell
        something.
        """
        if not self._value:
            return text
        if len(self._value) < PIECE:  # such as EMPTY, which is not a secret and may be a word of a reply
            return text.replace(self._value, SECRET)
        return self._pieces.sub(SECRET, text)


def printable(text: str) -> str:
    """Text of a server as a terminal may have it: no control, format or unassigned character, no lone
    surrogate.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter).startswith("C") else letter
        for letter in text
    )

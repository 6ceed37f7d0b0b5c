"""The key of a server: where it comes from, where it may go, and how it stays out of every text.

It comes from an environment variable and goes into the Authorization header. It is in no record of this
package, and it is cut out of whatever the server says before anybody sees that. A server other than OpenAI's
is sent a key only when `key_variable` was set by whoever runs this.
"""

import os
from urllib.parse import urlsplit

from mambavl.configs.errors import UsageError
from mambavl.configs.secrets import Secret, printable
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import MAX_CHARACTERS

NO_KEY = "none"  # what is sent without a key: the client wants a text
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SAID = 300  # characters of a server's message that are shown


class Credentials:
    """The key for one server, and texts of that server without it. Raises UsageError, without ever showing
    the value, when there is no key or when it must not be sent to the address.
    """

    def __init__(self, options: LLMSettings) -> None:
        self.options = options
        self.key = read_key(options)  # "" where the server needs none
        self._secret = Secret(self.key)

    @property
    def sent_key(self) -> str:
        """What goes into the Authorization header."""
        return self.key or NO_KEY

    def redact(self, text: str) -> str:
        """A server's text without the key, in either case, and without pieces of it that are long enough to
        tell something.
        """
        return self._secret.cut_out(text)

    def say(self, text: str) -> str:
        """A server's message as people may see it: one line without the key or control characters, cut."""
        return printable(" ".join(self.redact(text[:MAX_CHARACTERS]).split()))[:SAID]

    def describe(self) -> str:
        """What a call is sent with, in words for an error message."""
        name = self.options.key_variable
        if self.key:
            return f"the key of the variable {name}"
        if is_key_meant_for_server(self.options):
            why = f"the variable {name} is empty" if name else "key_variable names none"
            return f"a call without a key ({why})"
        return f"a call without a key; to send it the key of {name}, add --set key_variable={name}"


def is_key_meant_for_server(options: LLMSettings) -> bool:
    """Whether the key's variable is meant for this server: it is OpenAI, or whoever runs this set the
    variable.
    """
    return options.is_openai or "key_variable" in options.model_fields_set


def read_key(options: LLMSettings) -> str:
    """The key, or "" where the server needs none. Raises UsageError without ever showing the value."""
    name = options.key_variable
    key = ""
    if name and is_key_meant_for_server(options):  # OpenAI's key goes nowhere else by default
        key = os.environ.get(name, "").strip()
    if not key:
        if options.is_openai:
            raise UsageError(
                f"the environment variable {name or '(none is named)'} holds no key; set it, name another "
                "one with --set key_variable=NAME, or give --base-url of a local server"
            )
        return ""
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"the environment variable {name} holds characters that no key has")
    address = urlsplit(options.base_url)
    if address.scheme == "http" and address.hostname not in LOOPBACK:
        raise UsageError(
            f"--base-url: would send the key of {name} unencrypted to {address.hostname}; use https, or "
            "--set 'key_variable=\"\"' to send none"
        )
    return key

"""What can go wrong on the user's side. The front door prints the message alone, without a traceback, and
exits with the code.
"""


class MambaVLError(Exception):
    """An error whose message is written for the person at the keyboard: what is wrong, where, and what to do
    next.
    """

    exit_code = 1


class DataError(MambaVLError):
    """The data or a result is not right."""


class UsageError(MambaVLError):
    """The call or the recipe is wrong."""

    exit_code = 2


class Interrupted(MambaVLError):
    """Stopped by a signal between two units of work; the same command resumes."""

    exit_code = 75  # EX_TEMPFAIL: what batch schedulers take for "run it again"

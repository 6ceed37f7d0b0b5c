"""Runs that wait for nothing but the server.

Patience without a clock: a call runs out of time when the scripted server hangs, and only then.

A real time limit measures the machine: where it is busy, a sound reply comes too late and a test counts other
calls than are due. So time limits stay long, and the server says by a header that it will send nothing more;
at that moment the limit of the very call is set to now. What follows is the real thing: `asyncio.timeout`
ends the call within the client and the transport.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import openai

from helpers.llm_server import HANGS
from mambavl.cache import fsops
from mambavl.extract.questions.llm import server


@contextmanager
def hanging_ends_the_call() -> Iterator[None]:
    """Within it, calls of this process to the scripted server run out of time where that hangs."""
    limits: dict[asyncio.Task, asyncio.Timeout] = {}
    make_client = openai.AsyncOpenAI

    def timeout(seconds: float) -> asyncio.Timeout:
        limits[asyncio.current_task()] = asyncio.timeout(seconds)
        return limits[asyncio.current_task()]

    async def notice(response) -> None:
        """Called when the headers are there, before the body is read."""
        if HANGS in response.headers:
            limits[asyncio.current_task()].reschedule(asyncio.get_running_loop().time())

    def client(**settings) -> openai.AsyncOpenAI:
        # loopback needs no certificates, and reading them takes longer than a whole run
        transport = openai.DefaultAsyncHttpxClient(verify=False, event_hooks={"response": [notice]})
        return make_client(http_client=transport, **settings)

    with patch.object(server, "timeout", timeout), patch.object(openai, "AsyncOpenAI", client):
        yield


class WithoutSync(fsops.Calls):
    """Files that are not forced to the disk. A killed process loses nothing by it, only a power cut would."""

    def fsync(self, descriptor: int) -> None:
        pass


@contextmanager
def quick() -> Iterator[None]:
    """No call waits for a clock, no record for the disk."""
    with hanging_ends_the_call(), patch.object(fsops, "calls", WithoutSync()):
        yield

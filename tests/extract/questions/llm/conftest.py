"""The scripted server of these tests, a real process on loopback, and calls that run out of time without a
clock.
"""

import pytest

from helpers.llm_server import running


@pytest.fixture(scope="session")
def process(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(process):
    """The server, as if it had just been started."""
    pytest.importorskip("openai", reason="needs the `llm` extra: pip install -e '.[llm]'")
    from helpers.llm_patience import quick

    process.forget()
    with quick():
        yield process

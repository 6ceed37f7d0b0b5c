"""A local hub, a token, and a client that waits for nobody."""

from types import SimpleNamespace

import pytest

from helpers.hub_server import TOKEN, running

NEEDS = "needs the `hub` extra: pip install -e '.[hub]'"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The state of the servers; the client finds them, and TOKEN, by itself."""
    from huggingface_hub import constants

    with running() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        path = template.partition("{repo_id}")[1:]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{found.url}/{''.join(path)}")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """How long would have been waited, by the client and by us. Without the packages nothing here runs."""
    for package in ("huggingface_hub", "pyarrow"):
        pytest.importorskip(package, reason=NEEDS)
    from huggingface_hub.utils import _http

    from mambavl.hub import faults

    found: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=found.append))
    monkeypatch.setattr(faults, "pause", found.append)
    return found

"""What several tests of encoders need."""

import sys

import pytest

from helpers.hf import TUBELET, save_video


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny hf: video model of every kind."""
    return {kind: save_video(tmp_path_factory.mktemp(kind), kind) for kind in TUBELET}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module(source) writes the source as a module of the working folder, as other people have it;
    gives its name.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(source: str, name: str = "stranger") -> str:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        for loaded in [key for key in sys.modules if key.partition(".")[0] == name.partition(".")[0]]:
            monkeypatch.delitem(sys.modules, loaded)  # as a new process would find it
        written.append(name)
        return name

    yield write
    for loaded in [
        key for key in sys.modules if key.partition(".")[0] in {name.partition(".")[0] for name in written}
    ]:
        del sys.modules[loaded]

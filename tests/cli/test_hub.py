"""`mambavl push` and `mambavl pull`, from the shell."""

import pytest

from helpers.cli import call
from helpers.hub_server import TOKEN, running
from helpers.tiny import make_dense_store

pytest.importorskip("huggingface_hub", reason="needs the `hub` extra: pip install -e '.[hub]'")
pytest.importorskip("pyarrow", reason="needs the `hub` extra: pip install -e '.[hub]'")


def test_a_store_goes_out_and_in_and_each_line_says_what_was_done(tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    recipe = {"encoder": {"name": "hf:/home/me/vit", "state": "random", "width": 6}}
    make_dense_store(tmp_path / "s", recipe=recipe)
    with running() as hub:
        for name, value in (
            ("ENDPOINT", hub.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_DISABLE_TELEMETRY", True),
            ("HF_HUB_OFFLINE", False),
        ):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert call("push", tmp_path / "s", "me/kitchen") == 2
        assert "say with --licence" in capsys.readouterr().err
        assert call("push", tmp_path / "s", "me/kitchen", "--licence", "mit", "--private") == 0
        said, noted = capsys.readouterr()
        assert "names 1 path of a machine" in noted
        assert "/home/me/vit" in noted
        assert f"to {hub.url}/datasets/me/kitchen; 0 were there." in said
        assert "licence mit" in said
        assert hub.repo("me/kitchen").private
        assert call("pull", "me/kitchen", tmp_path / "back") == 0
        assert "wrote the store" in capsys.readouterr().out
        assert call("cache", "verify", tmp_path / "back", "--deep") == 0
        assert call("pull", "me/kitchen", tmp_path / "back") == 2
        assert "is there already" in capsys.readouterr().err

"""all-mpnet-base-v2 out of five packages."""

import shutil
import zipfile

import pytest

from helpers.jobs import make_roberta
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders import mpnet
from mambavl.extract.encoders.registry import build


def test_mpnet_is_joined_from_its_packages_once(tmp_path, monkeypatch):
    """Five installed packages, each with a piece of a zip archive; here with a tiny model inside."""
    (tmp_path / "model").mkdir()
    model = make_roberta(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for file in model.iterdir():
            archive.write(file, f"{mpnet.ARCHIVE}/{file.name}")
        archive.writestr(f"{mpnet.ARCHIVE}/sub/../../outside.json", "{}")
    data = (tmp_path / "whole.zip").read_bytes()
    size = -(-len(data) // len(mpnet.PACKAGES))
    site = tmp_path / "site"
    for number, package in enumerate(mpnet.PACKAGES, 1):
        piece = site / f"part_{number}" / f"whole.zip.{number:03}"
        piece.parent.mkdir(parents=True)
        piece.write_bytes(data[(number - 1) * size : number * size])
        info = site / f"{package.replace('-', '_')}-0.0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\n")
        (info / "RECORD").write_text(f"part_{number}/{piece.name},,\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = mpnet.mpnet(None)
    assert encoder.sha256 == build(f"hf:{model}").sha256
    assert not list(tmp_path.rglob("outside.json"))
    assert [path.name for path in (tmp_path / "cache" / "mambavl").iterdir()] == [mpnet.ARCHIVE]
    shutil.rmtree(site)  # what is unpacked stands on its own
    assert mpnet.mpnet(None).sha256 == encoder.sha256
    with pytest.raises(UsageError, match="its record says 768"):
        build("mpnet")


def test_mpnet_says_which_package_is_missing_or_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mpnet, "PACKAGES", ("no-such-package",))
    with pytest.raises(UsageError, match="package no-such-package is not installed"):
        mpnet.mpnet(None)
    (tmp_path / "broken.zip.001").write_bytes(b"PK no archive")
    monkeypatch.setattr(mpnet, "_piece", lambda package, number: tmp_path / "broken.zip.001")
    with pytest.raises(DataError, match="is not a whole archive"):
        mpnet.mpnet(None)
    assert not list((tmp_path / "cache" / "mambavl").iterdir())

"""`mambavl settings`, the settings in --help and docs/settings.md say the same, and all there is to say."""

import pytest

from helpers.cli import call
from helpers.paths import ROOT
from mambavl.cli.settings import NAMES, page, section, short_text
from mambavl.configs.settings import settings_of


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_explained(name):
    """The comment is the only description that there is."""
    silent = [setting.key for setting in settings_of(section(name).record) if not setting.meaning]
    assert silent == []


def test_the_page_is_what_the_code_says():
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page(), (
        "out of date: run `mambavl settings --markdown > docs/settings.md`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_all_keys_are_printed(capsys, name):
    assert call("settings", name) == 0
    printed = capsys.readouterr().out
    for setting in settings_of(section(name).record):
        assert f"\n{setting.key}    " in printed


def test_without_a_name_the_names_are_listed_and_an_unknown_one_is_refused(capsys):
    assert call("settings") == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == list(NAMES)
    assert call("settings", "extract.vidoe") == 2
    assert "no settings are called 'extract.vidoe'; did you mean `extract.video`?" in capsys.readouterr().err
    assert call("settings", "train", "--markdown") == 2


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("extract", "video"), "extract.video"),
        (("extract", "audio"), "extract.audio"),
        (("extract", "text"), "extract.text"),
        (("questions", "generate"), "questions"),
        (("questions", "plan"), "questions"),
        (("cache", "import"), "cache.import"),
        (("train",), "train"),
        (("sweep",), "train"),
    ],
)
def test_the_help_of_a_command_that_takes_set_ends_with_its_settings(capsys, words, name):
    assert call(*words, "--help") == 0
    printed = capsys.readouterr().out
    assert f"`mambavl settings {name}` says more" in printed
    for setting in settings_of(section(name).record):
        assert f"\n   {setting.key} " in printed


def test_a_setting_with_a_flag_is_said_to_be_given_by_it(capsys):
    assert call("settings", "extract.video") == 0
    assert "\nsampling.task    by --task; recognition or anticipation\n" in capsys.readouterr().out


def test_help_says_each_meaning_in_full_unless_there_are_many_keys():
    short, long = section("extract.video"), section("train")
    said = " ".join(short_text(short, 60).split())
    for setting in settings_of(short.record):
        assert setting.meaning in said
    assert "\n   fusion.preset = default\n" in short_text(long, 60)
    assert "\n   streams.NAME.store (required)\n" in short_text(long, 60)
    assert "..." not in short_text(long, 60)


def test_a_default_is_told_from_the_values(capsys):
    assert call("settings", "train") == 0
    assert "\nfusion.preset    default `default`; default, paper or released\n" in capsys.readouterr().out

"""What models cost, from the shell: tables, and one line of JSON that keeps its keys."""

import json

import pytest
from typer.testing import CliRunner

from mambavl.cli.app import app
from mambavl.complexity import count, report
from mambavl.configs.errors import UsageError


def bench(*options):
    done = CliRunner().invoke(app, ["bench", "complexity", *options])
    return done, json.loads(done.stdout.splitlines()[-1]) if done.exit_code == 0 else done.exception


def test_the_command_ends_in_json_with_the_stable_keys(monkeypatch):
    cost = count.Cost(2.0, 0, trainable=1, frozen=7)
    monkeypatch.setattr(report, "table_4", lambda: {"orvit": [count.Part("part", cost)]})
    monkeypatch.setattr(report, "PUBLISHED", {})
    done, found = bench()
    assert found == {"orvit": {"params": 1, "macs": 2.0}}
    for column in (
        "trainable",
        "frozen",
        "G MACs",
        "G FLOPs",
        "G scan",
        "tokens",
        "published",
        "patch level",
    ):
        assert column in done.stdout, column


def test_the_head_of_a_packaged_recipe_is_counted_at_the_sizes_that_it_is_told():
    streams = (
        "--stream",
        "video=1569x768",
        "--stream",
        "verb_question=40x768",
        "--stream",
        "noun_question=40x768",
    )
    done, found = bench(
        "--recipe", "fuse/default", *streams, "--set", "fusion.preset=released", "--set", "fusion.scan=mamba"
    )
    own = 9_288_192 + 768 * 397 + 397
    assert found["fuse/default"]["params"] == found["fuse/default"]["trainable"] == own
    assert found["fuse/default"]["flops"] == 2 * found["fuse/default"]["macs"]
    assert "video 1569x768, verb_question 40x768" in " ".join(done.stdout.split())


def test_an_encoder_of_another_size_is_counted_from_the_command():
    _, found = bench(
        "--encoder", "avion-vit-b", "--set", "image_size=32", "--set", "frames=2", "--set", "depth=1"
    )
    assert found["avion-vit-b"]["frozen"] == found["avion-vit-b"]["params"]
    assert found["avion-vit-b"]["trainable"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--recipe", "fuse/default", "--encoder", "orvit"], "give one of them"),
        (["--set", "frames=8"], "name it too"),
        (["--encoder", "orvit", "--stream", "video=8x768"], "name it too"),
        (["--recipe", "fuse/default", "--stream", "video=8"], "expected NAME=TOKENSxWIDTH"),
        (["--recipe", "fuse/default", "--stream", "video=0x768"], "expected NAME=TOKENSxWIDTH"),
    ],
)
def test_a_wrong_call_is_refused(options, says):
    _, error = bench(*options)
    assert isinstance(error, UsageError)
    assert says in str(error)

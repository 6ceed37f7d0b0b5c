"""Somebody's function by name: found, or answered with what to type next; and the files of its code."""

import pytest

from helpers.own import GOOD
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders import registry


def test_the_code_is_named_by_the_files_of_the_function_and_of_the_class(module):
    module("", "theirs.__init__")
    module(GOOD, "theirs.model")
    adapter = "from theirs.model import Tubelets\n\n\ndef build():\n    return Tubelets(32)\n"
    module(adapter, "theirs.adapter")
    details = registry.build("theirs.adapter:build").details
    assert details["function"] == "theirs.adapter:build"
    assert sorted(details["source_sha256"]) == ["theirs.adapter", "theirs.model"]
    assert registry.build("theirs.model:Tubelets", image_size=16).width == 8  # a class is a function, too


def test_names_lead_to_a_function_or_to_what_to_type_next(module):
    assert registry.kind_of("no_such_module:build") is None
    assert registry.is_own("a.b:c")
    assert not any(registry.is_own(name) for name in ("timm:x", "hf:y", "minilm", "a:b/c", "a:"))
    module(GOOD)
    module("import no_such_package", "needs")
    module("import sys\nsys.exit(0)", "leaves")
    module("def build(:", "wrong")
    module("def build(): return 1 / 0", "raises")
    module("def build(): return 7", "seven")
    module("def build(path): return 7", "asks")
    refused = {
        "nowhere:build": r"no module 'nowhere' in .*; run the command from the folder",
        "stranger.inner:build": r"no module 'stranger\.inner'",
        "stranger:biuld": r"no function 'biuld' in .*stranger\.py; did you mean `build`\?",
        "stranger:__name__": r"'__name__' is not a function",
        "needs:build": r"importing needs failed: ModuleNotFoundError: .*needs\.py:1\)",
        "leaves:build": r"importing leaves failed: SystemExit: 0 .*py:2\)",
        "wrong:build": "importing wrong failed: SyntaxError",
        "raises:build": r"build\(\) failed: ZeroDivisionError: .*raises\.py:1\)",
        "seven:build": "returned int, which is not an encoder",
        "asks:build": r"cannot be called as build\(\): missing a required argument",
        "stranger:build/x": "there is no encoder",
    }
    for name, message in refused.items():
        with pytest.raises(UsageError, match=message):
            registry.build(name)


def test_a_source_that_was_edited_under_a_running_process_is_refused(module, tmp_path):
    registry.build(f"{module(GOOD)}:build")
    (tmp_path / "stranger.py").write_text(GOOD + "\n# edited")
    with pytest.raises(
        UsageError, match=r"stranger\.py was edited after it was imported; start a new process"
    ):
        registry.build("stranger:build")

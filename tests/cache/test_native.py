"""Native libraries: found next to their callers, or a reason why not."""

from importlib.machinery import EXTENSION_SUFFIXES

from mambavl.cache.native import load


def test_what_was_not_built_says_how_to_build_it(tmp_path):
    library, reason = load(tmp_path, "gather", 1)
    assert library is None
    assert reason == "it was not built; install a C compiler (gcc or clang), then reinstall mambavl"


def test_what_is_not_a_library_says_which_file(tmp_path):
    file = tmp_path / f"_gather{EXTENSION_SUFFIXES[0]}"
    file.write_bytes(b"not a library")
    library, reason = load(tmp_path, "gather", 1)
    assert library is None
    assert reason.startswith(f"{file.name} cannot be loaded (")

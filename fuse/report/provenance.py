"""What a run records, to be read and used again."""

import json

import tomli_w

from mambavl.fuse.result import Result


def recipe_text(result: Result) -> str:
    """TOML, as `mambavl train` reads it; of a mixture JSON, for it has several."""
    if result.fused:
        return json.dumps(result.recipe, indent=2, ensure_ascii=False)
    return tomli_w.dumps(result.recipe)


def result_text(result: Result) -> str:
    """Its result.json without the recipe, which has a text of its own."""
    found = result.to_dict()
    del found["recipe"]
    return json.dumps(found, indent=1, ensure_ascii=False)

"""What decided the weights of finished runs: equal for runs that differ in nothing that counts."""

from dataclasses import replace
from typing import Any

from mambavl.configs import validate
from mambavl.fuse.idle import without
from mambavl.fuse.recipe import Recipe, what_decides
from mambavl.fuse.result import Result


def decided(result: Result, *apart_from: str) -> dict[str, Any]:
    """What decided the weights of a run, whichever version of mambavl wrote its recipe, without some keys. Of
    a mixture: its rule, what was chosen for it on which rows, and that of each of its runs.
    """
    if result.fused:
        runs = [
            decided(replace(result, recipe=one, fused=None), *apart_from) for one in result.recipe["runs"]
        ]
        fused = result.fused
        return {"rule": fused.rule, "on": fused.on, "per": sorted(fused.chosen), "runs": runs}
    recipe = validate(result.recipe, Recipe, f"recipe of the run {result.title!r}", recorded=True)
    return without(what_decides(recipe), apart_from)

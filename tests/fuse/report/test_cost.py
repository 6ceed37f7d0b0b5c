"""What heads cost, and where that is not known."""

from dataclasses import replace

from mambavl.configs.errors import UsageError
from mambavl.fuse import report
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report.cost import RowCost, cost_table


def entry_of(page):
    folder, _ = page
    return report.collect([folder / "fused0", folder / "fused1"])[0]


def test_a_head_is_counted_from_its_recipe_and_training_from_its_runs(page):
    entry, asked = entry_of(page), []

    def cost_of(recipe: Recipe) -> RowCost:
        asked.append(recipe.head.name)
        return RowCost(macs=2.5e6, scan=1_000, tokens="video 4x6")

    table, said = cost_table([entry], cost_of)
    assert (asked, said) == (["mambavl"], [])
    [cells] = table.texts[1:]
    params = entry.first.params
    assert cells[1:6] == [
        f"{params.total:,}", f"{params.without_classifiers:,}", "2.50", "0.00", "video 4x6",
    ]  # fmt: skip
    seconds = [result.trained.train_seconds for result in entry.results]
    assert cells[6:] == ["4", f"{sum(seconds) / 2:,.1f}", "cpu, fp32"]


def test_what_cannot_be_counted_is_a_dash_with_its_reason(page):
    def cost_of(recipe: Recipe) -> RowCost:
        raise UsageError("no store of stream video")

    entry = entry_of(page)
    table, [said] = cost_table([entry], cost_of)
    assert table.texts[1][3:6] == ["–", "–", "–"]
    assert said.endswith("multiply-adds could not be counted: no store of stream video")
    trained = replace(entry.first.trained, environment=None, train_seconds=None, stopped=2, processes=4)
    other = replace(entry, results=[replace(entry.first, trained=trained)])
    table, said = cost_table([other], None)
    assert table.texts[1][6:] == ["2", "–", "not recorded, fp32, 4 processes"]
    assert said == []

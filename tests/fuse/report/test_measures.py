"""The columns of a report's tables."""

from mambavl.fuse import report
from mambavl.fuse.report.measures import measures, measures_table, priors


def test_columns_are_of_what_was_measured_and_the_prior_stands_in_them_once(page):
    folder, _ = page
    entries = report.collect([folder / name for name in ("fused0", "fused1", "text")])
    targets = ["verb", "noun", "action"]
    found = dict(measures(entries, targets))
    assert found["unseen kitchens, top-1"] == [(name, f"unseen_{name}_top1") for name in targets]
    assert found["relaxed recall@5"] == [("action", "relaxed_action_mean_class_recall5")]
    [(name, cells)] = priors(entries).items()
    assert name == "training prior, validation"
    assert cells["all_verb_top1"] == f"{entries[0].first.prior_metrics['all_verb_top1']:.1f}"
    table = measures_table(entries, targets)
    place = [column.label for column in table.columns].index("top-5, noun")
    assert [row.cells[0].text for row in table.rows] == [entry.title for entry in entries] + [name]
    assert table.rows[0].cells[place].text == entries[0].cell("all_noun_top5")
    assert table.rows[2].cells[place].text == cells["all_noun_top5"]

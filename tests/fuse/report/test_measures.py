"""The columns of a report's tables."""

from mambavl.fuse import report
from mambavl.fuse.report.measures import headlines, measures, priors


def test_columns_are_of_what_was_measured_and_the_prior_stands_in_them_once(page):
    folder, _ = page
    entries = report.collect([folder / name for name in ("fused0", "fused1", "text")])
    targets = ["verb", "noun", "action"]
    assert headlines(entries, targets)[2] == ("action top-1", "all_action_top1")
    found = dict(measures(entries, targets))
    assert found["unseen kitchens, top-1"] == [(name, f"unseen_{name}_top1") for name in targets]
    assert found["relaxed recall@5"] == [("action", "relaxed_action_mean_class_recall5")]
    [(name, cells)] = priors(entries).items()
    assert name == "training prior, validation"
    assert cells["all_verb_top1"] == f"{entries[0].first.prior_metrics['all_verb_top1']:.1f}"

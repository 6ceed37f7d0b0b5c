"""What is said of runs besides their numbers."""

from dataclasses import replace

from helpers.holed import holed_recipe, make_holed_stores
from mambavl.fuse import report
from mambavl.fuse.train import train


def test_a_leak_is_what_text_gives_beside_what_the_most_frequent_class_gives(page):
    folder, _ = page
    [entry] = report.collect([folder / "text"])
    measured = {"all_verb_top1": 61.5, "all_noun_top1": 40.2}
    prior = {"all_verb_top1": 20.0, "all_noun_top1": 4.0}
    entry.results = [replace(entry.first, metrics=measured, prior_metrics=prior)]
    [said, _] = report.leak_sentences([entry])
    assert "still names 61.5 % of the verbs and 40.2 % of the nouns; the most frequent class alone" in said
    assert "gives 20.0 % and 4.0 %." in said


def test_rows_without_a_stream_are_counted_on_the_page(tmp_path):
    train(holed_recipe(make_holed_stores(tmp_path), epochs=1, title="holed"), tmp_path / "run")
    report.write_report([tmp_path / "run"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "“holed”: rows without a stream, of 24: audio 2, video 1." in text
    assert "1 of 24 rows of “holed” lack a stream that they need; they count, with the training prior" in text

"""The rows of two sides in one order, and what keeps them from being compared."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.contests import write_run
from helpers.mixing import CLASSES, make_kitchens
from mambavl.configs.errors import DataError
from mambavl.fuse.aligned import Listed, align, see
from mambavl.fuse.run import read_result
from mambavl.fuse.sides import Member, find_side

VALIDATION = tuple(one for one in make_kitchens() if one.split == "validation")
LISTED = Listed(VALIDATION, CLASSES)


def seen(run, listed=None):
    return see(find_side(str(run)).first, listed)


def other(mixable, run, how, seed=0):
    """A copy of the run whose arrays of scores are changed."""
    shutil.copytree(mixable / "mlp", run)
    path = run / "scores" / "validation.npz"
    arrays = dict(np.load(path))
    how(arrays)
    np.savez(path, **arrays)
    return run


def turned(arrays):
    for name in arrays.keys() - {"pairs"}:
        arrays[name] = arrays[name][::-1]


def shorter(arrays):
    for name in arrays.keys() - {"pairs"}:
        arrays[name] = arrays[name][5:]


def test_rows_are_paired_whatever_their_order(mixable, tmp_path):
    one, same = seen(mixable / "mlp"), seen(other(mixable, tmp_path / "b", turned))
    assert same.ids == one.ids[::-1]
    found = align([one], [same], None, [])
    assert [segment.narration_id for segment in found.segments] == list(one.ids)
    assert set(found.targets) == {"verb", "noun", "action"}
    metrics = read_result(mixable / "mlp").metrics
    for name, target in found.targets.items():
        for measure, key in (("top1", "top1"), ("top5", "top5")):
            a, b = target.hits(measure)
            assert a.tolist() == b.tolist()
            assert 100 * a.mean() == pytest.approx(metrics[f"all_{name}_{key}"])
        assert target.hits("recall5")[0].tolist() == target.hits("top5")[0].tolist()
    assert (found.left_out, found.not_compared) == (0, ())
    assert found.group_names == ("all", "unseen", "tail")
    assert found.groups["unseen"].tolist() == [one.participant_id == "P03" for one in found.segments]
    mask = found.targets["noun"].first.in_group("tail", found.groups)
    assert mask.tolist() == (found.targets["noun"].first.label == 8).tolist()


def test_a_file_with_a_list_is_seen_as_its_run_is(mixable):
    run, file = seen(mixable / "mlp"), seen(mixable / "mlp" / "scores" / "validation.npz", LISTED)
    found = align([run], [file], None, [])
    for target in found.targets.values():
        for of_run, of_file in zip(target.a, target.b, strict=True):
            assert of_run.tolist() == of_file.tolist()
    assert run.sha256 == file.sha256


def test_other_rows_are_refused_until_they_are_allowed(mixable, tmp_path):
    one, less = seen(mixable / "mlp"), seen(other(mixable, tmp_path / "b", shorter))
    with pytest.raises(DataError, match=r"have other rows, 72 and 67, not in both .*--allow rows compares"):
        align([one], [less], None, [])
    found = align([one], [less], None, ["rows"])
    assert [segment.narration_id for segment in found.segments] == list(less.ids)
    assert found.left_out == 5
    assert found.targets["verb"].a[0].tolist() == found.targets["verb"].b[0].tolist()
    part = Listed(VALIDATION[3:], CLASSES)
    listed = [seen(run, part) for run in (mixable / "mlp", mixable / "mlp1")]
    with pytest.raises(DataError, match=r"mlp: 3 rows of it not in the list \(.*--split says which list"):
        align(listed[:1], listed[1:], part, [])
    assert len(align(listed[:1], listed[1:], part, ["rows"]).segments) == 69
    none = see(Member(mixable / "mlp", read_result(mixable / "mlp")), Listed(VALIDATION[:3], CLASSES))
    with pytest.raises(DataError, match="have no row in common"):
        align([none], [seen(mixable / "mlp", Listed(VALIDATION[3:], CLASSES))], part, ["rows"])


def test_other_labels_are_refused_and_a_list_settles_them(mixable, tmp_path):
    def relabelled(arrays):
        arrays["verb_label"][7] = (arrays["verb_label"][7] + 1) % 8

    run = other(mixable, tmp_path / "b", relabelled)
    one, another = seen(mixable / "mlp"), seen(run)
    says = rf"other labels of verb, the first of row {one.ids[7]}; with --annotations"
    with pytest.raises(DataError, match=says):
        align([one], [another], None, ["rows"])
    found = align([seen(mixable / "mlp", LISTED)], [seen(run, LISTED)], LISTED, [])
    assert found.targets["verb"].a[0].tolist() == found.targets["verb"].b[0].tolist()


def test_rows_without_a_label_do_not_count(mixable):
    bare = [
        replace(one, labels={"noun": one.labels["noun"]}) if row < 10 else one
        for row, one in enumerate(VALIDATION)
    ]
    listed = Listed(tuple(bare), CLASSES)
    both = [seen(mixable / name, listed) for name in ("mlp", "mlp1")]
    found = align(both[:1], both[1:], listed, [])
    assert {name: len(one.first.rows) for name, one in found.targets.items()} == {
        "verb": 62,
        "noun": 72,
        "action": 62,
    }
    assert found.targets["verb"].first.rows[0] == 10


def test_other_classes_are_refused_and_targets_of_one_side_left_out(mixable, tmp_path):
    run = write_run(tmp_path / "b", mixable / "mlp", np.ones(72, bool), seed=0)
    path = run / "classes.json"
    path.write_text(path.read_text().replace('"n3"', '"another"'))
    with pytest.raises(DataError, match="have other classes of noun"):
        align([seen(mixable / "mlp")], [seen(run)], None, [])
    file = tmp_path / "verbs.npz"
    arrays = dict(np.load(mixable / "mlp" / "scores" / "validation.npz"))
    np.savez(file, **{name: arrays[name] for name in ("narration_id", "verb")})
    found = align([seen(mixable / "mlp")], [seen(file, LISTED)], None, [])
    assert list(found.targets) == ["verb"]
    assert found.not_compared == ("noun", "action")


def test_a_store_that_is_gone_is_named(mixable, tmp_path):
    run = write_run(tmp_path / "b", mixable / "mlp", np.ones(72, bool), seed=0)
    path = run / "result.json"
    raw = json.loads(path.read_text())
    raw["streams"]["past"]["stores"] = [str(tmp_path / "gone.zarr")]
    path.write_text(json.dumps(raw))
    one = seen(run)
    with pytest.raises(DataError, match=r"gone\.zarr is gone.*name the lists with --annotations"):
        align([one], [one], None, [])
    assert len(align([seen(run, LISTED)], [seen(run, LISTED)], LISTED, []).segments) == 72
    listed = Listed(VALIDATION[:-1], CLASSES)
    with pytest.raises(DataError, match="its stores do not hold 1 row that it scored"):
        align([one], [one], listed, [])

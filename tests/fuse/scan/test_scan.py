"""Which backend a scan takes, what it says of that, and which inputs it refuses."""

import logging

import pytest
import torch

from helpers.scan import draw
from mambavl.configs.errors import UsageError
from mambavl.fuse import scan
from mambavl.fuse.scan import available_backends, cpu, pick, selective_scan


def test_a_backend_asked_for_by_name_is_never_replaced():
    assert available_backends()["reference"] == "ok"
    assert pick("auto") in available_backends()
    with pytest.raises(UsageError, match="did you mean `reference`"):
        pick("referense")


def test_auto_takes_the_native_scan_where_it_was_built_and_float64_where_it_is_meant():
    assert pick("auto") == ("chunked" if cpu.unavailable() else "cpu")
    assert pick("auto", dtype=torch.float64) == "chunked"
    assert pick("auto", device="meta") == "chunked"


def test_a_backend_that_cannot_take_the_tensors_says_why(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable", lambda: None)
    x = draw()
    with pytest.raises(
        UsageError, match='"cpu" was asked for, but it computes in float32 and the tensors are float64'
    ):
        selective_scan(**{k: v.double() for k, v in x.items()}, backend="cpu")
    monkeypatch.setattr(cpu, "unavailable", lambda: "it was not built; install a C compiler")
    with pytest.raises(UsageError, match="it was not built; install a C compiler"):
        scan.pick("cpu")
    assert scan.pick("auto") == "chunked"


def test_what_auto_took_is_said_once(caplog):
    scan._say_once.cache_clear()
    with caplog.at_level(logging.INFO, "mambavl"):
        for _ in range(3):
            selective_scan(**draw())
    assert [r.message for r in caplog.records] == [f"selective scan on cpu: {scan.pick('auto')}"]


def test_a_faster_scan_that_is_passed_over_is_a_warning_with_its_reason(caplog, monkeypatch):
    scan._say_once.cache_clear()
    monkeypatch.setattr(scan.cpu, "unavailable", lambda: "it was not built; install a C compiler")
    with caplog.at_level(logging.INFO, "mambavl"):
        assert scan.pick("auto") == "chunked"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == (
        "selective scan on cpu: chunked, which is slower (cpu: it was not built; install a C compiler)"
    )
    scan._say_once.cache_clear()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("u", (3, 16, 20)),
        ("delta", (3, 15, 21)),
        ("z", (2, 16, 21)),
        ("B", (3, 16, 15)),
        ("C", (3, 16, 2, 16)),
        ("D", (20,)),
        ("delta_bias", (1,)),
        ("initial_state", (3, 16, 21)),
        ("lengths", (2,)),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named(name, shape):
    x = draw()
    x["lengths"] = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match=rf"^{name} is \({', '.join(map(str, shape))}"):
        selective_scan(**{**x, name: torch.zeros(shape, dtype=x[name].dtype)})


def test_what_does_not_go_together_is_refused():
    x = draw()
    for change, says in (
        ({"A": torch.zeros(21, 257)}, r"A is \(21, 257\); it is \(D, N\), with 1 to 256 states"),
        ({"A": x["A"].cfloat()}, "A is torch.complex64"),
        (
            {"u": torch.zeros(3, 16, 21, dtype=torch.int64)},
            "u is torch.int64; it is a real floating-point type",
        ),
        ({"lengths": torch.tensor([1.5, 2, 3])}, "lengths is torch.float32; it is an integer type"),
        ({"B": torch.zeros(3, 16, 2, 16)}, r"B is .*: 21 channels are not 2 groups"),
        ({"delta": torch.zeros(3, 16, 21, device="meta")}, "delta is on meta and A on cpu"),
    ):
        with pytest.raises(ValueError, match=says):
            selective_scan(**{**x, **change})
    streams = [
        scan.ScanInputs(**{k: v.to(d) for k, v in x.items() if k != "A"})
        for d in (torch.float32, torch.float64)
    ]
    with pytest.raises(ValueError, match=r"u is torch.float64 in one stream and torch.float32 in another"):
        scan.pooled_selective_scans(streams, x["A"])
    with pytest.raises(ValueError, match="no stream"):
        scan.pooled_selective_scans([], x["A"])


def test_meta_tensors_have_shapes():
    x = {k: v.to("meta") for k, v in draw().items()}
    assert selective_scan(**x).shape == (3, 16, 21)

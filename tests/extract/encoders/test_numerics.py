"""What must hold of every encoder's numbers: repeatable, blind to its neighbours, steady in half precision,
compilable.

The encoders are small and untrained. Fresh weights are so small that a block hardly changes its input, so
that an error in one would not show; those of the blocks are made larger first. Differences are of the largest
number of a row or tensor.
"""

import pytest
import torch

from helpers.jobs import make_roberta
from mambavl.extract.encoders.registry import build

VIT = {"width": 64, "depth": 2, "heads": 4, "patch_size": 8, "image_size": 32, "frames": 4}
MOTION = {"width": 64, "depth": 2, "heads": 4, "patch_size": 16, "image_size": 64, "frames": 4}
SIZES = {
    "avion-vit-b": VIT,
    "lavila-tsf-b": VIT,
    "motionformer": MOTION,
    "orvit": MOTION | {"orvit_layers": (1,), "objects": 2},
    "timm:test_vit": {},
    "text": {},
}
GAIN = 4.0  # of the blocks' matrices: AVION's two blocks then add 0.7 to an input of standard deviation 1

# A batch of another size takes another path through a matrix product, whose sums then round in another order:
# a few units of float32's 2^-24. Measured: at most 2.7e-7 (Motionformer), 0 for AVION, LaViLa and timm.
BATCH_TOLERANCE = 1e-6
# Autocast rounds the operands and results of products to bfloat16 (steps of 2^-8 of a number) or float16
# (2^-11) and leaves norms and the sums between blocks in float32. Measured over all six: at most 2.5 such
# steps and 2.3.
AUTOCAST_TOLERANCE = {torch.bfloat16: 4 * 2**-8, torch.float16: 4 * 2**-11}
# A compiler fuses and reorders sums. Measured: at most 3e-7.
COMPILE_TOLERANCE = 2e-6


class Subject:
    """An encoder and inputs of five rows; `run(rows)` gives tokens (and pooled features) of some of them."""

    def __init__(self, name, text_folder):
        self.name = name
        make = torch.Generator().manual_seed(1)
        self.encoder = (
            build("hf:tiny", weights=str(text_folder))
            if name == "text"
            else build(name, weights="random", **SIZES[name])
        )
        blocks = [
            p for n, p in self.encoder.named_parameters() if p.ndim == 2 and ("blocks." in n or "layer." in n)
        ]
        assert len(blocks) >= 8
        for matrix in blocks:
            matrix.mul_(GAIN)
        if name == "text":
            ids = torch.randint(5, 300, (5, 12), generator=make)
            lengths = torch.tensor([12, 3, 7, 9, 12])
            self.inputs = (ids, (torch.arange(12) < lengths[:, None]).long())
            return
        frames, size = SIZES[name].get("frames", 2), self.encoder.pixels.image_size
        self.inputs = (torch.randn(5, 3, frames, size, size, generator=make),)
        if name == "orvit":
            self.inputs += (0.2 + 0.5 * torch.rand(5, frames, 2, 4, generator=make),)

    def forward(self, *inputs):
        if self.name == "text":
            found = self.encoder.model(input_ids=inputs[0], attention_mask=inputs[1])
            return found.last_hidden_state, found.pooler_output
        tokens = self.encoder.tokens(*inputs)
        return tokens, self.encoder.pool(tokens)

    @torch.inference_mode()
    def run(self, rows=range(5)):
        return self.forward(*(x[list(rows)] for x in self.inputs))


@pytest.fixture(scope="module", params=SIZES)
def subject(request, tmp_path_factory):
    return Subject(
        request.param, make_roberta(tmp_path_factory.mktemp("roberta")) if request.param == "text" else None
    )


def difference(found, expected):
    found, expected = found.double(), expected.double()
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_the_same_batch_gives_the_same_bits(subject):
    assert all(torch.equal(a, b) for a, b in zip(subject.run(), subject.run(), strict=True))


@pytest.mark.parametrize("rows", [(3,), (3, 0), (4, 3, 1), (4, 3, 2, 1, 0)])
def test_a_row_does_not_depend_on_its_neighbours(subject, rows):
    """Alone, with others, in another place: the same row but for the order of sums."""
    for found, whole in zip(subject.run(rows), subject.run(), strict=True):
        for place, row in enumerate(rows):
            assert difference(found[place], whole[row]) < BATCH_TOLERANCE


@pytest.mark.parametrize("dtype", AUTOCAST_TOLERANCE, ids=str)
def test_half_precision_stays_near_float32(subject, dtype):
    with torch.autocast("cpu", dtype=dtype):
        found = subject.run()
    for half, full in zip(found, subject.run(), strict=True):
        assert torch.isfinite(half).all()
        # not 0, or nothing ran in half precision
        assert 2**-24 < difference(half, full) < AUTOCAST_TOLERANCE[dtype]


# The inductor writes and compiles C++ for each encoder, half a minute and more of it; what breaks a graph
# shows without.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_one_compiled_graph_gives_the_same(subject, backend):
    torch._dynamo.reset()
    compiled = torch.compile(subject.forward, backend=backend, fullgraph=True)
    with torch.inference_mode():
        found = compiled(*subject.inputs)
    for ours, plain in zip(found, subject.run(), strict=True):
        assert difference(ours, plain) < COMPILE_TOLERANCE


def test_a_compiled_orvit_still_refuses_boxes_in_pixels():
    encoder = build("orvit", weights="random", **SIZES["orvit"] | {"depth": 1, "orvit_layers": (0,)})
    torch._dynamo.reset()
    compiled = torch.compile(encoder.tokens, backend="eager", fullgraph=True)
    video, boxes = torch.zeros(1, 3, 4, 64, 64), torch.full((1, 4, 2, 4), 0.5)
    with torch.inference_mode():
        assert difference(compiled(video, boxes), encoder.tokens(video, boxes)) == 0
        with pytest.raises(RuntimeError, match="fractions of the crop"):
            compiled(video, 64 * boxes)

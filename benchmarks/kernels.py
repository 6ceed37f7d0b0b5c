"""What do the Triton kernels of the selective scan become on each GPU: registers, shared memory, spills?

    python benchmarks/kernels.py [--archs 80 86 90] [--out benchmarks/results/kernels.json]

Triton compiles for a GPU that is not here, so this runs on any machine with Triton and needs no GPU. The
variants are those that a head asks for: one stream or two, pooled or not, float32 or bfloat16, N = 16 states,
exact hold. A program is one warp, so the registers decide how many of them a multiprocessor holds: 65,536 /
(32 x registers). A spilled register goes through memory at every step: there must be none. The last line is
JSON.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the kernels are to be compiled here

import torch
import triton
from harness import Harness, options
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mambavl.fuse.scan import triton as host
from mambavl.fuse.scan import triton_kernels
from mambavl.fuse.scan.inputs import Options, ScanInputs

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}
CHANNELS, STATES = 1536, 16
VARIANTS = {  # name: (streams, dtype, options)
    "head, float32": (2, torch.float32, Options(softplus=True, pooled=True)),
    "head, bfloat16": (2, torch.bfloat16, Options(softplus=True, pooled=True)),
    "all steps, float32": (1, torch.float32, Options(softplus=True)),
    "exact hold, float32": (1, torch.float32, Options(softplus=True, zoh=True)),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--archs", type=int, nargs="+", default=[80, 86, 90], help="compute capabilities, without the dot"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    harness = Harness(arguments, "torch", "triton")
    table = Table(
        "variant", "kernel", *(f"sm_{arch}" for arch in arguments.archs), title="registers (spilled bytes)"
    )
    rows = []
    for variant in arguments.variants:
        for kernel, given, constants in calls(*VARIANTS[variant]):
            cells = []
            for arch in arguments.archs:
                source = described(kernel, given, constants)
                compiled = triton.compile(
                    source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 1}
                )
                used = {**resources(compiled.asm["cubin"]), "shared": compiled.metadata.shared}
                rows.append({"variant": variant, "kernel": kernel.__name__, "arch": arch, **used})
                cells.append(f"{used['registers']} ({used['spilled']})")
            table.add_row(variant, kernel.__name__, *cells)
    Console().print(table)
    most = max(row["registers"] for row in rows)
    spilled = sum(row["spilled"] for row in rows)
    last = {"spilled_bytes": spilled, "most_registers": most, "compiled": len(rows)}
    harness.end({"kernels": rows}, last)


def calls(count: int, dtype: torch.dtype, options: Options) -> list[tuple[Any, tuple, dict]]:
    """(kernel, arguments, constants) of a forward and a backward, as triton.py launches them; nothing is
    computed.
    """
    empty = lambda *shape: torch.zeros(shape, dtype=dtype)
    streams = []
    for batch, steps in ((4, 16), (8, 40))[:count]:
        wide, narrow = (batch, steps, CHANNELS), (batch, steps, STATES)
        lengths = torch.full((batch,), steps)
        of_channels = torch.zeros(CHANNELS)
        streams.append(
            ScanInputs(
                u=empty(*wide),
                delta=empty(*wide),
                B=empty(*narrow),
                C=empty(*narrow),
                D=of_channels,
                z=empty(*wide),
                delta_bias=of_channels,
                lengths=lengths,
            )
        )
    recorded: list[tuple[Any, tuple, dict]] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, int]) -> Any:
            return lambda *given, num_warps, **constants: recorded.append((self.kernel, given, constants))

    own = triton_kernels.forward, triton_kernels.backward
    triton_kernels.forward, triton_kernels.backward = map(Recorder, own)
    try:
        a = torch.zeros(CHANNELS, STATES)
        ys, _, checkpoints = zip(*host.forward(a, streams, options, True), strict=True)
        host.backward(a, streams, options, list(checkpoints), list(ys), [None] * count)
    finally:
        triton_kernels.forward, triton_kernels.backward = own
    return recorded


def described(kernel: Any, given: tuple, constants: dict) -> ASTSource:
    """What Triton would make of these arguments at a launch: types, what is constant, what is aligned to 16
    bytes.
    """
    fixed: dict[tuple, Any] = {}
    attributes: dict[tuple, list] = {}

    def describe(x: Any, path: tuple[int, ...]) -> Any:
        varies = kernel.params[path[0]].do_not_specialize
        if isinstance(x, tuple):
            return tuple(describe(value, (*path, i)) for i, value in enumerate(x))
        if x is None or (x is not True and isinstance(x, int) and x == 1 and not varies):
            fixed[path] = x
            return "constexpr"
        if isinstance(x, torch.Tensor) or (x % 16 == 0 and not varies):
            attributes[path] = [["tt.divisibility", 16]]
        return TYPES[x.dtype] if isinstance(x, torch.Tensor) else "i32"

    signature = {}
    for i, name in enumerate(kernel.arg_names):
        if i < len(given):
            signature[name] = describe(given[i], (i,))
        else:
            signature[name], fixed[(i,)] = "constexpr", constants[name]
    return ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and the bytes of local memory that hold what did not fit into them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"]}


if __name__ == "__main__":
    main()

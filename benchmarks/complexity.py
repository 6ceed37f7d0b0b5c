"""What do the paper's models cost: the parameters and multiply-adds of Table 4, of every encoder, of our
head?

    python benchmarks/complexity.py [--out FILE]            (also: mambavl bench complexity)

Counted from the models themselves on meta tensors by PyTorch's FlopCounterMode, in half a minute, without
weights or a GPU; mambavl/complexity/count.py says what is counted. The command also counts the head of a
recipe (--recipe) and an encoder of any size (--encoder). The last line is JSON: `orvit`,
`transformer_12x12`, `transformer_6x4`, `mlp` and `mambavl`, each with `params` and `macs`.
"""

from harness import Harness, options
from rich.console import Console

from mambavl.complexity.report import print_report


def main() -> None:
    harness = Harness(options(__doc__).parse_args(), "torch")
    counted = print_report(Console(width=160))
    harness.end({"models": counted}, counted)


if __name__ == "__main__":
    main()

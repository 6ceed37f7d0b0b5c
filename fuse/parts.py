"""How the work of a C library is shared out: a batch's rows in parts, of which a free thread takes the next.

There are a few parts for each thread, so that a core which others slow down holds nobody up. They depend on
the shapes and on the number of torch's threads alone: sums are added in the order of the parts, so the same
number of threads gives the same bits.
"""

from itertools import pairwise

import torch

SHARES, LEAST = 4, 128  # parts for a thread at most; steps of a part at least, over all its rows


def threads_for(work: int, alone: int) -> int:
    """As many as torch uses; fewer where one would have less than `alone` of the work: made in vain."""
    return max(1, min(torch.get_num_threads(), work // alone))


def parts_of(rows: int, steps: int, threads: int) -> list[tuple[int, int]]:
    """(first row, row after the last) of each part; a single thread has one."""
    shares = max(1, min(SHARES, rows // threads, rows * steps // (LEAST * threads)))
    return cut(rows, min(threads * shares if threads > 1 else 1, rows))


def cut(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` things in order, in `parts` runs of nearly the same length."""
    edges = [count * i // parts for i in range(parts + 1)] if parts else [0]
    return list(pairwise(edges))

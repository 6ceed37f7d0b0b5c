"""AdamW and SGD over the tensors of a stack (`stacked`): every head with its own rates, decay and limit.

Each of torch's optimisers of the heads keeps what it would keep alone: its state are views of the tensors
here, so it can be saved, and taken up again by a head that is trained alone. K heads.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mambavl.fuse.optimizer import TrainConfig
from mambavl.fuse.stacked import Leaf, Stack

BETAS, EPS = (0.9, 0.999), 1e-8
BLOCK = 2**18  # numbers that are updated at once, so that they stay in cache from one operation to the next


class StackedOptimizer:
    """The optimisers of all heads of a stack, which have made as many updates as each other."""

    def __init__(
        self, stack: Stack, optimizers: Sequence[torch.optim.Optimizer], configs: Sequence[TrainConfig]
    ) -> None:
        """optimizers: as `build_optimizer` gives them, with what they have kept, in the order of the heads;
        configs: theirs, which name one kind of optimiser.
        """
        self.stack, self.optimizers, self.configs = stack, list(optimizers), list(configs)
        self.is_adamw = self.configs[0].optimizer == "adamw"
        self.kept = [self._gathered(leaf) for leaf in stack.leaves]  # of each leaf: name -> (K, numbers)
        self.counts = [self._counted(leaf) for leaf in stack.leaves]  # of each leaf: updates, (K, parameters)
        self._hand_out()

    def step(self, gradients: Sequence[Tensor], factors: Sequence[float]) -> None:
        """One update. gradients: of each leaf, (K, numbers), as they come out of the limit; factors: of each
        head, what its peak rates are multiplied with.
        """
        with torch.no_grad():
            for leaf, gradient, kept, counts in zip(
                self.stack.leaves, gradients, self.kept, self.counts, strict=True
            ):
                peaks = [config.lr_ssm if leaf.is_ssm else config.lr for config in self.configs]
                rates = [peak * factor for peak, factor in zip(peaks, factors, strict=True)]
                decays = [c.weight_decay if leaf.decays or c.decay_all else 0.0 for c in self.configs]
                counts += 1
                values = leaf.values.detach()
                for first in range(0, values.shape[1], max(1, BLOCK // len(values))):
                    part = slice(first, first + max(1, BLOCK // len(values)))
                    own = values[:, part], gradient[:, part], {name: x[:, part] for name, x in kept.items()}
                    if self.is_adamw:
                        self._adamw(*own, int(counts[0, 0]), rates, decays)
                    else:
                        self._sgd(*own, rates, decays)

    def _adamw(
        self,
        values: Tensor,
        gradient: Tensor,
        kept: dict[str, Tensor],
        number: int,
        rates: list[float],
        decays: list[float],
    ) -> None:
        """Loshchilov and Hutter (2019), algorithm 2, as torch has it."""
        mean, square = kept["exp_avg"], kept["exp_avg_sq"]
        values *= self._column(values, [1 - rate * decay for rate, decay in zip(rates, decays, strict=True)])
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        deviation = square.sqrt().div_(math.sqrt(1 - BETAS[1] ** number)).add_(EPS)
        steps = self._column(values, [-rate / (1 - BETAS[0] ** number) for rate in rates])
        values.addcmul_(mean / deviation, steps)

    def _sgd(
        self,
        values: Tensor,
        gradient: Tensor,
        kept: dict[str, Tensor],
        rates: list[float],
        decays: list[float],
    ) -> None:
        """With Nesterov's momentum; the decay is part of the gradient."""
        momentum = self._column(values, [config.momentum for config in self.configs])
        gradient = gradient.addcmul(values, self._column(values, decays))
        velocity = kept["momentum_buffer"]
        velocity.mul_(momentum).add_(gradient)
        values.addcmul_(gradient.addcmul(velocity, momentum), self._column(values, [-rate for rate in rates]))

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the heads at some places, after `Stack.keep`."""
        self.optimizers = [self.optimizers[place] for place in places]
        self.configs = [self.configs[place] for place in places]
        where = torch.tensor(places, device=self.stack.leaves[0].values.device)
        self.kept = [{name: own[where] for name, own in kept.items()} for kept in self.kept]
        self.counts = [counts[where.cpu()] for counts in self.counts]
        self._hand_out()

    def _gathered(self, leaf: Leaf) -> dict[str, Tensor]:
        """What the optimisers have kept of a leaf's weights; zeros where they have made no update yet."""
        found = {}
        for name in ("exp_avg", "exp_avg_sq") if self.is_adamw else ("momentum_buffer",):
            found[name] = torch.zeros_like(leaf.values, requires_grad=False)
            for k, row in enumerate(leaf.rows(found[name])):
                for parameter, own in row.items():
                    state = self._state(k, parameter)
                    if name in state:
                        own.copy_(state[name])
        return found

    def _counted(self, leaf: Leaf) -> Tensor:
        found = torch.zeros(len(self.stack), len(leaf.names))
        for k in range(len(self.stack)):
            for place, parameter in enumerate(leaf.names):
                found[k, place] = float(self._state(k, parameter).get("step", 0))
        return found

    def _hand_out(self) -> None:
        """Makes what is kept here the state of the heads' own optimisers."""
        for leaf, kept, counts in zip(self.stack.leaves, self.kept, self.counts, strict=True):
            for name, values in kept.items():
                for k, row in enumerate(leaf.rows(values)):
                    for place, (parameter, own) in enumerate(row.items()):
                        state = self.optimizers[k].state
                        key = self.stack.heads[k].get_parameter(parameter)
                        if self.is_adamw:
                            state[key] |= {name: own, "step": counts[k, place]}
                        elif self.configs[k].momentum:
                            state[key] = {name: own}

    def _state(self, k: int, parameter: str) -> dict[str, Tensor]:
        """What the optimiser of a head has kept of a parameter; nothing before its first update."""
        return self.optimizers[k].state.get(self.stack.heads[k].get_parameter(parameter), {})

    def _column(self, like: Tensor, numbers: list[float]) -> Tensor:
        """(K, 1)."""
        return torch.tensor(numbers, dtype=torch.float64).to(like)[:, None]


def norms(gradients: Sequence[Tensor]) -> Tensor:
    """(K,): the norm of all gradients of each head together."""
    return torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)


def limit(gradients: Sequence[Tensor], found: Tensor, limits: Sequence[float]) -> list[Tensor]:
    """Gradients of at most the norms `limits`, 0 for any, as torch.nn.utils.clip_grad_norm_ makes them, in
    place. found (K,): their norms now.
    """
    most = torch.tensor([one or math.inf for one in limits], dtype=torch.float64).to(found)
    factors = (most / (found + 1e-6)).clamp(max=1.0)[:, None]
    return [gradient.mul_(factors) for gradient in gradients]

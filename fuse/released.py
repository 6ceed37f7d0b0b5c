"""What the authors' later code does, where the recipe `released` repeats it."""

from torch import nn


def reset_like_release(head: nn.Module) -> None:
    """What the released code does to every parameter after building.

    Xavier on all matrices, A_log and Conv1d included; zero biases in linear layers; fresh norms. A becomes
    about -1 everywhere and delta starts at softplus(0) = 0.69.
    """
    for parameter in head.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    for module in head.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()

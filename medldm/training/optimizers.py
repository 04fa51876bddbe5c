"""Muon for matrices and AdamW for everything else, as one optimizer."""

import torch
from torch import Tensor, nn

#: Coefficients of the quintic iteration (Jordan et al. 2024, Muon).
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix to `update` [rows, columns], up to singular values in about [0.7, 1.2].

    With A = u u^T on the short side the polynomial is applied to A alone, so that only two products touch the long side.
    """
    a, b, c = QUINTIC
    u = update if update.shape[0] <= update.shape[1] else update.T
    u = u / (u.norm() + 1e-7)
    gram = u @ u.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(steps):
        q = a * identity + b * gram + c * (gram @ gram)
        product = q @ product
        gram = q @ gram @ q
    u = product @ u
    return u if update.shape[0] <= update.shape[1] else u.T


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) on groups with `matrix=True`, fused AdamW on the others.

    Muon: b = 0.95 b + 0.05 g; u = orthogonalise(0.05 g + 0.95 b) with rows = output channels; p -= 0.2 sqrt(max(rows, columns)) lr u.
    One optimizer rather than two keeps Lightning's step counter, clipping and checkpoints as they are for any other training.

    Args:
        groups: parameter groups; each may set `lr`, `weight_decay`, `betas` and `matrix`.
        lr: peak learning rate.
        weight_decay: decoupled, relative to the learning rate.
    """

    momentum = 0.95

    def __init__(self, groups: list[dict], lr: float, weight_decay: float = 1e-4, betas: tuple[float, float] = (0.9, 0.95)):
        groups = [{"matrix": False, **group} for group in groups]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure=None):
        """One update; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["matrix"]:
                for parameter in group["params"]:
                    self._step_matrix(parameter, group)
        super().step()
        return loss

    def _step_matrix(self, parameter: nn.Parameter, group: dict) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW's loader of states looks for it
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"].lerp_(gradient, 1 - self.momentum)
        update = orthogonalise(gradient.lerp(buffer, self.momentum).flatten(1))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)
        parameter.grad = None  # AdamW passes over parameters without a gradient


def parameter_groups(module: nn.Module, matrices: list[nn.Parameter], rest_lr: float | None = None) -> list[dict]:
    """Two groups: `matrices` for Muon, all other trainable parameters for AdamW (at `rest_lr` if given)."""
    chosen = {id(p) for p in matrices}
    rest = {"params": [p for p in module.parameters() if id(p) not in chosen and p.requires_grad]}
    return [{"params": list(matrices), "matrix": True}, rest if rest_lr is None else {**rest, "lr": rest_lr}]

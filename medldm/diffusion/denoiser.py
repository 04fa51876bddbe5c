"""The denoiser: whatever its network predicts inside, outside it maps a noisy latent to an estimate of the clean one."""

import numpy as np
import torch
from torch import Tensor, nn

from medldm.diffusion.conditions.base import Condition, Context, Value
from medldm.diffusion.process import Process
from medldm.errors import UserError
from medldm.models.nets import DenoisingNet
from medldm.operators.base import column
from medldm.types import Denoise

PREDICTIONS = ("data", "noise", "velocity", "flow")
TIME_MEAN, TIME_STD = 0.2, 1.0
NODES = 200  # of the quadrature over times
DROP_ALL, DROP_ONE = 0.1, 0.05


class Denoiser(nn.Module):
    """E[x_0 | x_t, conditions] for whitened latents.

    With s, n = signal, noise, their rates s', n', and k = (s^2 + n^2)^(-1/2), the network F reads k x_t. It predicts

        data       F = x_0
        noise      F = e
        velocity   F = k (s e - n x_0)                       (Salimans & Ho 2022)
        flow       dx_t/dt = k^2 (s s' + n n') x_t + k (s n' - n s') F

    The last writes the flow as the answer for white Gaussian data plus a correction, so that the network need not learn
    the identity at either end (Karras et al. 2022, preconditioning). Velocity and flow give the same estimate
    x_0 = s k^2 x_t - n k F; they differ in the error that the loss measures.

    Args:
        net: the network.
        process: the path from data to noise.
        conditions: covariate name -> condition.
        predicts: one of "data", "noise", "velocity", "flow".
        time_mean, time_std: training times are sigmoid(N(time_mean, time_std^2)) (Esser et al. 2024).
    """

    def __init__(
        self,
        net: DenoisingNet,
        process: Process,
        conditions: dict[str, Condition],
        predicts: str = "flow",
        time_mean: float = TIME_MEAN,
        time_std: float = TIME_STD,
    ):
        super().__init__()
        if predicts not in PREDICTIONS:
            raise UserError(f"predicts={predicts!r} is none of {', '.join(PREDICTIONS)}.")
        self.net, self.process, self.predicts = net, process, predicts
        self.conditions = nn.ModuleDict(conditions)
        self.time_mean, self.time_std = time_mean, time_std

    def encode(self, covariates: dict[str, Value]) -> Tensor:
        """Covariates of one case as codes [N conditions], NaN where missing.

        Raises:
            UserError: a covariate is unknown to this denoiser, or its value to the condition.
        """
        if unknown := sorted(set(covariates) - set(self.conditions)):
            raise UserError(f"The model knows no condition {unknown[0]!r}; it knows {', '.join(self.conditions) or 'none'}.")
        codes = []
        for name, condition in self.conditions.items():
            try:
                codes.append(condition.encode(covariates.get(name)))
            except UserError as error:
                raise UserError(f"Condition {name!r}: {error}") from error
        return torch.tensor(codes, dtype=torch.float32)

    def context(self, codes: Tensor, valid: Tensor | None = None) -> Context:
        """Codes [B N] and the field of view [B 1 i j k] as what the network is told."""
        vector = codes.new_zeros(len(codes), self.net.width)
        for column_, condition in zip(codes.unbind(1), self.conditions.values(), strict=True):
            vector = vector + condition(column_)
        return Context(vector, valid)

    def forward(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        """Clean estimate [B c i j k] of x_t [B c i j k] at times t [B] float64."""
        signal, noise, scale = self._coefficients(t, x)
        output = self._network(x * scale, t, context)
        if self.predicts == "data":
            return output
        if self.predicts == "noise":
            return (x - noise * output) / signal.clamp(min=1e-4)
        return signal * scale**2 * x - noise * scale * output

    def loss(self, x_0: Tensor, codes: Tensor, generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        """Mean squared error of the prediction per sample [B], over the cells inside the field of view.

        Args:
            x_0: whitened latents [B c i j k].
            codes: conditions [B N]; some are dropped at random, all together for guidance and one by one.
            generator: decides times, noise and drops.
            valid: field of view [B 1 i j k], or None.
        """
        batch = len(x_0)
        t = torch.sigmoid(self.time_mean + self.time_std * torch.randn(batch, generator=generator, dtype=torch.float64))
        e = torch.randn(x_0.shape, generator=generator)
        drop = torch.rand(batch, 1, generator=generator) < DROP_ALL
        drop = drop | (torch.rand(codes.shape, generator=generator) < DROP_ONE)
        codes = torch.where(drop.to(codes.device), torch.nan, codes)
        return self.error(x_0, e.to(x_0), t.to(x_0.device), self.context(codes, valid))

    def error(self, x_0: Tensor, e: Tensor, t: Tensor, context: Context) -> Tensor:
        """Squared error of the prediction [B] for given data, noise [B c i j k] and times [B]."""
        signal, noise, scale = self._coefficients(t, x_0)
        output = self._network((signal * x_0 + noise * e) * scale, t, context).float()
        if self.predicts == "data":
            target = x_0
        elif self.predicts == "noise":
            target = e
        else:
            target = scale * (signal * e - noise * x_0)
        square = (output - target) ** 2
        if self.predicts == "flow":
            signal_rate, noise_rate = self.process.rates(t)
            square = square * (scale * (signal * column(noise_rate, x_0) - noise * column(signal_rate, x_0))) ** 2
        if context.valid is None:
            return square.mean((1, 2, 3, 4))
        return (square * context.valid).sum((1, 2, 3, 4)) / (context.valid.sum((1, 2, 3, 4)) * x_0.shape[1])

    def bind(self, context: Context, guidance: float = 1.0) -> Denoise:
        """A function of (x_t, t) alone, with classifier-free guidance (Ho & Salimans 2022).

        x_0 = x_0(nothing) + guidance (x_0(context) - x_0(nothing)), both from one call of the network.

        Args:
            context: of a batch.
            guidance: 1 follows the conditions as learned, more overstates them, 0 ignores them.
        """
        if guidance == 1.0:
            return lambda x, t: self(x, t, context)
        nothing = torch.full((len(context.vector), len(self.conditions)), torch.nan, device=context.vector.device)
        without = self.context(nothing, context.valid)
        valid = None if context.valid is None else torch.cat([context.valid, context.valid])
        both = Context(torch.cat([context.vector, without.vector]), valid)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            conditional, unconditional = self(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            return unconditional + guidance * (conditional - unconditional)

        return denoise

    def _coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        signal, noise = self.process.signal(t), self.process.noise(t)
        return column(signal, like), column(noise, like), column((signal**2 + noise**2).rsqrt(), like)

    def _network(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        valid = torch.ones_like(x[:, :1]) if context.valid is None else context.valid.to(x)
        return self.net(torch.cat([x * valid, valid], dim=1), t, context.vector)


def loss_floor(noise: Tensor, process: Process, predicts: str = "flow", time_mean: float = TIME_MEAN, time_std: float = TIME_STD) -> float:
    """The loss of a denoiser that knows everything of its training latents but the posterior noise in them.

    A latent m + sqrt(v) e' with known m is estimated from x_t with the error v n^2 / (s^2 v + n^2). In what the network predicts this
    weighs 1 (data), s^2 / n^2 (noise), 1 / (k n)^2 (velocity) or (s n' - n s')^2 / n^2 (flow); the floor is its mean over times and
    channels. No training on draws gets below it; the loss is then that of noise, however good the model is.

    Args:
        noise: variance v of the noise per channel [c] of whitened latents.
        process, predicts, time_mean, time_std: as in `Denoiser`.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    t = torch.sigmoid(time_mean + time_std * torch.from_numpy(nodes))
    signal, level = process.signal(t), process.noise(t)
    signal_rate, level_rate = process.rates(t)
    weight = {
        "data": torch.ones_like(t),
        "noise": signal**2 / level**2,
        "velocity": (signal**2 + level**2) / level**2,
        "flow": (signal * level_rate - level * signal_rate) ** 2 / level**2,
    }[predicts]
    v = noise.double()[:, None]
    error = weight * v * level**2 / (signal**2 * v + level**2)
    return float((error * torch.from_numpy(weights / weights.sum())).sum(1).mean())

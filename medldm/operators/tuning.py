"""The best settings of a reconstruction, found on patients set aside for it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.acquisitions import Acquisition, LargeVoxels, SparseCT, ThickSlices
from medldm.operators.base import LinearOperator
from medldm.operators.classical import AboveAir, Classical, FilteredBackprojection, Sirt, Tikhonov, TotalVariation, Wavelet
from medldm.operators.spline import Spline

TUNING = 4  # calibration cases that settings are searched on; all of them would take long and hardly move a weight
MOST = 1000  # of a setting that counts, such as iterations: without noise more always are a little better
GAIN = 1e-3  # of the error: smaller ones are not worth another step

#: Operator, measurements [1 ...] and the true image [1 C I J K].
Known = tuple[LinearOperator, Tensor, Tensor]
Method = TypeVar("Method", bound=Classical)


def candidates(acquisition: Acquisition, spacing: tuple[float, float, float]) -> dict[str, tuple[Classical, dict[str, float]]]:
    """Classical reconstructions that serve a kind of measurement, by name: where a search begins, and its factors (see `tune`)."""
    found: dict[str, tuple[Classical, dict[str, float]]] = {
        "tikhonov": (Tikhonov(), {"weight": 4.0}),
        "tv": (TotalVariation(0.004, spacing=spacing), {"weight": 3.0}),
        "wavelet": (Wavelet(), {"weight": 3.0}),
    }
    if isinstance(acquisition, ThickSlices | LargeVoxels):
        found["spline"] = (Spline(), {})
    if isinstance(acquisition, SparseCT):
        found["sirt"] = (AboveAir(Sirt(60, lowest=0.0)), {"method.iterations": 2.0})
        if acquisition.filtered:
            found["fbp"] = (AboveAir(FilteredBackprojection(0.7)), {"method.cutoff": 1.5})
    return found


def tune(method: Method, factors: Mapping[str, float], known: Iterable[Known]) -> tuple[Method, float]:
    """Settings of the least mean squared error, and that error: each is multiplied and divided by its factor while that helps, then by its root.

    Args:
        method: where the search begins.
        factors: setting -> factor; "method.iterations" means a setting of the method inside.
        known: calibration cases: others than models were trained on and than will be judged.

    Raises:
        UserError: there is no case.
    """
    cases = list(known)
    if not cases:
        raise UserError("Tuning needs at least one calibration case.", "Keep some patients aside for it, such as the split val.")
    best, least = method, mean_squared_error(method, cases)
    for power in (1.0, 0.5):
        moved = True
        while moved:
            moved = False
            for setting, factor in factors.items():
                for by in (factor**power, factor**-power):
                    tried, before = scaled(best, setting, by), least
                    error = mean_squared_error(tried, cases)
                    if error < least:
                        best, least, moved = tried, error, moved or error < (1 - GAIN) * before
                        break
    return best, least


def scaled(method: Method, setting: str, by: float) -> Method:
    """The method with one setting multiplied; whole numbers stay whole, at least 1 and at most `MOST`."""
    name, _, rest = setting.partition(".")
    value = getattr(method, name)
    if rest:
        return replace(method, **{name: scaled(value, rest, by)})
    if isinstance(value, int):
        return replace(method, **{name: min(max(1, math.ceil(value * by) if by > 1 else math.floor(value * by)), MOST)})
    return replace(method, **{name: value * by})


@torch.inference_mode()
def mean_squared_error(method: Callable[[LinearOperator, Tensor], Tensor], cases: list[Known]) -> float:
    """Mean over cases."""
    return sum(float((method(operator, y) - x).double().square().mean()) for operator, y, x in cases) / len(cases)

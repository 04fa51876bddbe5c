"""Linear physics of DeepInverse (Tachella et al. 2023) as operators, without depending on that package."""

from typing import Protocol

from torch import Tensor

from medldm.errors import UserError
from medldm.operators.opaque import Opaque


class Physics(Protocol):
    """What is used of `deepinv.physics.LinearPhysics`."""

    def A(self, x: Tensor) -> Tensor: ...  # noqa: D102
    def A_adjoint(self, y: Tensor) -> Tensor: ...  # noqa: D102


class FromPhysics(Opaque):
    """y = A x of a physics with `A` and `A_adjoint`, which must be each other's adjoints; `dot_error` tells.

    Args:
        physics: it keeps its own axes, such as real and imaginary part as two channels.

    Raises:
        UserError: it has no adjoint, as physics that are not linear.
    """

    def __init__(self, physics: Physics):
        super().__init__()
        if not callable(getattr(physics, "A", None)) or not callable(getattr(physics, "A_adjoint", None)):
            raise UserError(f"{type(physics).__name__} has not both A and A_adjoint.", "Give a linear physics.")
        self.physics = physics

    def there(self, x: Tensor) -> Tensor:
        """See `Opaque`."""
        return self.physics.A(x)

    def back(self, y: Tensor) -> Tensor:
        """See `Opaque`."""
        return self.physics.A_adjoint(y)

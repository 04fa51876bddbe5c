"""One helper for optional packages."""

import importlib
from types import ModuleType

from medldm.errors import UserError


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        package: the name to import, such as "opacus".
        extra: the extra of this project that installs it, such as "dp".

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"The package {package!r} is not installed.", f"Install it with: pip install 'medldm[{extra}]'") from error

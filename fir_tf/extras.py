"""Packages that not everyone needs: setup.cfg's extras."""

import importlib
from types import ModuleType

from fir_tf.errors import FirError


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional package.

    Args:
        module: str, what is imported.
        extra: str, the extra of this package that brings it.

    Raises:
        FirError: it cannot be imported; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FirError(
            f"the package {module} is needed and cannot be imported ({error}). "
            f"Install it: pip install 'fir_tf[{extra}]'"
        ) from error

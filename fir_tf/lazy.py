"""Names of a package that are imported when they are asked for."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns a package's `__getattr__` and `__dir__`.

    Importing TensorFlow takes seconds and pandas one, and most of what the scripts say needs none.

    Args:
        package: str, `__name__`.
        names: {name: the module it is imported from}; a module is its own name's.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(names[name])
        return module if names[name] == f"{package}.{name}" else getattr(module, name)

    def known() -> list[str]:
        return sorted([*vars(importlib.import_module(package)), *names])

    return get, known

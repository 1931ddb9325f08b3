"""Names that are loaded when somebody first asks for them (PEP 562).

For the `__init__` files of packages whose names are many and whose modules cost time: importing the package then costs
next to nothing. Imports nothing of this package. Type checkers see the imports under `TYPE_CHECKING` beside the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(namespace: dict[str, Any], homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        namespace: `globals()` of the package; a name is kept there once it is loaded.
        homes: Module -> the names that live there.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        module = home_of.get(name)
        if module is None:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(module), name)
        return value

    return load

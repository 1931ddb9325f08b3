"""Class references: how a definition names a class, and which classes may be looked up.

A reference is the text `"module:qualname"`. Writing one down imports nothing; looking it up may import the module, and
the policy that is passed along decides whether that is permitted. There is no ambient policy and no cache:
`sys.modules` remembers the modules, and a reloaded module is seen at once.

Called by the properties of flows and steps, by the compiler and by whoever reads flow files; which references a flow
holds is known to `ref_check`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Field

from chainweaver.exceptions import SchemaRefPolicyError, suggest

__all__ = [
    "DEFAULT_REF_POLICY",
    "ClassRef",
    "SchemaRefAllowlist",
    "SchemaRefPolicy",
    "class_ref",
    "error_ref",
    "refusal_of_error",
    "resolve_class",
    "resolve_error",
    "resolve_model",
]

_EXAMPLE = "write it like 'shop.models:Order' or 'shop.models:Order.Line'"
HOW_TO_PERMIT: Final = "permit the module in the policy, or name another class"
_HARMLESS: Final = ("builtins", "chainweaver", "chainweaver.exceptions")
"""Modules whose exception classes every policy permits: they are loaded anyway, and the default of a retry is there."""


@dataclass(frozen=True)
class SchemaRefPolicy:
    """Which class references may be looked up. This base permits whatever Python can import.

    Derive from it and override `refusal` for a rule of your own.

    Attributes:
        allow_import: Whether a module that is not loaded yet may be imported.
    """

    allow_import: bool = True

    def refusal(self, module: str, qualname: str) -> str | None:
        """Why this reference is refused, as a clause; None when it is permitted.

        >>> SchemaRefPolicy(allow_import=False).refusal("sys", "flags") is None
        True
        """
        if self.allow_import or module in sys.modules:
            return None
        return f"module '{module}' is not loaded, and the policy does not let a definition import it"


@dataclass(frozen=True)
class SchemaRefAllowlist(SchemaRefPolicy):
    """Permits the listed modules, with everything below them, and the listed single references.

    Attributes:
        modules: Dotted names; `"shop"` covers `shop.models` as well, but not `shopping`.
        refs: Whole references such as `"shop.models:Order"`.

    Raises:
        TypeError: A single text stands where several belong.
        ValueError: A name is no dotted name, or a reference has not the form `"module:qualname"`.

    >>> rule = SchemaRefAllowlist(modules=("shop",))
    >>> rule.refusal("shop.models", "Order") is None, rule.refusal("shopping", "Cart") is None
    (True, False)
    """

    modules: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, check in (("modules", _checked_module), ("refs", _checked)):
            given = getattr(self, name)
            # The letters of a text would be taken for names of modules.
            if isinstance(given, str):
                raise TypeError(f"{name} has to be a tuple of texts such as ({given!r},), not one text.")
            listed = tuple(given) if isinstance(given, Iterable) else (None,)
            if not all(isinstance(one, str) for one in listed):
                raise TypeError(f"{name} has to be a tuple of texts, not {given!r}.")
            object.__setattr__(self, name, tuple(check(one) for one in listed))

    def refusal(self, module: str, qualname: str) -> str | None:
        """Why this reference is refused, as a clause; None when it is permitted."""
        listed = f"{module}:{qualname}" in self.refs
        if not listed and not any(module == one or module.startswith(f"{one}.") for one in self.modules):
            return f"neither module '{module}' nor the reference is on the allowlist"
        return super().refusal(module, qualname)


DEFAULT_REF_POLICY: Final = SchemaRefPolicy()
"""Permits everything that Python can import; used when no policy is passed."""


@dataclass(frozen=True)
class _Both(SchemaRefPolicy):
    first: SchemaRefPolicy = DEFAULT_REF_POLICY
    second: SchemaRefPolicy = DEFAULT_REF_POLICY

    def refusal(self, module: str, qualname: str) -> str | None:
        return self.first.refusal(module, qualname) or self.second.refusal(module, qualname)


def both(first: SchemaRefPolicy, second: SchemaRefPolicy | None) -> SchemaRefPolicy:
    """The policy that permits what two policies permit; None permits everything.

    >>> rule = both(SchemaRefAllowlist(modules=("shop",)), SchemaRefAllowlist(modules=("shop.models",)))
    >>> rule.refusal("shop.models", "Order") is None, rule.refusal("shop.admin", "User") is None
    (True, False)
    """
    if second is None or second == DEFAULT_REF_POLICY:
        return first
    return second if first == DEFAULT_REF_POLICY else _Both(first=first, second=second)


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _checked_module(name: str) -> str:
    if not _dotted(name):
        raise ValueError(f"'{name}' is no name of a module: write it like 'shop', which covers 'shop.models' as well")
    return name


def _checked(ref: str) -> str:
    module, colon, qualname = ref.partition(":")
    if not (colon and _dotted(module) and _dotted(qualname)):
        raise ValueError(f"'{ref}' is no class reference: {_EXAMPLE}")
    return ref


ClassRef = Annotated[
    str,
    AfterValidator(_checked),
    Field(json_schema_extra={"pattern": r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$"}),
]
"""A text of the form `"module:qualname"`; only its form is checked."""


def class_ref(cls: type[Any]) -> str:
    """The reference of a class.

    Raises:
        ValueError: The class lives inside a function, where no reference can reach it.

    >>> class_ref(SchemaRefPolicy)
    'chainweaver.flow.refs:SchemaRefPolicy'
    """
    if not isinstance(cls, type):
        raise TypeError(f"A class reference needs a class, not {type(cls).__name__}.")
    if "<locals>" in cls.__qualname__:
        raise ValueError(
            f"Class '{cls.__qualname__}' cannot be referenced because it is defined inside a function.\n"
            f"  fix     move it to the top level of module '{cls.__module__}'"
        )
    return _checked(f"{cls.__module__}:{cls.__qualname__}")


def resolve_class(ref: str, *, policy: SchemaRefPolicy = DEFAULT_REF_POLICY) -> type[Any]:
    """The class that a reference names; imports its module where the policy permits it.

    Raises:
        SchemaRefPolicyError: The policy refuses the reference, or nothing of that name exists, or it is no class. An
            error of the import itself is kept as `__cause__`.

    >>> resolve_class("builtins:ValueError")
    <class 'ValueError'>
    """
    module_name, _, qualname = ref.partition(":")
    try:
        _checked(ref)
    except ValueError:
        raise SchemaRefPolicyError(ref, "it has not the form 'module:qualname'", fix=_EXAMPLE) from None
    refused = policy.refusal(module_name, qualname)
    if refused is not None:
        raise SchemaRefPolicyError(ref, refused, fix=HOW_TO_PERMIT)
    found: Any = _loaded(ref, module_name)
    for part in qualname.split("."):
        if not hasattr(found, part):
            near = suggest(part, [name for name in dir(found) if not name.startswith("_")])
            fix = f"did you mean '{near}'?" if near else None
            raise SchemaRefPolicyError(ref, f"'{getattr(found, '__name__', part)}' has no attribute '{part}'", fix=fix)
        found = getattr(found, part)
        # Whoever permits a module does not permit all that it happens to import.
        if isinstance(found, ModuleType):
            detail = f"'{part}' in it is a module"
            raise SchemaRefPolicyError(ref, detail, fix=f"begin the reference with '{found.__name__}'")
    if not isinstance(found, type):
        raise SchemaRefPolicyError(ref, f"it names an object of type {type(found).__name__}, not a class")
    return found


def resolve_model(ref: str, *, policy: SchemaRefPolicy = DEFAULT_REF_POLICY) -> type[BaseModel]:
    """The Pydantic model that a reference names; see `resolve_class`.

    Raises:
        SchemaRefPolicyError: As for `resolve_class`, and when the class is no Pydantic model.
    """
    found = resolve_class(ref, policy=policy)
    if not issubclass(found, BaseModel):
        raise SchemaRefPolicyError(
            ref, f"class '{found.__qualname__}' is no Pydantic model", fix="derive it from BaseModel"
        )
    return found


def error_ref(name: str) -> str:
    """The reference that an entry of `retryable_errors` stands for: a bare name is one of Python's own.

    >>> error_ref("OSError"), error_ref("shop.errors:Busy")
    ('builtins:OSError', 'shop.errors:Busy')
    """
    return name if ":" in name else f"builtins:{name}"


def refusal_of_error(name: str, policy: SchemaRefPolicy) -> str | None:
    """Why an entry of `retryable_errors` is refused, as a clause; None when it is permitted. Imports nothing.

    Exception classes of Python and of chainweaver are permitted by every policy.
    """
    module, _, qualname = error_ref(name).partition(":")
    if module in _HARMLESS and _is_error(getattr(sys.modules.get(module), qualname, None)):
        return None
    return policy.refusal(module, qualname)


def resolve_error(name: str, *, policy: SchemaRefPolicy = DEFAULT_REF_POLICY) -> type[BaseException]:
    """The exception class that an entry of `retryable_errors` names; see `resolve_class`.

    Raises:
        SchemaRefPolicyError: As for `resolve_class`, and when the class is no exception class.

    >>> resolve_error("OSError")
    <class 'OSError'>
    """
    permitted = DEFAULT_REF_POLICY if refusal_of_error(name, policy) is None else policy
    found = resolve_class(error_ref(name), policy=permitted)
    if not _is_error(found):
        raise SchemaRefPolicyError(name, "it is no exception class", fix="name a class such as 'builtins:OSError'")
    return found


def _is_error(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseException)


def _loaded(ref: str, module_name: str) -> Any:
    try:
        return sys.modules.get(module_name) or importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:
        # Whatever the module does while it loads is its own, be it a script that ends its process; the reader needs to
        # know which reference led there.
        detail = f"module '{module_name}' cannot be imported ({type(exc).__name__}: {exc})"
        raise SchemaRefPolicyError(ref, detail) from exc

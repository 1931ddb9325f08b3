"""The compiler: a definition and its tools become a frozen plan, and everything wrong with them is said at once.

Nothing runs here. `compile_flow` and `evaluate_predicate` are public; `PlanCache` keeps the executor's plans.
Predicates are loaded with the first branch.
"""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names
from chainweaver.compiler.build import compile_flow
from chainweaver.compiler.cache import PlanCache
from chainweaver.compiler.findings import CompilationError, CompilationResult, CompilationWarning
from chainweaver.compiler.identity import flow_digest

if TYPE_CHECKING:
    from chainweaver.compiler.predicates import evaluate_predicate

__all__ = [
    "CompilationError",
    "CompilationResult",
    "CompilationWarning",
    "PlanCache",
    "compile_flow",
    "evaluate_predicate",
    "flow_digest",
]

__getattr__ = lazy_names(globals(), {"chainweaver.compiler.predicates": ("evaluate_predicate",)})

"""The compiler: a definition and its tools become a frozen plan, and everything wrong with them is said at once.

Nothing runs here. `compile_flow` is public; `PlanCache` keeps the executor's plans.
"""

from chainweaver.compiler.build import compile_flow
from chainweaver.compiler.cache import PlanCache
from chainweaver.compiler.findings import CompilationError, CompilationResult, CompilationWarning
from chainweaver.compiler.identity import flow_digest
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

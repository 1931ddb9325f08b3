"""The compiler: a definition and its tools become a frozen plan, and everything wrong with them is said at once.

Nothing runs here. `compile_flow` is public; `PlanCache` keeps the executor's plans.
"""

from chainweaver.compiler.build import compile_flow, flow_digest
from chainweaver.compiler.cache import PlanCache
from chainweaver.compiler.findings import CompilationError, CompilationResult, CompilationWarning

__all__ = ["CompilationError", "CompilationResult", "CompilationWarning", "PlanCache", "compile_flow", "flow_digest"]

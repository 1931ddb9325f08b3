"""The settings of an executor, checked when it is made: a mistake does not wait for the first run.

Asks for what is used and not for classes, which would have to be imported. Called by the facade and by `plans`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainweaver.tools import Tool

ON_SHARED_MUTATION = ("ignore", "detect")
TRACE_VALUES = ("snapshot", "reference", "summary")
CALLBACKS = ("decision_callback", "approval_callback", "guardrail_callback", "capability_hook")
DEVICE_CACHES = ("never", "run_end", "pressure")
PLACEMENTS = ("spread", "compact")
OWN_LANES = ("inline", "thread", "process")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that no run could use.

    Raises:
        TypeError, ValueError: The message says what to pass instead.
    """
    check_count("max_step_concurrency", settings["max_step_concurrency"], 1)
    check_count("trace_copy_limit", settings["trace_copy_limit"], 0)
    check_lanes(settings["lanes"])
    check_lane(settings["lane"], settings["lanes"])
    if settings["process_workers"] is not None:
        check_count("process_workers", settings["process_workers"], 1)
    check_count("min_shared_bytes", settings["min_shared_bytes"], 1)
    if settings["placement"] not in (None, *PLACEMENTS):
        raise ValueError(f"placement has to be 'spread', 'compact' or None, not {settings['placement']!r}.")
    if settings["trace_values"] not in TRACE_VALUES:
        raise ValueError(
            f"trace_values has to be 'snapshot', 'reference' or 'summary', not {settings['trace_values']!r}."
        )
    if settings["device_caches"] not in DEVICE_CACHES:
        raise ValueError(
            f"device_caches has to be 'never', 'run_end' or 'pressure', not {settings['device_caches']!r}."
        )
    if settings["on_shared_mutation"] not in ON_SHARED_MUTATION:
        raise ValueError(f"on_shared_mutation has to be 'ignore' or 'detect', not {settings['on_shared_mutation']!r}.")
    check_has("checkpointer", settings["checkpointer"], ("save", "load", "delete"), "FileCheckpointer(path)")
    check_has("step_cache", settings["step_cache"], ("get", "set"), "InMemoryStepCache()")
    check_has("runtime", settings["runtime"], ("now_ns", "wall_time", "new_id"), "Runtime()")
    for one in settings["middleware"]:
        check_middleware(one)
    if settings["trace_recorder"] is not None:
        check_recorder(settings["trace_recorder"])
    check_has("redaction_policy", settings["redaction_policy"], ("redact_record",), "RedactionPolicy()")
    check_has("cost_profile", settings["cost_profile"], ("usd_of_tokens",), "CostProfile(model_call_usd=0.01)")
    if settings["schema_ref_policy"] is not None:
        from chainweaver.flow.ref_check import check_policy

        check_policy(settings["schema_ref_policy"])
    check_count("max_composition_depth", settings["max_composition_depth"], 1)
    for name in ("strict_safety", "delete_on_success", "strict_compile", "capture_output"):
        check_flag(name, settings[name])
    check_rules(settings)


def check_rules(settings: Mapping[str, Any]) -> None:
    """Refuse callbacks that nobody can call, and limits that have no meaning."""
    given = [name for name in ("max_side_effect_level", *CALLBACKS) if settings[name] is not None]
    if given:
        from chainweaver.executor.rules import callback_of, level_of

        level_of(settings["max_side_effect_level"])
        for name in CALLBACKS:
            callback_of(name, settings[name])
    policy = settings["decision_policy"]
    if policy is not None and not hasattr(policy, "timeout_seconds"):
        raise TypeError(f"decision_policy has to be a DecisionPolicy, not {named(policy)}.")


def check_count(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or too small a one."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} has to be a whole number, not {named(value)}.")
    if value < least:
        raise ValueError(f"{name} has to be at least {least}, not {value}.")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false: a text such as "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} has to be True or False, not {named(value)}.")


def check_lanes(lanes: object) -> None:
    """Refuse lanes that cannot be told from ours, or that nothing can be submitted to."""
    if not isinstance(lanes, Mapping):
        raise TypeError(f"lanes has to be a mapping of names to lanes, not {named(lanes)}.")
    for name, lane in lanes.items():
        if name in OWN_LANES:
            raise ValueError(f"lane '{name}' is one of ours; give the one in lanes= another name.")
        check_has(f"lane '{name}'", lane, ("submit",), "ThreadPoolExecutor()")


def check_lane(lane: object, lanes: Collection[str]) -> None:
    """Refuse a default lane that an executor does not have."""
    if lane is not None and lane not in (*OWN_LANES, *lanes):
        raise ValueError(f"lane '{lane}' is unknown; use 'inline', 'thread', 'process' or a name from lanes=.")


def check_middleware(middleware: object) -> None:
    """Refuse what cannot watch anything: it has no hook, or only one that is misspelt."""
    _check_watches("middleware has to be objects that watch runs", middleware)


def check_recorder(recorder: object) -> None:
    """Refuse what would keep no result; a store is easily taken for what fills it."""
    hint = "; a store gets its results from TraceRecorder(store)" if hasattr(recorder, "save") else ""
    _check_watches("trace_recorder has to be an object that watches runs", recorder, hint)


def _check_watches(what: str, value: object, hint: str = "") -> None:
    from chainweaver.exceptions import suggest
    from chainweaver.observe.middleware import HOOKS, Listeners

    if value is None or isinstance(value, (type, str)):
        raise TypeError(f"{what}, not {named(value)}{hint}.")
    hooks = (*HOOKS, "around_step", "around_run")
    if Listeners((value,)) or any(hasattr(value, hook) for hook in hooks if hook not in HOOKS):
        return
    methods = [name for name in dir(value) if name.startswith(("on_", "around_")) and name not in hooks]
    meant = {name: suggest(name, hooks) for name in methods}
    misspelt = "".join(f"; '{name}' may stand for '{hook}'" for name, hook in meant.items() if hook)
    # Hooks that do nothing, which a view leaves out, are taken as they are, unless a method shows what was meant.
    kinds = (value, getattr(value, "stands_for", None))
    if not misspelt and any(hasattr(one, hook) for one in kinds for hook in hooks):
        return
    if not methods:
        raise TypeError(f"{what}, not {named(value)}{hint}.")
    raise TypeError(
        f"{what}, and {named(value)} has none of the hooks {', '.join(hooks[:-1])} and {hooks[-1]}{misspelt}."
    )


def check_has(what: str, value: object, methods: tuple[str, ...], example: str) -> None:
    """Refuse an object that lacks the methods which it is there for; None is none at all."""
    if value is not None and (isinstance(value, type) or not all(hasattr(value, name) for name in methods)):
        listed = " and ".join((", ".join(methods[:-1]), methods[-1])) if len(methods) > 1 else methods[0]
        raise TypeError(f"{what} has to be an object with {listed}, not {named(value)}; for instance {example}.")


def listed(what: str, values: Iterable[Any] | None, single: str) -> tuple[Any, ...]:
    """The values as a tuple, unless one stands where many belong.

    Args:
        single: An attribute that one of them has and a collection of them has not.
    """
    if values is None:
        return ()
    if hasattr(values, single) or isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{what} has to be a list, not {named(values)}.")
    return tuple(values)


def check_tool(tool: Tool) -> Tool:
    """The tool itself, when it is one."""
    if not isinstance(getattr(tool, "name", None), str) or not hasattr(tool, "input_schema"):
        raise TypeError(f"An executor takes tools, not {tool!r}; put @tool above the function, or make a Tool of it.")
    return tool


def named(value: object) -> str:
    """A value in a message about its kind: short texts themselves, which are often a misplaced argument.

    >>> named("soon"), named(object()), named(3), named(None), named(int)
    ("'soon'", 'an object', 'an int', 'None', 'the class int')
    """
    if value is None or (isinstance(value, str) and len(value) <= 40):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    return f"an {kind}" if kind[:1] in "AEIOUaeiou" else f"a {kind}"

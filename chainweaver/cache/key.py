"""What a step cache is: the key of a step, and the protocol that every store follows.

Called by the executor, which makes one key per look-up, and by everybody who writes a store.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable


class StepCacheKey(NamedTuple):
    """Names the outputs of one tool for one set of inputs. Hashable and immutable.

    Attributes:
        tool_name: Name of the tool.
        schema_hash: Fingerprint of the tool: its schemas and the version that its author gave it.
        input_value_hash: Fingerprint of the validated inputs.

    >>> StepCacheKey("add", "0f3a", "77c1").digest
    'add|0f3a|77c1'
    """

    # A named tuple costs 180 ns to make and is hashed by C code; a frozen dataclass costs 500 ns and more.
    tool_name: str
    schema_hash: str
    input_value_hash: str

    @property
    def digest(self) -> str:
        """The three parts in one text, for stores whose keys are texts."""
        return "|".join(self)


class Uncacheable(Exception):
    """A store cannot keep these outputs, or could not hand out independent copies of them.

    Attributes:
        reason: Which value and why, in one sentence without the final period.

    >>> str(Uncacheable("value 'job' of type 'Lock' cannot be copied"))
    "value 'job' of type 'Lock' cannot be copied"
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@runtime_checkable
class StepCache(Protocol):
    """Where the outputs of steps are kept for the next run with the same inputs.

    A store is called from many threads at once. What `get` returns belongs to the caller: changing it must not change
    the next hit. A store whose entries leave the process sets `wants_plain = True` and is given values that were made
    plain by `chainweaver.objects.bind_reduce`; the executor restores their types after a hit. Objects whose type nobody
    declares, arrays and frames among them, come as they are: `chainweaver.objects.pack` tells which have bytes. A store
    that hands out copies of the very objects it was given sets `keeps_objects = True` and is spared all that.

    >>> class Forgetful:
    ...     def get(self, key): return None
    ...     def set(self, key, output): pass
    ...     def clear(self): pass
    >>> isinstance(Forgetful(), StepCache)
    True
    """

    def get(self, key: StepCacheKey) -> dict[str, Any] | None:
        """The outputs kept under this key, or None for a miss."""
        ...

    def set(self, key: StepCacheKey, output: dict[str, Any]) -> None:
        """Keep the outputs under this key; an older entry is replaced.

        Raises:
            Uncacheable: The store cannot keep them. The run goes on and its record tells the reason.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

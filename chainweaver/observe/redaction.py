"""What views of a run do not show: the policy, as plain data, and the functions that apply it.

A view is a record, a result, an error text, a log line or a drawing. Values that flows work with, checkpoints and
caches are never touched: they need the real thing. All functions are pure, change nothing in place, give the same when
they are applied twice, and raise for no value whatever it is.

Called by the executor, by trace recorders and by whoever shows a run to somebody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from chainweaver.exceptions import ChainWeaverError
from chainweaver.observe.hiding import Rules, Walk
from chainweaver.observe.secret_texts import TOKEN_PATTERNS, without_tokens

if TYPE_CHECKING:
    from chainweaver.results import ExecutionResult, StepRecord

SECRET_KEYS: tuple[str, ...] = (
    *("*password*", "passwd", "*_passwd", "pwd", "*_pwd", "*passphrase"),
    *("secret", "secrets", "*secret", "secret_*"),
    *("*token", "jwt", "bearer"),
    *("*api_key", "*apikey", "*access_key", "*accesskey", "*private_key", "*privatekey"),
    *("auth", "*authorization", "cookie", "set_cookie", "credential", "credentials", "*_credentials"),
)
"""Names under which values are hidden unless a policy says otherwise."""

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class RedactionPolicy:
    """What views of a run hide, and what they show instead.

    What was hidden in one place vanishes from the texts of all the others: a password that an error message repeats, a
    token that a later step gets as part of a header. Values of at least four characters are looked for, those of less
    than eight as whole words only.

    Args:
        keys: Names of hidden values: exact, or with `*`, `?` and `[...]`. Case does not count, `apiKey` and `Api-Key`
            match `api_key`. They hold at any depth, for keys, fields, aliases, and for `name=value` inside texts.
        paths: Hidden places, as RFC 6901 pointers into inputs, outputs and contexts, such as `"/user/ssn"`; `*` stands
            for any one key or index: `"/orders/*/card"`.
        patterns: Regular expressions of what is hidden inside texts; of a match, only the group named `secret` where
            there is one. The default finds bearer tokens, passwords in URLs and keys of well-known services.
        types: Classes whose instances are hidden; those of `SecretStr`, `SecretBytes` and `Secret` always are.
        replacement: What is shown instead. None stays None.

    Raises:
        ValueError: A key, path or pattern is malformed, or the replacement is empty or holds what a pattern finds.

    >>> policy = RedactionPolicy(paths=["/user/ssn"])
    >>> policy.redact_mapping({"user": {"name": "Ada", "ssn": "078-05-1120"}, "api_key": "k-1", "n": 3})
    {'user': {'name': 'Ada', 'ssn': '***'}, 'api_key': '***', 'n': 3}
    >>> policy.redact_text("login failed: password=hunter2")
    'login failed: password=***'
    """

    keys: Collection[str] = SECRET_KEYS
    paths: Collection[str] = ()
    patterns: Collection[str | re.Pattern[str]] = TOKEN_PATTERNS
    types: Collection[type] = ()
    replacement: str = "***"
    _rules: Rules = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("keys", "paths", "patterns", "types"):
            object.__setattr__(self, name, _collected(name, getattr(self, name)))
        if not isinstance(self.replacement, str) or not self.replacement:
            raise ValueError(f"replacement has to be a text that is not empty, not {self.replacement!r}.")
        patterns = tuple(map(_compiled, self.patterns))
        if without_tokens(self.replacement, patterns, self.replacement, note=str) != self.replacement:
            raise ValueError(f"replacement {self.replacement!r} holds what one of the patterns hides.")
        if not all(isinstance(kind, type) for kind in self.types):
            raise ValueError(f"types have to be classes, not {self.types!r}.")
        paths = tuple(map(_tokens, self.paths))
        rules = Rules(tuple(map(_key, self.keys)), paths, patterns, tuple(self.types), self.replacement)
        object.__setattr__(self, "_rules", rules)

    def redact_value(self, name: str, value: Any, secrets: Iterable[str] = ()) -> Any:
        """What is shown of a value under a name; the value itself where nothing of it is hidden.

        Args:
            secrets: Texts that were hidden elsewhere, see `secrets_in`. They vanish from texts.

        >>> RedactionPolicy().redact_value("header", {"Authorization": "x"})
        {'Authorization': '***'}
        """
        return self._twice(lambda walk: walk.named(name, value), secrets)

    def redact_mapping(self, values: Mapping[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
        """What is shown of inputs, outputs or a context.

        Copies what changes and nothing else: objects of foreign types, such as arrays, are the same objects. Models and
        dataclasses with something hidden become dicts of their fields.

        Args:
            secrets: Texts that were hidden elsewhere, see `secrets_in`. They vanish from texts.
        """
        try:
            own = values if isinstance(values, dict) else dict(values)
        except Exception:  # of a foreign mapping
            return {}
        shown = self._twice(lambda walk: walk.mapping(own), secrets)
        return shown if isinstance(shown, dict) else {}

    def redact_text(self, text: str, secrets: Iterable[str] = ()) -> str:
        """What is shown of a text, such as an error message.

        Args:
            secrets: Texts that were hidden elsewhere, see `secrets_in`. They vanish, also where they are escaped,
                quoted for a URL, or shortened by "...".
        """
        return self._twice(lambda walk: walk.text(text), secrets) if isinstance(text, str) else text

    def redact_record(self, record: StepRecord, secrets: Iterable[str] = ()) -> StepRecord:
        """The record as it is shown; the very same one where nothing of it is hidden.

        Args:
            secrets: Texts that were hidden in earlier records, see `secrets_in`. They vanish from texts.
        """
        return self._twice(lambda walk: walk.record(record), secrets)

    def redact_log(self, records: list[StepRecord], secrets: Iterable[str] = ()) -> list[StepRecord]:
        """The records of a run as they are shown; a secret of one of them vanishes from the texts of all.

        Args:
            secrets: Texts that were hidden elsewhere, such as in the input of the run, see `secrets_in`.
        """
        return self._twice(lambda walk: [walk.record(record) for record in records], secrets)

    def redact_result(self, result: ExecutionResult, secrets: Iterable[str] = ()) -> ExecutionResult:
        """The result as it is shown, with its records and nested results; the very same one where nothing is hidden.

        A result that was changed raises its recorded error from `raise_for_failure`, without the original exception.

        Args:
            secrets: Texts that were hidden elsewhere, see `secrets_in`. They vanish from texts.
        """
        from chainweaver.results import hidden_in

        at_hand = {secrets} if isinstance(secrets, str) else {*secrets}
        return self._twice(lambda walk: walk.result(result), at_hand | hidden_in(result))

    def redact_error(self, error: Exception, secrets: Iterable[str] = ()) -> ChainWeaverError:
        """An error of the same class whose facts are redacted, without its cause; for observers, not to be raised.

        An exception that is none of ours comes out as a ChainWeaverError with its class and its text.
        """
        return self._twice(lambda walk: _shown_error(walk, error), secrets)

    def secrets_in(self, values: Mapping[str, Any] | StepRecord | ExecutionResult) -> frozenset[str]:
        """The texts that are hidden in inputs, outputs, a record or a result, for the `secrets` of later calls.

        >>> sorted(RedactionPolicy().secrets_in({"login": {"token": "t-1234", "user": "ada"}}))
        ['t-1234']
        """
        walk = Walk(self._rules, self._rules.literals(()))
        if isinstance(values, Mapping):
            walk.mapping(values)
            return frozenset(walk.met)
        walk.top(values)
        from chainweaver.results import ExecutionResult, hidden_in

        return frozenset(walk.met | hidden_in(values)) if isinstance(values, ExecutionResult) else frozenset(walk.met)

    def _twice(self, view: Callable[[Walk], Seen], secrets: Iterable[str]) -> Seen:
        """The view without what is hidden, and then without what was hidden in it from all of its texts."""
        at_hand = {one for one in ([secrets] if isinstance(secrets, str) else secrets) if isinstance(one, str)}
        first = Walk(self._rules, self._rules.literals(at_hand))
        shown = view(first)
        if first.met <= at_hand:
            return shown
        return view(Walk(self._rules, self._rules.literals(at_hand | first.met)))


def _collected(name: str, given: Any) -> tuple[Any, ...]:
    # A text is a collection of letters, which nobody means.
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise ValueError(f"{name} has to be a collection such as [{given!r}], not {given!r}.")
    return tuple(given)


def _key(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise ValueError(f"keys have to be texts that are not empty, not {key!r}.")
    return key


def _compiled(pattern: Any) -> re.Pattern[str]:
    try:
        compiled: re.Pattern[str] = re.compile(pattern)
    except (re.error, TypeError) as exc:
        raise ValueError(f"{pattern!r} is no regular expression: {exc}.") from exc
    if not isinstance(compiled.pattern, str):
        raise ValueError(f"{pattern!r} is a pattern for bytes; patterns are for texts.")
    return compiled


def _tokens(path: Any) -> tuple[str, ...]:
    if not isinstance(path, str) or not path.startswith("/") or re.search("~(?![01])", path):
        raise ValueError(f"{path!r} is no pointer such as '/user/ssn', with '~1' for '/' and '~0' for '~' in a key.")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in path[1:].split("/"))


def _shown_error(walk: Walk, error: Exception) -> ChainWeaverError:
    try:
        twin = copy(error)
        if isinstance(twin, ChainWeaverError):
            for name, value in tuple(vars(twin).items()):
                setattr(twin, name, walk.top(value))
            twin.args = walk.top(twin.args)
            return twin
        text = str(error)
    except Exception:  # a foreign class, constructor or __str__
        return ChainWeaverError(type(error).__name__)
    return ChainWeaverError(f"{type(error).__name__}: {walk.text(text)}" if text else type(error).__name__)

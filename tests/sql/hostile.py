"""What somebody with write access to a store could put into it: pickles, class names, constructors, bombs and nonsense.

A corpus for tests. `marked` says whether any of it was run: every payload that could run makes a file.
"""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

MARKER = Path(tempfile.gettempdir()) / "chainweaver-hostile-marker"
"""Made by whatever runs."""

_COMMAND = f"touch {MARKER}"
_NAME = "ab" * 20


class _Runs:
    """Makes the marker when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (str(MARKER), "w")


def marked() -> bool:
    """Whether something ran since this was asked last."""
    found = MARKER.exists()
    MARKER.unlink(missing_ok=True)
    return found


PICKLES: list[bytes] = [pickle.dumps(_Runs(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
PICKLES.append(f"cos\nsystem\n(S'{_COMMAND}'\ntR.".encode())

_CONSTRUCTORS: list[Any] = [
    {"__class__": "os.system", "args": [_COMMAND]},
    {"__reduce__": ["os.system", [_COMMAND]]},
    {"__type__": "subprocess.Popen", "args": ["touch", str(MARKER)]},
    {"py/object": "subprocess.Popen", "py/newargs": [["touch", str(MARKER)]]},
    {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [_COMMAND]}]},
    {"py/type": "os.system"},
    {"$type": "System.Diagnostics.Process", "$values": ["touch", str(MARKER)]},
    {"$class": "os.system"},
    {"$py": f"__import__('os').system('{_COMMAND}')"},
    {"$ref": "builtins:eval"},
    {"model": "tests.sql.hostile:_Runs"},
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": _COMMAND}},
    {"!!python/object/apply:os.system": [_COMMAND]},
    {"__import__": "tests.sql.hostile"},
    {"constructor": {"prototype": {"run": _COMMAND}}, "__proto__": {"run": 1}},
    {"input_schema_ref": "subprocess:Popen", "output_schema_ref": "os:system"},
]

_TAGGED: list[Any] = [
    {"$": 1}, {"$nothing": 1}, {"$t": 5}, {"$t": None}, {"$t": {"a": 1}}, {"$S": [[1]]}, {"$F": [{"a": 1}]},
    {"$d": [1]}, {"$d": "ab"}, {"$d": [[[], 1]]}, {"$q": 5}, {"$q": [[1], -1]}, {"$q": [[1], 10**30]}, {"$O": [1, 2]},
    {"$B": 10**9}, {"$B": "text"}, {"$B": [1, 256]}, {"$b": "not base64!"}, {"$b": 5}, {"$i": "zz"}, {"$i": 5},
    {"$f": "one"}, {"$f": []}, {"$s": "ed"}, {"$s": "ff"}, {"$D": ["2024-99-99"]}, {"$D": None},
    {"$D": ["x", {"a": 1}]},
    {"$D": ["2024-05-01T00:00:00", ["Etc/../../passwd"]]}, {"$T": [5]}, {"$Y": "yesterday"}, {"$L": [10**20, 0, 0]},
    {"$L": [1]}, {"$n": "one"}, {"$n": {"a": 1}}, {"$u": "zz"}, {"$c": ["x"]}, {"$c": [1, 2, 3]},
    {"$p": ["Popen", "x"]},
    {"$p": 5}, {"$m": []}, {"$m": [1, 2, 3]}, {"$m": ["os", "system"]}, {"$o": [0, 10**12]}, {"$o": [-5, 5]},
    {"$o": ["a", "b"]}, {"$o": 5}, {"$o": [0]}, {"$t": [1], "other": 1}, {"$a": []}, {"$a": 5},
    {"$a": ["pickle", None, [10**9]]}, {"$a": ["pickle", None, []]}, {"$a": ["os.system", _NAME, [5]]},
    {"$a": ["numpy.array", _NAME, [-1, 5]]}, {"$a": ["bytes", _NAME, [10**15]]},
    {"$a": ["bytes", "../../etc/passwd", [5]]},
    {"$a": ["bytes", 5, [5]]}, {"$a": ["pandas.frame", None, [{"$b": ""}]]}, {"$a": [{"a": 1}, None, ["x"]]},
    {"$a": ["pandas", None, [{"$b": "gASVHwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"}]]},
]  # fmt: skip


def _deep(opening: str, closing: str, times: int, inner: str = "") -> str:
    return opening * times + inner + closing * times


TEXTS: list[str] = [
    *(json.dumps(value) for value in _CONSTRUCTORS),
    # As a value of a mapping that is fine otherwise, which is where a reader comes to it.
    *(json.dumps({"n": value}) for value in _TAGGED),
    *(json.dumps({"initial_input": value, "started_at": value}) for value in _TAGGED[:6]),
    json.dumps({"n": "\ud800"}), json.dumps({"\udfff": 1}), '"\\ud800"', "\\ud800",
    '{"n": ' + "9" * 5_000 + "}", '{"n": 1e999}', '{"n": -1e999}', '{"n": NaN}', '{"n": Infinity}', '{"n": 0x10}',
    json.dumps({"$i": "f" * 20_000}), '{"n": 1, "n": 2}',
    _deep("[", "]", 20_000), _deep('{"a":', "}", 20_000, "1"), _deep('{"$t":[', "]}", 20_000), _deep("[", "", 20_000),
    _deep('{"$m":[1,', "]}", 20_000, "1"), "[" + "[]," * 20_000 + "[]]", '{"n": "' + "x" * 200_000 + '"}',
    "", " ", "null", "true", "5", "-1", '"text"', "[]", "{}", "[1, 2]", "{", "}", '{"n"', '{"n": }', "\0", "a\0b",
    '{"attempts": "many"}', '{"attempts": -1}', '{"attempts": 1e99}', '{"retry_errors": 5}', '{"retry_errors": [5]}',
    '{"error": 5}', '{"error": ["E"]}', '{"error": [1, 2, 3, 4]}', '{"inside": 5}', '{"inside": [5]}',
    '{"inside": [{"step_index": "x"}]}', '{"inside": [{"inside": []}]}', '{"decision": 5}',
    '{"decision": {"taken": []}}',
    '{"decision": {"taken": "nobody"}}', '{"decision": {"chosen": {"a": 1}}}', '{"approval": []}', '{"cached": "yes"}',
    '{"fallback_tool_name": 5}', '{"fallback_tool_name": "os.system"}', '{"path": ["a"]}', '{"unknown": 1}',
    '["a"]', '["a#2"]', '["a#x"]', '["a", 5]', '["s0#-1"]', '[[]]', '["\\ud800"]', "ok", "running", "failed", "OK",
    "../../etc/passwd", "x'; drop table chainweaver_runs; --", "%s%n", "os.system", "double", "s1", "chain", "1.0.0",
    "__main__", "\x1b[2J",
]  # fmt: skip

OTHERS: list[Any] = [
    *PICKLES, b"", b"\xff\xfe\xfd", b"\x80abc", bytes(1_000_000), b"{}", 0, 1, -1, 2**62, -(2**63), 2**63 - 1,
    0.5, -0.0, 1e308,
    float("inf"), float("-inf"), 9e18,
]  # fmt: skip
"""Values of types that a column was not made for."""

BLOBS: list[Any] = [*TEXTS, *OTHERS]
"""All of them."""

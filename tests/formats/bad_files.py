"""Hand-made files that no reader should accept, each with what its message has to say.

Used by the tests of this folder only.
"""

from __future__ import annotations

from typing import NamedTuple

FIVE_MIB = 5 * 1024 * 1024
HEAD = "type: Flow\nname: bad\ndescription: ''\n"


class BadFile(NamedTuple):
    """A file by suffix and content, the place that its message names, and a piece of what it says."""

    suffix: str
    data: str | bytes
    place: str
    says: str


def _step(text: str) -> str:
    return f"{HEAD}steps:\n  - {text}\n"


def _json(fields: str) -> str:
    return '{"type": "Flow", "name": "bad", "description": "", ' + fields + "}"


BAD_FILES: dict[str, BadFile] = {
    # JSON: the text
    "empty JSON": BadFile("json", "", "line 1, column 1", "ends where a value should stand"),
    "cut JSON": BadFile("json", '{"type": "Flow"', "line 1, column 16", "begins at line 1, column 1"),
    "JSON trailing comma": BadFile("json", '{"a": 1,\n}', "line 2, column 1", "remove the comma"),
    "JSON comment": BadFile("json", "{} // flow", "line 1, column 4", "after the end"),
    "JSON single quotes": BadFile("json", "{'a': 1}", "line 1, column 2", "double quotes"),
    "JSON bare key": BadFile("json", "{a: 1}", "line 1, column 2", "a key in double quotes"),
    "JSON missing colon": BadFile("json", '{"a" 1}', "line 1, column 6", "':'"),
    "JSON missing comma": BadFile("json", "[1 2]", "line 1, column 4", "',' or ']'"),
    "two JSON values": BadFile("json", "{}\n{}", "line 2, column 1", "one JSON value per file"),
    "JSON duplicate key": BadFile("json", '{"a": 1,\n "a": 2}', "line 2, column 2", "line 1, column 7"),
    "JSON key that escapes to a duplicate": BadFile(
        "json", '{"a": 1, "\\u0061": 2}', "line 1, column 10", "stands twice"
    ),
    "NaN": BadFile("json", '{"a": NaN}', "line 1, column 7", "'NaN' is no JSON value"),
    "Infinity": BadFile("json", "[-Infinity]", "line 1, column 2", "'-Infinity' is no JSON value"),
    "1e400": BadFile("json", "[1e400]", "line 1, column 2", "does not fit a 64-bit float"),
    "Python literals": BadFile("json", "[True]", "line 1, column 2", "write true"),
    "5000 digits": BadFile("json", "[" + "9" * 5000 + "]", "line 1, column 2", "more than 640 digits"),
    "leading zero": BadFile("json", "[010]", "line 1, column 2", "'010' is not a JSON number"),
    "hex number": BadFile("json", "[0x1F]", "line 1, column 2", "'0x1F' is not a JSON number"),
    "lone surrogate": BadFile("json", '["\\ud800"]', "line 1, column 2", "half of a surrogate pair"),
    "raw lone surrogate": BadFile("json", '["\ud800"]', "line 1, column 3", "half of a surrogate pair"),
    "raw newline in a string": BadFile("json", '["a\nb"]', "line 1, column 4", "control character '\\n'"),
    "unknown escape": BadFile("json", '["\\x41"]', "line 1, column 3", "unknown escape"),
    "open string": BadFile("json", '["abc', "line 1, column 2", "not closed"),
    "NUL": BadFile("json", "{}\x00", "line 1, column 3", "NUL"),
    "byte order mark": BadFile("json", "\ufeff{}", "line 1, column 1", "UTF-8 without BOM"),
    "UTF-16": BadFile("json", "{}".encode("utf-16"), "line 1, column 1", "UTF-16"),
    "Latin-1": BadFile("json", '{"a":\n"\u00fc"}'.encode("latin-1"), "line 2, column 2", "not UTF-8"),
    "a million brackets": BadFile("json", "[" * 10**6, "line 1, column 65", "64 levels deep"),
    "a million objects": BadFile("json", '{"a":' * 10**6, "line 1, column 321", "64 levels deep"),
    "too many values": BadFile("json", "[" + "0," * (FIVE_MIB // 2 - 2), "line 1, column 200000", "100000 values"),
    "long string": BadFile("json", '["' + "a" * 200_000 + '"]', "line 1, column 2", "longer than 100000 characters"),
    "long string of escapes": BadFile("json", '["' + "\\n" * 2_000_000 + '"]', "line 1, column 2", "longer than"),
    "too large": BadFile("json", " " * (FIVE_MIB + 1), "bad.flow.json", "larger than 5242880 bytes"),
    # YAML: the text
    "empty YAML": BadFile("yaml", "# nothing\n", "line 1, column 1", "no document"),
    "YAML duplicate key": BadFile("yaml", "a: 1\nb: 2\na: 3\n", "line 3, column 1", "line 1, column 4"),
    "octal": BadFile("yaml", _step("{tool_name: t, timeout_seconds: 010}"), "line 5, column 37", "in quotes"),
    "underscored number": BadFile("yaml", "a: 1_000", "line 1, column 4", "different versions of YAML"),
    "hex": BadFile("yaml", "a: 0x1F", "line 1, column 4", "different versions of YAML"),
    ".inf": BadFile("yaml", "a: .inf", "line 1, column 4", "not a number that JSON can carry"),
    "huge YAML float": BadFile("yaml", "a: 1e400", "line 1, column 4", "does not fit"),
    "huge YAML integer": BadFile("yaml", "a: " + "9" * 5000, "line 1, column 4", "more than 640 digits"),
    "unsafe tag": BadFile("yaml", "a: !!python/object/apply:os.system [x]", "line 1, column 4", "tag"),
    "harmless tag": BadFile("yaml", "a: !!str 1", "line 1, column 4", "tag"),
    "anchor": BadFile("yaml", "a: &x 1\nb: *x", "line 1, column 4", "anchor '&x'"),
    "cyclic alias": BadFile("yaml", "a: &x [*x]", "line 1, column 4", "anchor"),
    "alias alone": BadFile("yaml", "a: *x", "line 1, column 4", "alias '*x'"),
    "laughing aliases": BadFile("yaml", "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "line 1, column 4", "anchor"),
    "merge key": BadFile("yaml", "<<: {a: 1}", "line 1, column 1", "merge keys"),
    "two documents": BadFile("yaml", "a: 1\n---\nb: 2\n", "line 2, column 1", "a second document"),
    "directive": BadFile("yaml", "# c\n%YAML 1.1\n---\na: 1", "line 2, column 1", "directives"),
    "number as key": BadFile("yaml", "1: a", "line 1, column 1", "in quotes"),
    "truth value as key": BadFile("yaml", "true: a", "line 1, column 1", "not text"),
    "list as key": BadFile("yaml", "? [a]\n: b", "line 1, column 3", "where a key should stand"),
    "tab": BadFile("yaml", "a:\n\tb: 1", "line 2, column 1", "not tabs"),
    "open YAML list": BadFile("yaml", "a: [1,\n", "line 2, column 1", "expected"),
    "colon in a value": BadFile("yaml", "a: b: c", "line 1, column 5", "mapping values"),
    "YAML bell": BadFile("yaml", "a: \x07", "line 1, column 4", "control character '\\x07'"),
    "YAML surrogate": BadFile("yaml", 'a: "\\ud800"', "line 1, column", "a"),
    "a million YAML brackets": BadFile("yaml", "[" * 10**6, "line 1, column 65", "64 levels deep"),
    "a million YAML braces": BadFile("yaml", "{a: " * 10**6, "line 1, column 257", "64 levels deep"),
    "a million dashes": BadFile("yaml", "- " * 10**6, "line 1, column 129", "64 levels deep"),
    "a million question marks": BadFile("yaml", "? " * 10**6, "line 1, column 3", "where a key should stand"),
    "too many YAML values": BadFile("yaml", "- a\n" * (FIVE_MIB // 4), "line 100000, column 3", "100000 values"),
    "an endless scalar": BadFile("yaml", "a: " + "x " * (FIVE_MIB // 2 - 4), "line 1, column 4", "longer than"),
    "five MiB of line breaks": BadFile("yaml", "\n" * FIVE_MIB, "line 1, column 1", "no document"),
    # what the text says
    "a list": BadFile("yaml", "[]", "at the top level", "expected a mapping that describes a flow, not a list"),
    "no type": BadFile("yaml", "name: a", "at the top level", "discriminator 'type' is missing"),
    "unknown type": BadFile("yaml", "type: Dagflow", "/type", "did you mean 'DAGFlow'?"),
    "later format": BadFile("yaml", HEAD + 'format_version: "2"\nsteps: []', "/format_version", "not known"),
    "format as number": BadFile(
        "yaml", HEAD + "format_version: 1\nsteps: []", "/format_version", 'format_version: "1"'
    ),
    "no steps": BadFile("yaml", HEAD, "at the top level", "key 'steps' is missing"),
    "unknown key": BadFile("yaml", HEAD + "steps: []\nnmae: x", "/nmae", "did you mean 'name'?"),
    "unknown step key": BadFile("yaml", _step("{tool_nam: t}"), "/steps/0/tool_nam", "did you mean 'tool_name'?"),
    "no as a flag": BadFile("yaml", HEAD + "steps: []\ndeterministic: no", "/deterministic", "write false"),
    "text as a number": BadFile(
        "json",
        _json('"steps": [{"tool_name": "t", "retry": {"max_retries": "3"}}]'),
        "/steps/0/retry/max_retries",
        "without quotes",
    ),
    "number as a version": BadFile("yaml", HEAD + "version: 1.10\nsteps: []", "/version", "in quotes"),
    "no version": BadFile("yaml", HEAD + "version: one\nsteps: []", "/version", "PEP 440"),
    "a version beyond numbers": BadFile("yaml", f"{HEAD}version: 1rc{'9' * 5000}\nsteps: []", "/version", "PEP 440"),
    "two targets": BadFile(
        "yaml", _step("{tool_name: t, flow_name: f}"), "/steps/0", "exactly one of 'tool_name' or 'flow_name'"
    ),
    "unknown retry key": BadFile(
        "yaml", _step("{tool_name: t, retry: {retries: 3}}"), "/steps/0/retry/retries", "did you mean 'max_retries'?"
    ),
    "step without an id": BadFile(
        "json",
        '{"type": "DAGFlow", "name": "b", "version": "1", "description": "", "steps": [{"tool_name": "t"}]}',
        "/steps/0",
        "key 'step_id' is missing",
    ),
    "unknown choice": BadFile("yaml", HEAD + "steps: []\nstatus: activ", "/status", "did you mean 'active'?"),
    "bad fallback": BadFile(
        "yaml", _step("{tool_name: t, on_error: fallback}"), "/steps/0/on_error", "fallback:<tool>"
    ),
    "zero timeout": BadFile(
        "yaml", _step("{tool_name: t, timeout_seconds: 0}"), "/steps/0/timeout_seconds", "greater than 0"
    ),
    "steps as a mapping": BadFile("yaml", HEAD + "steps: {a: 1}", "/steps", "expected a list, not a mapping"),
    "1001 steps": BadFile("json", _json('"steps": [' + ", ".join(["{}"] * 1001) + "]"), "/steps", "1001 steps"),
    "90000 unknown keys": BadFile(
        "json", _json(", ".join(f'"k{i}": 0' for i in range(90_000))), "/k0", "90001 problems"
    ),
    "right-to-left name": BadFile(
        "yaml", HEAD + 'steps: []\n"\u202egnp": 1', "/\\u202egnp", "unknown key '\\u202egnp'"
    ),
}

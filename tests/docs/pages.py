"""Pages as tests read them: fenced blocks, headings and links, and the runner of the blocks.

What the fences of a page mean:

    ```python              runs, in one namespace per page, in the order of the page
    ```text                right after a python or console block: what it prints. Elsewhere: a picture
    ```text numbers-vary   the same, where any number may stand for any other
    ```yaml file=x.yaml    is written to that file (any language); nothing runs
    ```console             `$ chainweaver ...` runs; the lines below a command are what it prints

A line of expected output that is `...` stands for any number of lines, `...` inside a line for any text.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its first line, 1-based."""

    language: str
    info: tuple[str, ...]
    body: str
    line: int
    follows: bool
    """Nothing but blank space stands between this block and the one before it."""

    @property
    def file(self) -> str | None:
        return next((word.removeprefix("file=") for word in self.info if word.startswith("file=")), None)


def blocks_of(text: str) -> list[Block]:
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        language, *info = match["info"].split() or [""]
        line = text.count("\n", 0, match.start("body")) + 1
        follows = bool(found) and not text[end : match.start()].strip()
        found.append(Block(language, tuple(info), match["body"], line, follows))
        end = match.end()
    return found


class Shown(NamedTuple):
    """What a page says that a block prints, and what the block did print."""

    line: int
    expected: str
    printed: str
    numbers_vary: bool


def run_page(page: Path, directory: Path) -> Iterator[Shown]:
    """Run the blocks of a page in a directory; yields what each prints beside what the page shows."""
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    module = ModuleType(f"page_{page.stem.replace('-', '_').lower()}")
    # Models and tools of a page are found again by the name of their module.
    sys.modules[module.__name__] = module
    try:
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            if block.file is not None:
                (directory / block.file).write_text(block.body, encoding="utf-8")
            elif block.language == "python":
                shown = after if after is not None and after.language == "text" and after.follows else None
                printed = run_python(block, page, module)
                expected, info = ("", ()) if shown is None else (shown.body, shown.info)
                yield Shown(block.line, expected, printed, "numbers-vary" in info)
            elif block.language == "console":
                yield from run_console(block)
    finally:
        del sys.modules[module.__name__]
        forget_modules_of(directory)


def forget_modules_of(directory: Path) -> None:
    """Drop what was imported from the files of a page, so that other tests find their own modules of these names."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(f"{directory}{os.sep}"):
            del sys.modules[name]


def run_python(block: Block, page: Path, module: ModuleType) -> str:
    # Empty lines before the code make the line numbers of tracebacks those of the page.
    source = "\n" * (block.line - 1) + block.body
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, str(page), "exec", dont_inherit=True), module.__dict__)
    return out.getvalue()


def run_console(block: Block) -> Iterator[Shown]:
    """Run the commands of a console block in this process."""
    for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        program, *arguments = shlex.split(command, comments=True)
        assert program == "chainweaver", f"line {block.line}: only `$ chainweaver ...` runs, not {program!r}"
        yield Shown(block.line, expected, run_command(arguments), "numbers-vary" in block.info)


def run_command(arguments: list[str]) -> str:
    """What a command prints, standard output before standard error, and its exit status when it is not 0."""
    from chainweaver.cli import main

    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments) or 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    ending = f"(exit {status})\n" if status else ""
    return out.getvalue() + err.getvalue() + ending


def is_as_shown(shown: Shown) -> bool:
    """Whether a block printed what its page shows."""
    expected, printed = (
        "\n".join(line.rstrip() for line in text.strip("\n").split("\n")) for text in (shown.expected, shown.printed)
    )
    if shown.numbers_vary:
        # Columns grow and shrink with the numbers in them.
        expected, printed = (re.sub(" +", " ", re.sub(r"\d+(?:[.,]\d+)*", "0", text)) for text in (expected, printed))
    pattern = ""
    for line in expected.split("\n"):
        pattern += r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
    return re.fullmatch(pattern, f"{printed}\n") is not None


def headings_of(text: str) -> set[str]:
    """The anchors of a page, as the usual viewers of Markdown make them."""
    plain = FENCE.sub("", text)
    titles = re.findall(r"^#+ (.*)$", plain, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return anchors | set(re.findall(r'<a id="([\w-]+)"', plain))


def links_of(text: str) -> list[str]:
    """Targets of the links of a page that lead to other pages or places of this project."""
    found = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
    return [link for link in found if not re.match(r"[a-z]+:", link)]

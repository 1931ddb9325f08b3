"""How a store is opened: what a URL may say, what is made and what is left alone, and who may open it.

What a server has beside that is tested in test_postgres.py, waiting for locks in test_faults.py.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chainweaver import ArtifactCorruptError, StoreUnavailableError, StoreVersionError
from chainweaver.sql import open_store
from chainweaver.sql.opening import Durability
from chainweaver.sql.schema import LATEST
from chainweaver.testing.conformance.checkpoints import a_run
from tests.sql.kit import url_of
from tests.sql.places import asked

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """New files may be read by everybody, unless somebody sees to it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def foreign(folder: Path) -> Path:
    """A database of another program."""
    path = folder / "foreign.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table theirs (n)")
    connection.close()
    return path


# ---- files


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
@pytest.mark.usefixtures("usual_umask")
def test_a_new_file_and_what_lies_beside_it_are_for_their_owner_alone(tmp_path: Path):
    """Stores: inputs and outputs of runs are nobody else's business, as with checkpoints in files."""
    with open_store(url_of(tmp_path / "chainweaver.db")) as store:
        store.runs.save(a_run("one"))
        modes = {path.name: mode(path) for path in tmp_path.iterdir()}

    assert modes == dict.fromkeys(("chainweaver.db", "chainweaver.db-wal", "chainweaver.db-shm"), 0o600)


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
@pytest.mark.usefixtures("usual_umask")
def test_a_new_file_behind_a_link_is_for_its_owner_alone(tmp_path: Path):
    """Stores: the file is where the link says, and has the mode of any other."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "there" / "chainweaver.db")
    open_store(url_of(tmp_path / "link.db")).close()

    assert mode(tmp_path / "there" / "chainweaver.db") == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["chainweaver.db", "link.db", "there"]


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
@pytest.mark.usefixtures("usual_umask")
def test_a_file_that_was_there_keeps_its_mode(tmp_path: Path):
    """Stores: who may read it was decided by whoever made it."""
    path = foreign(tmp_path)
    path.chmod(0o640)
    with open_store(url_of(path)) as store:
        store.runs.save(a_run("one"))

        assert [mode(one) for one in tmp_path.iterdir()] == [0o640] * 3


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stores: daemons go elsewhere after they have begun, and open their files again."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///rel.db")
    store.runs.save(a_run("one"))
    monkeypatch.chdir(tmp_path / "sub")
    store.close()

    assert [one.trace_id for one in store.runs.list_runs()] == ["one"]
    store.close()
    assert list((tmp_path / "sub").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="a directory in use cannot be removed")
def test_a_relative_path_from_a_directory_that_is_gone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stores: an absolute path is still possible."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StoreUnavailableError, match=r"No such file[^$]*use an absolute path"):
        open_store("sqlite:///rel.db")


def test_a_file_that_is_gone_is_not_made_again(tmp_path: Path):
    """Stores: an empty file in its place would have no tables."""
    path = tmp_path / "chainweaver.db"
    store = open_store(url_of(path))
    store.close()
    path.unlink()

    with pytest.raises(StoreUnavailableError, match="there is no such file"):
        store.runs.list_runs()
    assert not path.exists()


def test_what_was_in_memory_is_gone_when_it_is_closed(tmp_path: Path):
    """Stores: that is what a later call says."""
    store = open_store("sqlite://")
    store.close()

    with pytest.raises(StoreUnavailableError, match=r"what was in memory went[^$]*keep the store open"):
        store.runs.list_runs()


def test_durability_is_what_was_asked_for_also_after_closing(tmp_path: Path):
    """R31: "power" waits for the disk, which macOS has to be told twice."""
    of: list[tuple[Durability, tuple[int, int]]] = [("process", (1, 0)), ("power", (2, 1))]
    for durability, wanted in of:
        store = open_store(url_of(tmp_path / f"{durability}.db"), durability=durability)
        for _ in range(2):
            database = store._database
            settings = [database.rows(f"pragma {name}")[0][0] for name in ("synchronous", "fullfsync")]
            assert (*settings, database.rows("pragma journal_mode")) == (*wanted, [("wal",)])
            store.close()


# ---- what a call may say


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///q.db?timeout=5", "no parameters; a .* is written %3F"),
        ("sqlite://?mode=ro", "no parameters|three slashes"),
        ("sqlite:///a%00b.db", "zero character"),
        ("sqlite://host/a.db", "three slashes"),
        ("a.db", "begins with sqlite://"),
    ],
)
def test_a_url_that_means_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, told: str):
    """Stores: nothing is made under a name that nobody meant."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=told):
        open_store(url)
    assert list(tmp_path.iterdir()) == []


def test_marks_of_urls_in_the_name_of_a_file_are_possible(tmp_path: Path):
    """Stores: a ? is written %3F, and a # stands for itself."""
    with open_store(f"sqlite:///{tmp_path}/what%3F #1.db"):
        assert (tmp_path / "what? #1.db").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"url": None}, TypeError),
        ({"url": Path("a.db")}, TypeError),
        ({"lease_s": "3"}, TypeError),
        ({"patience_s": None}, TypeError),
        ({"lease_s": 0}, ValueError),
        ({"patience_s": float("nan")}, ValueError),
        ({"patience_s": 1e300}, ValueError),
        ({"durability": "both"}, ValueError),
    ],
)
def test_an_argument_that_means_nothing_is_named(arguments: dict[str, Any], error: type[Exception]):
    """Stores: the message says which, and what it has to be."""
    [name] = arguments
    with pytest.raises(error, match="URL" if name == "url" else f"{name} has to be"):
        open_store(**{"url": "sqlite://", **arguments})


# ---- what is made, and what is left alone


def test_a_database_of_another_program_becomes_a_store_as_well(tmp_path: Path):
    """Stores: its own tables stay what they are."""
    path = foreign(tmp_path)
    with open_store(url_of(path)) as store:
        store.runs.save(a_run("one"))
    assert asked(url_of(path), "select count(*) from theirs") == [(0,)]


def test_what_is_no_store_is_left_alone_unless_it_is_to_become_one(tmp_path: Path):
    """Stores: create=False looks and makes nothing, neither tables nor a file."""
    path = foreign(tmp_path)
    before = path.read_bytes()
    for url in (url_of(path), url_of(tmp_path / "none.db"), "sqlite://"):
        with pytest.raises(StoreUnavailableError, match=r"no tables of chainweaver|no such file"):
            open_store(url, create=False)

    assert [one.name for one in tmp_path.iterdir()] == ["foreign.db"]
    assert path.read_bytes() == before


def test_a_store_is_opened_whether_or_not_it_may_be_made(database_url: str):
    """Stores: create=False is for those who look."""
    with pytest.raises(StoreUnavailableError, match=r"no tables of chainweaver|no such file"):
        open_store(database_url, create=False)
    with open_store(database_url) as store:
        store.runs.save(a_run("one"))
    with open_store(database_url, create=False) as store:
        assert store.runs.list_trace_ids() == ["one"]
        store.runs.save(a_run("two"))


def test_a_store_is_opened_while_somebody_writes(tmp_path: Path):
    """Stores: tables that are up to date are read, and nobody is waited for."""
    path = tmp_path / "chainweaver.db"
    open_store(url_of(path)).close()
    writing = sqlite3.connect(path, isolation_level=None)
    writing.execute("begin immediate")
    with open_store(url_of(path), patience_s=0.05) as store:
        assert store.runs.list_runs() == []
    writing.close()


DAMAGES = [
    "update chainweaver_schema set version = null",
    "update chainweaver_schema set version = -1",
    "update chainweaver_schema set version = 0",
    "delete from chainweaver_schema",
    "insert into chainweaver_schema (one, version) values (2, 1)",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_tables_whose_version_cannot_be_told_are_damage(database_url: str, damage: str):
    """Stores: a typed error, and nothing is made over what is there."""
    with open_store(database_url) as store:
        store._database.run(damage)
    with pytest.raises(ArtifactCorruptError, match="chainweaver_schema"):
        open_store(database_url)


@pytest.mark.parametrize("version", ["'abc'", "1.5", "x'00'"])
def test_a_version_that_is_no_number_is_damage(tmp_path: Path, version: str):
    """Stores: columns of SQLite hold anything."""
    url = url_of(tmp_path / "chainweaver.db")
    with open_store(url) as store:
        store._database.run(f"update chainweaver_schema set version = {version}")
    with pytest.raises(ArtifactCorruptError, match="chainweaver_schema"):
        open_store(url)


def test_a_later_release_is_told_also_where_nothing_may_be_made(tmp_path: Path):
    """Stores: CW-E136, whoever looks."""
    url = url_of(tmp_path / "chainweaver.db")
    with open_store(url) as store:
        store._database.run("update chainweaver_schema set version = ?", (LATEST + 1,))
    with pytest.raises(StoreVersionError):
        open_store(url, create=False)


# ---- who may open it


def as_somebody(work: Callable[[], object]) -> str:
    """What becomes of work that is done by a user who may not write to everything."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            try:
                answer = repr(work())
            except Exception as exc:
                answer = f"{type(exc).__name__}: {exc}"
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        answer = said.read()
    os.waitpid(pid, 0)
    return " ".join(answer.split())


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A directory that everybody may look into."""
    with tempfile.TemporaryDirectory(prefix="chainweaver-shelf-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
        Path(name).chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_place_that_is_read_only_is_called_so(shelf: Path):
    """Stores: SQLite writes beside a file also when it reads it; the advice is another than for a missing directory."""
    path = shelf / "chainweaver.db"
    open_store(url_of(path)).close()
    path.chmod(0o444)
    shelf.chmod(0o555)
    told = as_somebody(lambda: open_store(url_of(shelf / "new.db"), patience_s=0.1))
    assert "unable to open database file, and its directory is read-only. fix let this user write there" in told
    told = as_somebody(lambda: open_store(url_of(path), patience_s=0.1).runs.list_runs())
    assert "StoreUnavailableError" in told
    assert "read-only" in told
    told = as_somebody(lambda: open_store(url_of(shelf / "none" / "new.db"), patience_s=0.1))
    assert "fix make the directory" in told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_file_that_this_user_may_only_read_says_what_is_missing(shelf: Path):
    """Stores: whoever may read looks while somebody has it open; writing is refused with advice."""
    path = shelf / "chainweaver.db"
    with open_store(url_of(path)) as store:
        store.runs.save(a_run("one"))
        for one in shelf.iterdir():
            one.chmod(0o444)
        shelf.chmod(0o555)

        def look() -> list[str]:
            return open_store(url_of(path), create=False).runs.list_trace_ids()

        assert as_somebody(look) == "['one']"
        told = as_somebody(lambda: open_store(url_of(path)).runs.save(a_run("two")))
        assert "readonly database. fix let this user write to the file and its directory" in told

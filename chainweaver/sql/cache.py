"""A step cache in a database, shared by processes and kept between runs.

Entries appear whole or not at all, and what cannot be read is a miss. Nothing that is read can run code. Called by the
executor from any thread.
"""

from __future__ import annotations

import zlib
from hashlib import blake2b
from typing import Any

from chainweaver.cache.key import StepCacheKey, Uncacheable
from chainweaver.objects.plain import PlainDecodeError, PlainEncodeError, decode_plain, encode_plain
from chainweaver.sql.database import Database, Session
from chainweaver.sql.rows import RowArtifacts, content_of
from chainweaver.sql.texts import text_of

__all__ = ["SqlStepCache"]


class SqlStepCache:
    """The step cache of a store.

    Values have to be plain or have a codec, as for `FileStepCache`. An entry that is damaged counts as a miss and is
    removed.
    """

    wants_plain = True

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: StepCacheKey) -> dict[str, Any] | None:
        """The outputs kept under this key, or None for a miss.

        Raises:
            StoreUnavailableError: The database does not answer.
        """
        digest = _digest(key)
        found = self._database.rows("select output, blobs, checksum from chainweaver_cache where digest = ?", (digest,))
        if not found:
            return None
        output, blobs, checksum = found[0]

        def read(name: str) -> bytes | None:
            content = self._database.rows(
                "select content from chainweaver_cache_artifacts where digest = ? and name = ?", (digest, name)
            )
            return content_of(content)

        try:
            if _checksum(key, output, blobs) != checksum:
                raise PlainDecodeError("its checksum does not match")
            return decode_plain(output, blobs or b"", RowArtifacts("a cache entry", read).fetch)
        except (PlainDecodeError, TypeError, AttributeError):
            self._database.atomically(lambda session: _remove(session, digest))
            return None

    def set(self, key: StepCacheKey, output: dict[str, Any]) -> None:
        """Keep the outputs under this key; an older entry is replaced.

        Raises:
            Uncacheable: A value is not plain and has no codec. Nothing is changed.
            StoreUnavailableError: The database does not answer.
        """
        artifacts = RowArtifacts("")
        parts: list[bytes] = []
        try:
            text = encode_plain(output, parts, artifacts.put_aside).decode()
        except PlainEncodeError as exc:
            raise Uncacheable(str(exc)) from exc
        digest, blobs = _digest(key), b"".join(parts) if parts else None

        def write(session: Session) -> None:
            _remove(session, digest)
            session.run(
                "insert into chainweaver_cache (digest, tool_name, output, blobs, checksum, stored_at) "
                f"values (?, ?, ?, ?, ?, {self._database.dialect.now}) on conflict do nothing",
                (digest, text_of(key.tool_name) or "", text, blobs, _checksum(key, text, blobs)),
            )
            for name, content in artifacts.contents():
                session.run(
                    "insert into chainweaver_cache_artifacts (digest, name, content) values (?, ?, ?) "
                    "on conflict do nothing",
                    (digest, name, content),
                )

        self._database.atomically(write)

    def clear(self) -> None:
        """Remove every entry."""

        def remove(session: Session) -> None:
            session.run("delete from chainweaver_cache_artifacts")
            session.run("delete from chainweaver_cache")

        self._database.atomically(remove)

    def __len__(self) -> int:
        """How many entries there are."""
        [(number,)] = self._database.rows("select count(*) from chainweaver_cache")
        return int(number)


def _digest(key: StepCacheKey) -> str:
    return blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def _checksum(key: StepCacheKey, text: str, blobs: bytes | None) -> int:
    """Of what is read and of the key that it was written for."""
    return zlib.crc32(blobs or b"", zlib.crc32(text.encode(), zlib.crc32(_digest(key).encode())))


def _remove(session: Session, digest: str) -> None:
    session.run("delete from chainweaver_cache_artifacts where digest = ?", (digest,))
    session.run("delete from chainweaver_cache where digest = ?", (digest,))

"""Values at rest: independent copies, plain bytes, and the way back to the declared types.

`copies` makes a copy that shares nothing mutable, `plain` turns plain values into tagged JSON and back, `binding` knows
from a model's annotations how typed values become plain ones and how they are restored, `files` writes whole files.
What is stored where, and under which name, is decided by the stores.
Live objects, such as arrays, frames and tensors, become bytes by `codecs` and lie in stores under the protocol of
`store`: `refs` keeps them by reference, `mapped` in files; `chunks` cuts them. These are loaded when somebody asks.

Called by the stores in `cache` and `checkpoint` and by the executor, which binds the functions of `binding` once per
tool.
"""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names
from chainweaver.objects.binding import RestoreError, bind_reduce, bind_restore, secret_fields
from chainweaver.objects.copies import UncopyableError, holds_atoms_only, independent_copy
from chainweaver.objects.plain import Member, PlainDecodeError, PlainEncodeError, decode_plain, encode_plain

if TYPE_CHECKING:
    from chainweaver.objects.chunks import ChunkError as ChunkError, iter_chunks as iter_chunks
    from chainweaver.objects.mapped import MmapStore as MmapStore
    from chainweaver.objects.refs import RefStore as RefStore
    from chainweaver.objects.store import (
        ObjectNotFoundError as ObjectNotFoundError,
        ObjectRef as ObjectRef,
        ObjectStore as ObjectStore,
        StoreFullError as StoreFullError,
        StoreStats as StoreStats,
    )

__all__ = [
    "ChunkError",
    "Member",
    "MmapStore",
    "ObjectNotFoundError",
    "ObjectRef",
    "ObjectStore",
    "PlainDecodeError",
    "PlainEncodeError",
    "RefStore",
    "RestoreError",
    "StoreFullError",
    "StoreStats",
    "UncopyableError",
    "bind_reduce",
    "bind_restore",
    "decode_plain",
    "encode_plain",
    "holds_atoms_only",
    "independent_copy",
    "iter_chunks",
    "secret_fields",
]

__getattr__ = lazy_names(
    globals(),
    {
        "chainweaver.objects.chunks": ("ChunkError", "iter_chunks"),
        "chainweaver.objects.mapped": ("MmapStore",),
        "chainweaver.objects.refs": ("RefStore",),
        "chainweaver.objects.store": (
            "ObjectNotFoundError",
            "ObjectRef",
            "ObjectStore",
            "StoreFullError",
            "StoreStats",
        ),
    },
)

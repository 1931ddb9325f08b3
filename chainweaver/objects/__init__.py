"""Values at rest and at hand: independent copies, plain bytes, the way back to the declared types, and what they are.

`copies` makes a copy that shares nothing mutable, `plain` turns plain values into tagged JSON and back, `binding` knows
from a model's annotations how typed values become plain ones and how they are restored, `files` writes whole files,
`codecs` takes arrays, frames, tables and tensors apart, `artifacts` keeps them beside JSON, `fingerprints` tells equal
ones; `inspection` says what an object is, `measuring` how much memory values hold, `devices` gives back what frameworks
keep on devices. Live objects lie in stores under the protocol of `store`: `refs` keeps them by reference, `mapped` in
files, `shared` in memory that workers map; `chunks` cuts them. `streams` are values that are made while they are read,
`ahead` makes their items before that. Each is loaded when somebody asks for it.

Called by the stores in `cache` and `checkpoint`, by `results`, and by the executor, which binds the functions of
`binding` once per tool.
"""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names

if TYPE_CHECKING:
    from chainweaver.objects.binding import (
        RestoreError as RestoreError,
        bind_reduce as bind_reduce,
        bind_restore as bind_restore,
        secret_fields as secret_fields,
    )
    from chainweaver.objects.chunks import ChunkError as ChunkError, iter_chunks as iter_chunks
    from chainweaver.objects.codecs import (
        NoCodecError as NoCodecError,
        Packed as Packed,
        UnpackError as UnpackError,
        pack as pack,
        unpack as unpack,
    )
    from chainweaver.objects.copies import (
        UncopyableError as UncopyableError,
        holds_atoms_only as holds_atoms_only,
        independent_copy as independent_copy,
    )
    from chainweaver.objects.devices import (
        release_device_caches as release_device_caches,
    )
    from chainweaver.objects.fingerprints import fingerprint as fingerprint
    from chainweaver.objects.inspection import (
        ObjectInfo as ObjectInfo,
        inspect_object as inspect_object,
    )
    from chainweaver.objects.mapped import MmapStore as MmapStore
    from chainweaver.objects.measuring import (
        RunMemory as RunMemory,
        StepMemory as StepMemory,
    )
    from chainweaver.objects.plain import (
        Member as Member,
        PlainDecodeError as PlainDecodeError,
        PlainEncodeError as PlainEncodeError,
        decode_plain as decode_plain,
        encode_plain as encode_plain,
    )
    from chainweaver.objects.refs import RefStore as RefStore
    from chainweaver.objects.store import (
        ObjectNotFoundError as ObjectNotFoundError,
        ObjectRef as ObjectRef,
        ObjectStore as ObjectStore,
        StoreFullError as StoreFullError,
        StoreStats as StoreStats,
    )
    from chainweaver.objects.streams import Stream as Stream

__all__ = [
    "ChunkError",
    "Member",
    "MmapStore",
    "NoCodecError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectRef",
    "ObjectStore",
    "Packed",
    "PlainDecodeError",
    "PlainEncodeError",
    "RefStore",
    "RestoreError",
    "RunMemory",
    "StepMemory",
    "StoreFullError",
    "StoreStats",
    "Stream",
    "UncopyableError",
    "UnpackError",
    "bind_reduce",
    "bind_restore",
    "decode_plain",
    "encode_plain",
    "fingerprint",
    "holds_atoms_only",
    "independent_copy",
    "inspect_object",
    "iter_chunks",
    "pack",
    "release_device_caches",
    "secret_fields",
    "unpack",
]

# Records need to know what an object is; the rest is loaded by those who ask for it.
_ROOMS = {
    "chainweaver.objects.binding": ("RestoreError", "bind_reduce", "bind_restore", "secret_fields"),
    "chainweaver.objects.chunks": ("ChunkError", "iter_chunks"),
    "chainweaver.objects.codecs": ("NoCodecError", "Packed", "UnpackError", "pack", "unpack"),
    "chainweaver.objects.copies": ("UncopyableError", "holds_atoms_only", "independent_copy"),
    "chainweaver.objects.devices": ("release_device_caches",),
    "chainweaver.objects.fingerprints": ("fingerprint",),
    "chainweaver.objects.inspection": ("ObjectInfo", "inspect_object"),
    "chainweaver.objects.mapped": ("MmapStore",),
    "chainweaver.objects.measuring": ("RunMemory", "StepMemory"),
    "chainweaver.objects.plain": (*("Member", "PlainDecodeError", "PlainEncodeError", "decode_plain", "encode_plain"),),
    "chainweaver.objects.refs": ("RefStore",),
    "chainweaver.objects.store": ("ObjectNotFoundError", "ObjectRef", "ObjectStore", "StoreFullError", "StoreStats"),
    "chainweaver.objects.streams": ("Stream",),
}

__getattr__ = lazy_names(globals(), _ROOMS)

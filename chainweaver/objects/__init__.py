"""Values at rest and at hand: independent copies, plain bytes, the way back to the declared types, and what they are.

`copies` makes a copy that shares nothing mutable, `plain` turns plain values into tagged JSON and back, `binding` knows
from a model's annotations how typed values become plain ones and how they are restored, `files` writes whole files,
`codecs` takes arrays, frames, tables and tensors apart, `artifacts` keeps them beside JSON, `fingerprints` tells equal
ones; `inspection` says what an object is, `measuring` how much memory values
hold, `devices` gives back what frameworks keep on devices. What is stored where, and under which name, is decided by
the stores.

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

__all__ = [
    "Member",
    "NoCodecError",
    "ObjectInfo",
    "Packed",
    "PlainDecodeError",
    "PlainEncodeError",
    "RestoreError",
    "RunMemory",
    "StepMemory",
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
    "pack",
    "release_device_caches",
    "secret_fields",
    "unpack",
]

# Records need to know what an object is; the rest is loaded by those who ask for it.
_ROOMS = {
    "chainweaver.objects.binding": ("RestoreError", "bind_reduce", "bind_restore", "secret_fields"),
    "chainweaver.objects.codecs": ("NoCodecError", "Packed", "UnpackError", "pack", "unpack"),
    "chainweaver.objects.copies": ("UncopyableError", "holds_atoms_only", "independent_copy"),
    "chainweaver.objects.devices": ("release_device_caches",),
    "chainweaver.objects.fingerprints": ("fingerprint",),
    "chainweaver.objects.inspection": ("ObjectInfo", "inspect_object"),
    "chainweaver.objects.measuring": ("RunMemory", "StepMemory"),
    "chainweaver.objects.plain": (*("Member", "PlainDecodeError", "PlainEncodeError", "decode_plain", "encode_plain"),),
}

__getattr__ = lazy_names(globals(), _ROOMS)

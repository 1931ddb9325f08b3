"""Values at rest: independent copies, plain bytes, and the way back to the declared types.

`copies` makes a copy that shares nothing mutable, `plain` turns plain values into tagged JSON and back, `binding` knows
from a model's annotations how typed values become plain ones and how they are restored, `codecs` takes arrays, frames,
tables and tensors apart and puts them together, `artifacts` keeps them beside JSON, `fingerprints` tells equal ones,
`files` writes whole files.
What is stored where, and under which name, is decided by the stores.

Called by the stores in `cache` and `checkpoint` and by the executor, which binds the functions of `binding` once per
tool.
"""

from chainweaver.objects.binding import RestoreError, bind_reduce, bind_restore, secret_fields
from chainweaver.objects.codecs import NoCodecError, Packed, UnpackError, pack, unpack
from chainweaver.objects.copies import UncopyableError, holds_atoms_only, independent_copy
from chainweaver.objects.fingerprints import fingerprint
from chainweaver.objects.plain import Member, PlainDecodeError, PlainEncodeError, decode_plain, encode_plain

__all__ = [
    "Member",
    "NoCodecError",
    "Packed",
    "PlainDecodeError",
    "PlainEncodeError",
    "RestoreError",
    "UnpackError",
    "UncopyableError",
    "bind_reduce",
    "bind_restore",
    "decode_plain",
    "encode_plain",
    "fingerprint",
    "holds_atoms_only",
    "independent_copy",
    "pack",
    "secret_fields",
    "unpack",
]

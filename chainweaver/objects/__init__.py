"""Values at rest: independent copies, plain bytes, and the way back to the declared types.

`copies` makes a copy that shares nothing mutable, `plain` turns plain values into tagged JSON and back, `shapes` knows
from a model's annotations how typed values become plain ones and how they are restored, `files` writes whole files.
What is stored where, and under which name, is decided by the stores.

Called by the stores in `cache` and `checkpoint` and by the executor, which binds the functions of `shapes` once per
tool.
"""

"""What goes between an executor and its worker processes: frames of bytes, with descriptors beside them.

A frame is a pickle. This is the one border where the package pickles: both ends are processes of one program and one
user, connected by an unnamed pair of sockets, and nothing that is read here comes from anywhere else. Large objects
travel as references to shared memory (see `sharing`), their descriptors along with the frame.

Called by `processes`, `worker` and `forker`.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

_HEAD = struct.Struct("!QI")
MOST_DESCRIPTORS = 250
"""How many descriptors one frame may carry; the system sets the limit."""


class Wire:
    """One end of a connection.

    Attributes:
        sent, received: Bytes that went through, descriptors not counted.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent = self.received = 0

    def send(self, frame: bytes, descriptors: Sequence[int] = (), until_s: float | None = None) -> None:
        """Send a frame; waits while the other end does not read.

        Args:
            until_s: When it has to be done, as `time.monotonic()` tells the time. None: whenever.

        Raises:
            TimeoutError: The time was over first; the connection is of no use any more.
            OSError: There is nobody at the other end.
        """
        self._limit(until_s)
        head = _HEAD.pack(len(frame), len(descriptors))
        if descriptors:
            head = head[socket.send_fds(self.sock, [head], list(descriptors)) :]
        if len(frame) < 1 << 16:
            self.sock.sendall(head + frame)
        else:
            self.sock.sendall(head)
            self.sock.sendall(frame)
        self.sent += _HEAD.size + len(frame)

    def receive(self, until_s: float | None = None) -> tuple[bytearray, list[int]]:
        """The next frame and its descriptors, which belong to the caller.

        Raises:
            EOFError: There is nobody at the other end.
            TimeoutError: The time was over first; the connection is of no use any more.
        """
        descriptors: list[int] = []
        head = b""
        while len(head) < _HEAD.size:
            self._limit(until_s)
            if hasattr(socket, "recv_fds"):
                piece, found, _, _ = socket.recv_fds(self.sock, _HEAD.size - len(head), MOST_DESCRIPTORS)
                descriptors += found
            else:
                piece = self.sock.recv(_HEAD.size - len(head))
            if not piece:
                raise EOFError
            head += piece
        size, _ = _HEAD.unpack(head)
        frame = bytearray(size)
        view, begin = memoryview(frame), 0
        while begin < size:
            self._limit(until_s)
            count = self.sock.recv_into(view[begin:])
            if not count:
                raise EOFError
            begin += count
        self.received += _HEAD.size + size
        return frame, descriptors

    def close(self) -> None:
        """Hang up; the other end finds out at once."""
        self.sock.close()

    def _limit(self, until_s: float | None) -> None:
        if until_s is None:
            self.sock.settimeout(None)
            return
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.sock.settimeout(left_s)


class Stand:
    """Stands in a frame for an object that lies elsewhere."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return stands_for, (self.number,)


def stands_for(number: int) -> Any:
    """What a `Stand` becomes; readers of frames put the object in its place."""
    raise pickle.UnpicklingError("an object in shared memory was looked for outside of its frame")


Reduced = Callable[[Any], "tuple[Any, ...] | None"]


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reduced: Reduced) -> None:
        super().__init__(file, protocol=5)
        self._reduced = reduced

    def reducer_override(self, value: Any) -> Any:
        # Asked of everything but plain values, so of all that may be large and foreign.
        found = self._reduced(value)
        return NotImplemented if found is None else found


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, place: Callable[[int], Any]) -> None:
        super().__init__(file)
        self._place = place

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name == "stands_for":
            return self._place
        if module in MAINS:
            module = MAINS[0] if MAINS[0] in sys.modules else MAINS[1]
        return super().find_class(module, name)


MAINS = ("__chainweaver_main__", "__main__")
"""The module of the program under its names: in a worker, and where it runs."""


def dumped(value: Any, reduced: Reduced) -> bytes:
    """A value as a frame.

    Args:
        reduced: What is written for an object, as `__reduce__` gives it; None for all that is written as ever.

    Raises:
        Exception: Whatever pickling raises for values that have no such form.
    """
    file = io.BytesIO()
    _Writer(file, reduced).dump(value)
    return file.getvalue()


def loaded(frame: bytes | bytearray, place: Callable[[int], Any]) -> Any:
    """The value of a frame.

    Args:
        place: The object of a number.

    Raises:
        Exception: Whatever making the values raises.
    """
    return _Reader(io.BytesIO(frame), place).load()

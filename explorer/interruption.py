"""Ctrl-C held back while something is stored.

It raises KeyboardInterrupt wherever the program is just then, also inside libraries that are not made for it: the zip
writer, say, answers with a ValueError and cannot close its file any more.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back to the end of the block, unless it is pressed again: a disk or a database may not answer.

    An error of the block passes, pressed or not. Only the main thread is ever interrupted; in others, and where Ctrl-C
    does something of its own, nothing is changed.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed: list[bool] = []

    def press(number: int, frame: FrameType | None) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(True)

    signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt

"""Ctrl-C and SIGTERM as a question instead of an exception: finish what is in hand, then stop."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interrupt:
    """While active, the first signal only sets `asked`; a second one interrupts as usual.

    In a thread other than the main one, where Python allows no handlers, it never asks.

    Attributes:
        asked: Whether somebody wants the work to stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

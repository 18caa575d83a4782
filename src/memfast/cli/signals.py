"""Ctrl-C and SIGTERM while a command runs: the first unwinds it, so that whatever it started is stopped."""

from __future__ import annotations

import signal
import threading
import warnings
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["STOP_SIGNALS", "StopRequest", "Stopped"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A stop signal came.

    A class of its own, because Python ends itself by SIGINT, whatever the exit code, once a plain KeyboardInterrupt has
    passed through code that was run from a string, as many imports do.
    """


class StopRequest:
    """While entered, the first stop signal raises `Stopped` in the main thread; later ones change nothing.

    `number` is that signal, or 0. It stays known when the exception was lost, as in a destructor.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """The shell's code for a program that a signal ended."""
        return 128 + (self.number or signal.SIGINT)

    def check(self) -> None:
        """Raise `Stopped` when a stop signal came."""
        if self.number:
            raise Stopped

    def note(self) -> None:
        """Take it that a stop signal came, which another handler saw."""
        self.number = self.number or signal.SIGTERM

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # After a stop nothing is left to stop, and the default would turn the exit code into a death by signal.
            signal.signal(number, signal.SIG_IGN if self.number else handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
            warnings.simplefilter("ignore")  # of what is cut off half-way, nobody need be told
            raise Stopped

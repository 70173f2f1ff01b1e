"""SIGTERM and Ctrl-C end a run at a moment at which nothing is lost, with the exit code that such an end has."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT)
Handler = Callable[[int, FrameType | None], Any]


class Interrupted(SystemExit):
    """A signal's request to end; its code is 143 for SIGTERM and 130 for SIGINT."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.name = signal.Signals(signum).name


def interrupt(signum: int, frame: FrameType | None = None) -> None:
    """Raise `Interrupted` wherever the program is."""
    raise Interrupted(signum)


@contextmanager
def handled(handlers: dict[int, Handler]) -> Iterator[None]:
    """Handle these signals for as long as the block runs; nothing outside the main thread, which alone may do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Deferred:
    """A handler that waits for a safe moment: `safe` says whether it is one, `received` what came in another.

    act: what to do about a signal. The second Ctrl-C in an unsafe moment is obeyed at once.
    """

    def __init__(self, act: Handler) -> None:
        self.act = act
        self.safe = True
        self.received = 0

    def __call__(self, signum: int, frame: FrameType | None = None) -> None:
        impatient = signum == self.received == signal.SIGINT
        self.received = signum
        if self.safe or impatient:
            self.obey()

    def obey(self) -> None:
        """Act upon the signal that was received, if there is one."""
        signum, self.received = self.received, 0
        if signum:
            self.act(signum, None)

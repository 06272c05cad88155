"""Ctrl-C and SIGTERM between two steps of a training, and never within one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import NoReturn

import torch.distributed as dist

from . import parallel

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Within the block the first Ctrl-C or SIGTERM is only noted, for the step to be finished and saved.

    A second one acts at once, as it would have without the block. Under torchrun it does not, since torchrun passes signals on
    that a terminal may have sent as well, and kills what has not ended 30 s later. A signal that the process ignores stays
    ignored, and outside of the main thread nothing changes, because Python handles signals only there.
    """

    def __enter__(self) -> Stop:
        self.noted = 0
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self.previous = {n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
            for number in self.previous:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.noted = bool(self.noted), number
        if again and not dist.is_torchelastic_launched():
            self.__exit__(None, None, None)
            signal.raise_signal(number)

    def requested(self) -> int:
        """The signal that any of the processes got, or 0. All processes must ask together."""
        return parallel.largest(self.noted)


def end_by(number: int) -> NoReturn:
    """End as a process does that got this signal."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)

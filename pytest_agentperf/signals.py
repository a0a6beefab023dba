"""SIGTERM as Ctrl-C: load is stopped in order, and the report of what is there is written."""

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

__all__ = ["sigterm_as_ctrl_c"]


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Generator[None]:
    """Have a SIGTERM do what Ctrl-C does; leave one alone that somebody handles already."""
    is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    del number, frame
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs behind it
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)

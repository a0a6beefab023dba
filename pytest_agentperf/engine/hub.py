"""What all connections of one event loop share: who is readable, and what is yet to be decoded.

On Linux all sockets are in one epoll set, which is a single descriptor to the loop, so that a burst
of reads costs one turn of the loop and not a callback of the loop for each. Decoding is put off
until the sockets that were ready have been read, and done in slices between turns of the loop, so
that the longest answer delays no stamp.
"""

import asyncio
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from pytest_agentperf.engine.stamps import KernelClock

__all__ = ["READ", "WRITE", "Decoding", "Hub"]

READ, WRITE = 1, 4
"""As epoll names them."""
_SLICE_NS = 400_000
_AT_ONCE = 256
"""Sockets read in one turn of the loop; those that are left are ready in the next."""

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class Decoding(Protocol):
    """An answer with reads that are not decoded yet."""

    def decode(self, until_ns: int) -> bool:
        """Decode until an instant; tell whether all is done."""
        ...


class Hub:
    """Lives while a connection of its loop does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock = KernelClock()
        self._users = 0
        self._ready: dict[int, Callable[[int], None]] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._waiting: deque[Decoding] = deque()
        self._decodes = False
        self._names: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._read_all)

    @staticmethod
    def of_running_loop() -> "Hub":
        """Return the hub of the running loop, made if there is none, for one more user."""
        loop = asyncio.get_running_loop()
        hub = _HUBS.get(loop)
        if hub is None:
            hub = _HUBS[loop] = Hub(loop)
        hub._users += 1
        return hub

    def leave(self) -> None:
        """Take note that a user is gone; the last one ends the hub."""
        self._users -= 1
        if self._users:
            return
        _HUBS.pop(self.loop, None)
        if self._epoll is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def watch(self, fd: int, ready: Callable[[int], None]) -> None:
        """Call back with `READ` and `WRITE` bits whenever a socket is readable."""
        if self._epoll is None:
            self.loop.add_reader(fd, ready, READ)
        else:
            self._epoll.register(fd, READ)
            self._ready[fd] = ready

    def watch_writing(self, fd: int, ready: Callable[[int], None] | None) -> None:
        """Call back as well when a watched socket takes more, or no longer do."""
        if self._epoll is not None:
            self._epoll.modify(fd, READ | WRITE if ready else READ)
        elif ready is None:
            self.loop.remove_writer(fd)
        else:
            self.loop.add_writer(fd, ready, WRITE)

    def forget(self, fd: int) -> None:
        """Call back no more; to be called before the socket is closed."""
        if self._epoll is None:
            self.loop.remove_reader(fd)
            self.loop.remove_writer(fd)
        elif self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def decode_soon(self, answer: Decoding) -> None:
        """Have an answer decoded when the sockets that are ready have been read."""
        self._waiting.append(answer)
        if not self._decodes:
            self._decodes = True
            self.loop.call_soon(self._decode)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, which are looked up once.

        Raises:
            OSError: it has none.
        """
        task = self._names.get((host, port))
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._names[host, port] = self.loop.create_task(self._look_up(host, port))
        return await asyncio.shield(task)

    async def _look_up(self, host: str, port: int) -> list[Address]:
        found = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    def _read_all(self) -> None:
        if self._epoll is None:
            return
        ready = self._ready
        for fd, events in self._epoll.poll(0, _AT_ONCE):
            read = ready.get(fd)
            if read is not None:  # closed by one that was read before
                read(events)

    def _decode(self) -> None:
        waiting = self._waiting
        now_ns = time.perf_counter_ns()
        self.clock.freshen(now_ns)
        until_ns = now_ns + _SLICE_NS
        while waiting and time.perf_counter_ns() < until_ns:
            if waiting[0].decode(until_ns):
                waiting.popleft()
            else:
                waiting.rotate(-1)
        self._decodes = bool(waiting)
        if waiting:
            self.loop.call_soon(self._decode)


_HUBS: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()
"""As asyncio keeps its own state: by loop."""

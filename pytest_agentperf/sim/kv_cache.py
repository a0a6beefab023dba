"""The blocks of one replica's KV cache: free, private to one sequence, or known by their content.

Freed blocks queue up, least recently used first, and are taken from that end whatever they hold;
only then is their content forgotten. Blank ones are taken first. A run of blocks whose content
nobody will ask for is one entry.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

__all__ = ["BlockPool"]


class _Copy:
    """A block with the content of another one; equal to nothing but itself."""

    __slots__ = ("key",)

    def __init__(self, key: Hashable) -> None:
        self.key = key


class BlockPool:
    """Paged KV cache with prefix reuse and LRU eviction."""

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.free_blocks = capacity_blocks
        """Blocks that nobody uses, whether their content is known or not."""
        self.evicted_blocks = 0
        """Blocks whose content was forgotten to make room."""
        self._blank = capacity_blocks
        self._users: dict[Hashable, int] = {}
        self._copies: dict[Hashable, list[_Copy]] = {}
        """Blocks that came to hold what another held already, oldest first."""
        self._queue: OrderedDict[Hashable, int] = OrderedDict()

    def find(self, keys: Iterable[Hashable]) -> list[Hashable]:
        """Return the blocks that hold the first of these contents, as far as all are there."""
        found: list[Hashable] = []
        users = self._users
        for key in keys:
            if key in users:
                found.append(key)
            elif copies := self._copies.get(key):
                found.append(copies[0])
            else:
                break
        return found

    def try_reuse(self, found: Sequence[Hashable], new_blocks: int, room_blocks: int) -> bool:
        """Use known blocks and take new ones, or do nothing.

        Args:
            found: blocks that are there.
            new_blocks: how many to take beside them.
            room_blocks: how many must be free beside them, at least ``new_blocks``.
        """
        users = self._users
        woken = sum(not users[block] for block in found)
        if self.free_blocks - woken < room_blocks:
            return False
        for block in found:
            if not users[block]:
                del self._queue[block]
            users[block] += 1
        self.free_blocks -= woken
        return self.try_take(new_blocks)

    def try_take(self, blocks: int) -> bool:
        """Take blocks for private use, or none of them if there is no room for all."""
        if self.free_blocks < blocks:
            return False
        self.free_blocks -= blocks
        fresh = min(blocks, self._blank)
        self._blank -= fresh
        blocks -= fresh
        while blocks:
            block, size = self._queue.popitem(last=False)
            if block in self._users:
                self._forget(block)
            elif size > blocks:
                self._queue[block] = size - blocks
                self._queue.move_to_end(block, last=False)
                size = blocks
            blocks -= size
        return True

    def _forget(self, block: Hashable) -> None:
        del self._users[block]
        self.evicted_blocks += 1
        if isinstance(block, _Copy):
            copies = self._copies[block.key]
            copies.remove(block)
            if not copies:
                del self._copies[block.key]

    def publish(self, key: Hashable) -> Hashable:
        """Make the content of a private block known, and return what the block is called then.

        A block with a content that others hold already stays beside them, and ages by itself.
        """
        block = key
        if key in self._users or self._copies.get(key):
            block = _Copy(key)
            self._copies.setdefault(key, []).append(block)
        self._users[block] = 1
        return block

    def release(self, known: Sequence[Hashable], unnamed_blocks: int, blank_blocks: int) -> None:
        """Give back what a sequence used, its last block first.

        The tail of a prompt is of use to fewer successors than its beginning.

        Args:
            known: its blocks that others may find, in order.
            unnamed_blocks: full blocks behind them that nobody will ask for; they grow old in the
                queue like any other.
            blank_blocks: blocks that are not full, or not computed: the next ones to be taken.
        """
        self._blank += blank_blocks
        if unnamed_blocks:
            self._queue[object()] = unnamed_blocks
        self.free_blocks += unnamed_blocks + blank_blocks
        users = self._users
        for block in reversed(known):
            users[block] -= 1
            if not users[block]:
                self._queue[block] = 1
                self.free_blocks += 1

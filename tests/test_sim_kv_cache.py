from collections.abc import Hashable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.sim.kv_cache import BlockPool


def hold(pool: BlockPool, keys: Sequence[Hashable]) -> list[Hashable]:
    """Take a block for each content and fill it."""
    assert pool.try_take(len(keys))
    return [pool.publish(key) for key in keys]


def keep(pool: BlockPool, keys: Sequence[Hashable], unnamed_blocks: int = 0) -> None:
    """Fill blocks and give them back, so that they are known and free."""
    assert pool.try_take(unnamed_blocks)
    pool.release(hold(pool, keys), unnamed_blocks, 0)


def hits(pool: BlockPool, keys: Sequence[Hashable]) -> int:
    return len(pool.find(keys))


class TestTake:
    def test_takes_all_or_nothing(self):
        pool = BlockPool(4)
        assert pool.try_take(3)
        assert not pool.try_take(2)
        assert pool.free_blocks == 1
        assert pool.try_take(1)
        assert pool.free_blocks == 0

    def test_takes_blank_blocks_before_it_forgets_any(self):
        pool = BlockPool(4)
        keep(pool, "ab")
        assert pool.try_take(2)
        assert (hits(pool, "ab"), pool.evicted_blocks) == (2, 0)

    def test_what_comes_back_blank_is_the_next_to_be_taken(self):
        pool = BlockPool(4)
        keep(pool, "ab")
        assert pool.try_take(2)
        pool.release([], 0, 2)
        assert pool.try_take(2)
        assert (hits(pool, "ab"), pool.evicted_blocks) == (2, 0)

    def test_forgets_the_end_of_the_longest_unused_first(self):
        pool = BlockPool(6)
        keep(pool, "abc")
        keep(pool, "ABC")
        assert pool.try_take(2)
        assert (hits(pool, "abc"), hits(pool, "ABC"), pool.evicted_blocks) == (1, 3, 2)

    def test_full_blocks_without_a_name_grow_old_before_those_in_front_of_them(self):
        pool = BlockPool(6)
        keep(pool, "AB")
        keep(pool, "ab", unnamed_blocks=2)
        assert pool.try_take(4)  # A, B and the two
        assert (hits(pool, "AB"), hits(pool, "ab"), pool.evicted_blocks) == (0, 2, 2)
        assert pool.try_take(1)
        assert (hits(pool, "ab"), pool.evicted_blocks) == (1, 3)

    def test_part_of_a_run_leaves_the_rest_of_it_in_its_place(self):
        pool = BlockPool(4)
        keep(pool, "a", unnamed_blocks=3)
        assert pool.try_take(2)
        assert pool.try_take(1)
        assert (pool.free_blocks, hits(pool, "a"), pool.evicted_blocks) == (1, 1, 0)


class TestReuse:
    def test_finds_up_to_the_first_gap(self):
        pool = BlockPool(4)
        keep(pool, "ac")
        assert (hits(pool, "abc"), hits(pool, "bac")) == (1, 0)

    def test_what_is_in_use_is_shared_without_room(self):
        pool = BlockPool(2)
        held = hold(pool, "ab")
        assert pool.try_reuse(pool.find("ab"), 0, 0)
        pool.release(held, 0, 0)
        assert pool.free_blocks == 0  # the second user still has them
        pool.release(held, 0, 0)
        assert pool.free_blocks == 2

    def test_free_hits_are_not_room_for_new_blocks(self):
        pool = BlockPool(3)
        keep(pool, "ab")
        assert not pool.try_reuse(pool.find("ab"), 2, 2)  # 3 are free, 2 of them the hits
        assert (pool.free_blocks, hits(pool, "ab")) == (3, 2)
        assert pool.try_reuse(pool.find("ab"), 1, 1)
        assert (pool.free_blocks, hits(pool, "ab")) == (0, 2)

    def test_wants_room_for_more_than_it_takes(self):
        pool = BlockPool(4)
        assert not pool.try_reuse([], 1, 5)
        assert pool.try_reuse([], 1, 4)
        assert pool.free_blocks == 3

    def test_use_makes_a_block_young_again(self):
        pool = BlockPool(4)
        keep(pool, "ab")
        keep(pool, "AB")
        assert pool.try_reuse(pool.find("ab"), 0, 0)
        pool.release(pool.find("ab"), 0, 0)
        assert pool.try_take(2)
        assert (hits(pool, "ab"), hits(pool, "AB")) == (2, 0)

    def test_a_copy_takes_over_when_the_first_is_forgotten(self):
        pool = BlockPool(2)
        first, second = hold(pool, "a"), hold(pool, "a")
        pool.release(first, 0, 0)
        pool.release(second, 0, 0)
        assert pool.try_take(1)
        assert (hits(pool, "a"), pool.evicted_blocks) == (1, 1)
        assert pool.try_take(1)
        assert (hits(pool, "a"), pool.evicted_blocks) == (0, 2)


def test_a_key_can_be_a_number():
    pool = BlockPool(4)
    keep(pool, [0], unnamed_blocks=1)
    assert (pool.free_blocks, hits(pool, [0])) == (4, 1)
    assert pool.try_take(4)


@given(
    capacity=st.integers(1, 12),
    moves=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()), max_size=40
    ),
)
def test_no_block_is_lost_or_made(capacity: int, moves: list[tuple[str, int, bool]]):
    """Sequences over three prompts come and go; their last block is never full."""
    pool = BlockPool(capacity)
    held: list[list[Hashable]] = []
    for stem, size, ends in moves:
        if ends and held:
            pool.release(held.pop(0), 0, 1)
        keys = [f"{stem}{index}" for index in range(size)]
        used = pool.find(keys[: size // 2])  # the other half is computed, and may be a copy
        new = size - len(used)
        if pool.try_reuse(used, new + 1, new + 1):
            held.append([*used, *(pool.publish(key) for key in keys[len(used) :])])
        different = {block for blocks in held for block in blocks}
        assert pool.free_blocks == capacity - len(different) - len(held) >= 0
    for blocks in held:
        pool.release(blocks, 0, 1)
    assert pool.free_blocks == capacity
    assert pool.try_take(capacity)

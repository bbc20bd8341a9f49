"""The memory tier and the fills in flight: what is stored, what is evicted first, and how viewers read a growing
body."""

import asyncio

import pytest

from keyfront.edge.cache.fill import WINDOW, Fill
from keyfront.edge.cache.memory import MAX_VARIANTS, MemoryTier
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Meta, Stored

KIB = 1024


def meta(vary: tuple[bytes, ...] = (), values: tuple[bytes, ...] = ()) -> Meta:
    return Meta(200, (), stored_at=0.0, fresh_until=10.0, date=0.0, vary=vary, vary_values=values)


def stored(key: str, size: int = KIB, **kwargs: tuple[bytes, ...]) -> Stored:
    return Stored(key, meta(**kwargs), b"x" * size)


def none() -> Headers:
    raise AssertionError("the request's headers are asked for only where the response varies")


class TestMemoryTier:
    def test_finds_what_was_put_and_nothing_else(self) -> None:
        tier = MemoryTier(100 * KIB, 10 * KIB)
        a = stored("a")
        tier.put(a)
        assert tier.find("a", none) is a
        assert tier.find("b", none) is None

    def test_a_newer_response_takes_the_place_of_the_older(self) -> None:
        tier = MemoryTier(100 * KIB, 10 * KIB)
        tier.put(stored("a", 5 * KIB))
        newer = stored("a", KIB)
        tier.put(newer)
        assert tier.find("a", none) is newer
        assert tier.bytes == newer.size
        assert len(tier) == 1

    def test_never_holds_more_than_its_capacity_and_drops_the_unused_first(self) -> None:
        tier = MemoryTier(20 * KIB, 10 * KIB)
        for n in range(8):
            tier.put(stored(f"k{n}", 2 * KIB))
            assert tier.bytes <= tier.capacity
            tier.find("k0", none)
        assert tier.find("k0", none) is not None
        assert tier.find("k1", none) is None
        assert tier.find("k7", none) is not None
        assert tier.evictions > 0

    def test_drop_forgets_and_gives_the_bytes_back(self) -> None:
        tier = MemoryTier(100 * KIB, 10 * KIB)
        tier.put(stored("a"))
        tier.put(stored("b", vary=(b"origin",), values=(b"x",)))
        tier.put(stored("b", vary=(b"origin",), values=(b"y",)))
        tier.drop("a")
        tier.drop("b")
        tier.drop("never there")
        assert tier.bytes == 0
        assert len(tier) == 0

    def test_drop_all_forgets_every_key_of_a_path_or_of_a_path_and_query(self) -> None:
        keys = ["d/a", "d/a\ne2:br", "d/a\nq1:x", "d/a\nq1:x\ne2:br", "d/a\nq2:xy", "d/ab", "d/ab\ne2:br"]
        for asked, gone in (
            ("d/a", {0, 1}),
            ("d/a\nq1:x", {2, 3}),
            ("d/ab", {5, 6}),
            ("d/", set()),
            ("d", set()),
        ):
            tier = MemoryTier(100 * KIB, 10 * KIB)
            for key in keys:
                tier.put(stored(key))
                tier.put(stored(key))
            tier.drop_all(asked)
            assert [tier.find(key, none) is None for key in keys] == [n in gone for n in range(len(keys))]
            for key in keys:
                tier.drop_all(key)
            assert (tier.bytes, len(tier), tier._families) == (0, 0, {})

    def test_eviction_leaves_nothing_behind(self) -> None:
        tier = MemoryTier(20 * KIB, 10 * KIB)
        for n in range(100):
            tier.put(stored(f"d/{n % 7}\nq2:{n:02}", 2 * KIB))
        assert sum(map(len, tier._families.values())) == len(tier)

    def test_variants_of_one_key_live_side_by_side(self) -> None:
        tier = MemoryTier(100 * KIB, 10 * KIB)
        x = stored("a", vary=(b"origin",), values=(b"x",))
        y = stored("a", vary=(b"origin",), values=(b"y",))
        tier.put(x)
        tier.put(y)
        assert tier.find("a", lambda: [(b"origin", b"x")]) is x
        assert tier.find("a", lambda: [(b"origin", b"y")]) is y
        assert tier.find("a", lambda: [(b"origin", b"z")]) is None
        assert tier.find("a", list) is None
        assert len(tier) == 2

    def test_a_variant_is_replaced_by_the_same_variant(self) -> None:
        tier = MemoryTier(100 * KIB, 10 * KIB)
        tier.put(stored("a", vary=(b"origin",), values=(b"x",)))
        again = stored("a", 2 * KIB, vary=(b"origin",), values=(b"x",))
        tier.put(again)
        assert tier.find("a", lambda: [(b"origin", b"x")]) is again
        assert tier.bytes == again.size

    def test_a_response_that_varies_otherwise_replaces_all_variants(self) -> None:
        tier = MemoryTier(100 * KIB, 10 * KIB)
        tier.put(stored("a", vary=(b"origin",), values=(b"x",)))
        plain = stored("a")
        tier.put(plain)
        assert tier.find("a", none) is plain
        assert tier.bytes == plain.size

    def test_an_attacker_cannot_fill_one_key_with_variants(self) -> None:
        tier = MemoryTier(1000 * KIB, 10 * KIB)
        for n in range(MAX_VARIANTS + 50):
            tier.put(stored("a", 10, vary=(b"origin",), values=(b"%d" % n,)))
        assert len(tier) == MAX_VARIANTS
        tier.drop("a")
        assert tier.bytes == 0


async def collect(flight: Fill, token: object) -> bytes:
    return b"".join([chunk async for chunk in flight.read(token) if isinstance(chunk, bytes)])


class TestFlight:
    async def test_readers_get_the_whole_body_however_late_they_come(self) -> None:
        flight = Fill()
        early = asyncio.create_task(collect(flight, flight.join()))
        flight.announce(meta(), keep=KIB, shared=True, length=None)
        await flight.feed(b"one ")
        middle = asyncio.create_task(collect(flight, flight.join()))
        await flight.feed(b"two ")
        await flight.feed(b"three")
        flight.finish()
        late = await collect(flight, flight.join())
        assert late == await early == await middle == b"one two three" == flight.whole

    async def test_a_reader_half_way_misses_nothing_when_the_body_is_taken_whole(self) -> None:
        flight = Fill()
        token = flight.join()
        flight.announce(meta(), keep=KIB, shared=True, length=None)
        await flight.feed(b"one ")
        reading = flight.read(token)
        seen = [await anext(reading)]
        for chunk in (b"two ", b"three"):
            await flight.feed(chunk)
        flight.finish()
        assert flight.whole == b"one two three"
        seen += [chunk async for chunk in reading]
        assert seen[0] == b"one "
        assert [bytes(piece) for piece in seen if isinstance(piece, bytes)] == [b"one ", b"two three"]

    async def test_a_body_received_byte_by_byte_is_held_in_few_chunks(self) -> None:
        flight = Fill()
        token = flight.join()
        flight.announce(meta(), keep=64 * KIB, shared=True, length=None)
        for _ in range(20_000):
            await flight.feed(b"x")
        flight.finish()
        pieces = [chunk async for chunk in flight.read(token)]
        assert sum(map(len, pieces)) == 20_000
        assert len(pieces) <= 20_000 // 4096 + 1

    async def test_a_failure_reaches_every_reader_after_what_came_before(self) -> None:
        flight = Fill()
        token = flight.join()
        flight.announce(meta(), keep=KIB, shared=True, length=10)
        await flight.feed(b"half")
        flight.fail(ConnectionResetError("broke off"))
        seen = []
        with pytest.raises(ConnectionResetError):
            async for chunk in flight.read(token):
                seen.append(chunk)
        assert seen == [b"half"]
        assert flight.whole is None

    async def test_a_failure_before_the_head_is_the_outcome(self) -> None:
        flight = Fill()
        flight.fail(TimeoutError())
        with pytest.raises(TimeoutError):
            await flight.outcome

    async def test_a_body_too_large_to_keep_waits_for_its_slowest_reader_and_is_not_shared(self) -> None:
        flight = Fill()
        slow, fast = flight.join(), flight.join()
        flight.announce(meta(), keep=KIB, shared=True, length=None)
        chunk = b"x" * (WINDOW // 2)
        produced = 0

        async def produce() -> None:
            nonlocal produced
            for _ in range(20):
                await flight.feed(chunk)
                produced += 1
            flight.finish()

        task = asyncio.create_task(produce())
        fast_task = asyncio.create_task(collect(flight, fast))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not flight.shared
        assert produced <= 2  # the window, and not one chunk more, ahead of the slow one
        assert len(await collect(flight, slow)) == len(await fast_task) == 20 * len(chunk)
        await task
        assert flight.whole is None

    async def test_an_uncacheable_body_without_readers_is_abandoned(self) -> None:
        flight = Fill()
        token = flight.join()
        flight.announce(meta(), keep=0, shared=False, length=None)
        flight.leave(token)
        with pytest.raises(ConnectionAbortedError):
            await flight.feed(b"x")

    async def test_a_fill_completes_after_its_viewer_disconnects(self) -> None:
        flight = Fill()
        flight.leave(flight.join())
        flight.announce(meta(), keep=KIB, shared=True, length=None)
        await flight.feed(b"for the others")
        flight.finish()
        assert flight.whole == b"for the others"

    async def test_a_reader_that_leaves_makes_room_for_the_rest(self) -> None:
        flight = Fill()
        stuck, live = flight.join(), flight.join()
        flight.announce(meta(), keep=0, shared=False, length=None)
        chunk = b"x" * WINDOW

        async def produce() -> None:
            for _ in range(4):
                await flight.feed(chunk)
            flight.finish()

        task = asyncio.create_task(produce())
        reading = asyncio.create_task(collect(flight, live))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        flight.leave(stuck)
        assert len(await reading) == 4 * WINDOW
        await task

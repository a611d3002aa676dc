"""The batcher: what is computed together, in which order, and what is not computed at all."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.app.serving.batching import Answer, Batcher
from diffacet.errors import UnknownItem
from diffacet.rank.candidates import Query
from servingfakes import PATIENCE, Fake, until

LONG = 3_600_000.0
"""An hour of milliseconds: a test that waited for it would not end."""


class Counting:
    def __init__(self):
        self.sizes, self.depths, self.dropped = [], [], 0

    def batched(self, size):
        self.sizes.append(size)

    def queued(self, depth):
        self.depths.append(depth)

    def abandoned(self, count):
        self.dropped += count


def play(story, *, gather=LONG, max_batch=64):
    """Run `story(batcher, fake, watch)` in a loop of its own; returns what it does and the watch."""
    fake, watch = Fake(), Counting()
    batcher = Batcher(fake.answer, gather=gather, max_batch=max_batch, watch=watch)

    async def whole():
        async with asyncio.timeout(3 * PATIENCE):
            return await story(batcher, fake)

    try:
        told = asyncio.run(whole())
    finally:
        fake.gate.set()
        batcher.close()
    return told, fake, watch


def ask(*history):
    return Query(list(history))


async def held(batcher, fake):
    """A task whose query occupies the thread until the gate is opened."""
    fake.gate.clear()
    first = asyncio.create_task(batcher.submit(ask("first")))
    await until(lambda: fake.calls)
    return first


def test_a_lone_query_does_not_wait():
    async def story(batcher, fake):
        return await batcher.submit(ask(1, 2))

    answer, fake, watch = play(story)
    assert answer.version == "fake-1"
    assert answer.batch == 1
    assert answer.candidates.item_id.to_list() == [2]
    assert fake.calls == [[[1, 2]]]
    assert watch.depths[-1] == 0


def test_queries_of_one_turn_of_the_loop_are_computed_together():
    async def story(batcher, fake):
        return await asyncio.gather(*(batcher.submit(ask(n)) for n in range(5)))

    answers, _, watch = play(story)
    assert [one.candidates.item_id[0] for one in answers] == list(range(5))
    assert watch.sizes == [5]
    assert max(watch.depths) == 5
    assert {one.batch for one in answers} == {5}


def test_the_queue_fills_while_the_thread_computes():
    async def story(batcher, fake):
        first = await held(batcher, fake)
        others = [asyncio.create_task(batcher.submit(ask(n))) for n in range(7)]
        await until(lambda: batcher._depth == 7)
        assert len(fake.calls) == 1
        fake.gate.set()
        await asyncio.gather(first, *others)

    _, _, watch = play(story)
    assert watch.sizes == [1, 7]


def test_a_request_on_its_way_is_waited_for():
    async def story(batcher, fake):
        token = batcher.expect()
        first = asyncio.create_task(batcher.submit(ask(1)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not fake.calls
        second = asyncio.create_task(batcher.submit(ask(2)))
        await asyncio.sleep(0)
        batcher.arrived(token)
        batcher.arrived(token)  # says nothing more
        await asyncio.gather(first, second)

    _, fake, _ = play(story)
    assert fake.calls == [[[1], [2]]]


def test_a_request_that_never_comes_is_waited_for_no_longer_than_said():
    async def story(batcher, fake):
        batcher.expect()
        return await batcher.submit(ask(1))

    answer, _, _ = play(story, gather=5.0)
    assert answer.batch == 1


def test_a_full_batch_does_not_wait():
    async def story(batcher, fake):
        batcher.expect()
        await asyncio.gather(*(batcher.submit(ask(n)) for n in range(3)))

    _, _, watch = play(story, max_batch=3)
    assert watch.sizes == [3]


def test_many_histories_are_cut_into_calls_and_stay_in_order():
    async def story(batcher, fake):
        return await batcher.submit_many([ask(n) for n in range(10)])

    outcomes, _, watch = play(story, max_batch=4)
    assert [one.candidates.item_id[0] for one in outcomes] == list(range(10))
    assert watch.sizes == [4, 4, 2]


def test_no_histories_are_no_call():
    async def story(batcher, fake):
        return await batcher.submit_many([])

    outcomes, fake, _ = play(story)
    assert outcomes == []
    assert fake.calls == []


def test_a_large_request_does_not_starve_a_small_one():
    async def story(batcher, fake):
        first = await held(batcher, fake)
        large = asyncio.create_task(batcher.submit_many([ask("large", n) for n in range(200)]))
        await until(lambda: batcher._depth == 200)
        small = asyncio.create_task(batcher.submit(ask("small")))
        await until(lambda: batcher._depth == 201)
        fake.gate.set()
        await asyncio.gather(first, large, small)

    _, fake, _ = play(story, max_batch=8)
    assert ["small"] in fake.calls[1]
    assert max(map(len, fake.calls)) == 8


def test_without_gathering_no_call_holds_two_requests():
    async def story(batcher, fake):
        batcher.expect()
        return await asyncio.gather(
            batcher.submit(ask(1)), batcher.submit_many([ask(2), ask(3)]), batcher.submit(ask(4))
        )

    _, fake, _ = play(story, gather=0)
    assert fake.calls == [[[1]], [[2], [3]], [[4]]]


def test_what_nobody_waits_for_is_not_computed():
    async def story(batcher, fake):
        first = await held(batcher, fake)
        gone = asyncio.create_task(batcher.submit_many([ask("gone", n) for n in range(3)]))
        stays = asyncio.create_task(batcher.submit(ask("stays")))
        call = asyncio.create_task(batcher.run(lambda: fake.calls.append("call")))
        await until(lambda: batcher._depth == 4)
        gone.cancel()
        call.cancel()
        await asyncio.wait([gone, call])
        fake.gate.set()
        await asyncio.gather(first, stays)

    _, fake, watch = play(story)
    assert fake.calls == [[["first"]], [["stays"]]]
    assert watch.dropped == 4
    assert watch.depths[-1] == 0


def test_a_request_that_is_cancelled_while_it_is_computed_harms_nobody():
    async def story(batcher, fake):
        first = await held(batcher, fake)
        first.cancel()
        await asyncio.wait([first])
        fake.gate.set()
        return await batcher.submit(ask(2))

    answer, _, watch = play(story)
    assert answer.candidates.item_id[0] == 2
    assert watch.dropped == 0


def test_a_query_that_fails_does_not_fail_its_neighbours():
    async def story(batcher, fake):
        return await asyncio.gather(
            batcher.submit(ask(1)), batcher.submit(ask("bug")), batcher.submit(ask("odd")), return_exceptions=True
        )

    (good, bug, odd), fake, _ = play(story)
    assert good.candidates.item_id[0] == 1
    assert isinstance(bug, RuntimeError)
    assert isinstance(odd, UnknownItem)
    assert fake.calls == [[[1], ["bug"], ["odd"]], [[1]], [["bug"]], [["odd"]]]


def test_calls_and_batches_take_turns():
    order = []

    async def story(batcher, fake):
        first = await held(batcher, fake)
        calls = [asyncio.create_task(batcher.run(lambda n=n: order.append(n))) for n in range(3)]
        queries = [asyncio.create_task(batcher.submit(ask(n))) for n in range(2)]
        await until(lambda: batcher._depth == 2)
        before = len(fake.calls)
        fake.gate.set()
        await calls[1]
        assert len(fake.calls) == before + 1  # between two calls stood the queries
        await asyncio.gather(first, *calls, *queries)

    play(story)
    assert order == [0, 1, 2]


def test_a_call_returns_or_raises():
    async def story(batcher, fake):
        assert await batcher.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await batcher.run(divmod, 7, 0)

    play(story)


def test_a_batcher_serves_one_loop_after_another():
    fake, watch = Fake(), Counting()
    batcher = Batcher(fake.answer, gather=2, max_batch=8, watch=watch)

    async def left_alone():
        await held(batcher, fake)  # the loop ends while the thread computes

    asyncio.run(left_alone())
    fake.gate.set()
    assert asyncio.run(batcher.submit(ask(1))).batch == 1
    batcher.close()
    assert asyncio.run(batcher.submit(ask(2))).batch == 1
    batcher.close()


@settings(max_examples=40)
@given(
    requests=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    max_batch=st.integers(1, 6),
    gather=st.sampled_from([0, 2]),
)
def test_every_query_is_computed_once_and_gets_its_own_answer(requests, max_batch, gather):
    async def story(batcher, fake):
        asked = [[ask(row, place) for place in range(count)] for row, count in enumerate(requests)]
        return await asyncio.gather(*map(batcher.submit_many, asked))

    answers, fake, watch = play(story, max_batch=max_batch, gather=gather)
    for row, (count, outcomes) in enumerate(zip(requests, answers, strict=True)):
        assert all(isinstance(one, Answer) for one in outcomes)
        assert [one.candidates.item_id[0] for one in outcomes] == list(range(count)), row
    computed = Counter(tuple(history) for call in fake.calls for history in call)
    assert set(computed.values()) == {1}
    assert sum(computed.values()) == sum(requests)
    assert max(watch.sizes) <= max_batch
    if gather == 0:
        assert all(len({history[0] for history in call}) == 1 for call in fake.calls)

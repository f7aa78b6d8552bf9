"""`task.single_flight`: concurrent calls with equal arguments share one call."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silly import task
from silly._loop.single_flight import _flights

pytestmark = pytest.mark.no_engine


class Work:
    """A function whose calls end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.cancelled: list[Any] = []
        self.gates: dict[Any, asyncio.Future[Any]] = {}

    async def __call__(self, key: Any) -> Any:
        self.begun.append(key)
        gate = self.gates[key] = asyncio.get_running_loop().create_future()
        try:
            return await gate
        except asyncio.CancelledError:
            self.cancelled.append(key)
            raise


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def callers(shared: Any, key: Any, number: int) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(shared(key)) for _ in range(number)]


async def test_concurrent_calls_share_one_and_nothing_is_remembered() -> None:
    work = Work()
    shared = task.single_flight(work)
    first, others = callers(shared, "a", 100), callers(shared, "b", 3)
    await turns()
    assert work.begun == ["a", "b"]
    answer = object()
    work.gates["a"].set_result(answer)
    assert all(each is answer for each in await asyncio.gather(*first))
    again = asyncio.create_task(shared("a"))
    await turns()
    assert work.begun == ["a", "b", "a"]
    work.gates["a"].set_result(2)
    work.gates["b"].set_result(3)
    assert await again == 2
    assert await asyncio.gather(*others) == [3, 3, 3]
    assert not _flights.of(asyncio.get_running_loop())


async def test_an_error_is_everybodys_and_the_next_call_tries_again() -> None:
    work = Work()
    shared = task.single_flight(work)
    waiting = callers(shared, "a", 3)
    await turns()
    work.gates["a"].set_exception(ValueError("no"))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(error) for error in errors] == ["no"] * 3
    again = asyncio.create_task(shared("a"))
    await turns()
    work.gates["a"].set_result("yes")
    assert await again == "yes"


async def test_a_cancelled_caller_leaves_and_the_last_takes_the_call_along() -> None:
    work = Work()
    shared = task.single_flight(work)
    waiting = callers(shared, "a", 3)
    await turns()
    waiting[0].cancel()  # also the one who began it
    await turns()
    assert waiting[0].cancelled()
    assert not work.cancelled
    waiting[1].cancel()
    waiting[2].cancel()
    await turns()
    assert [each.cancelled() for each in waiting] == [True] * 3
    assert work.cancelled == ["a"]
    assert not _flights.of(asyncio.get_running_loop())


async def test_the_last_caller_waits_for_the_end_of_the_call_and_nobody_joins_it() -> None:
    ending, may_end = asyncio.Event(), asyncio.Event()
    begun = 0

    @task.single_flight
    async def slow_to_end() -> int:
        nonlocal begun
        begun += 1
        number = begun
        try:
            await asyncio.sleep(3600 if number == 1 else 0)
        finally:
            ending.set()
            if number == 1:
                await may_end.wait()
        return number

    caller = asyncio.create_task(slow_to_end())
    await turns()
    caller.cancel()
    await ending.wait()
    assert not caller.done()
    assert await slow_to_end() == 2
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_timeout_of_a_caller_is_a_timeout() -> None:
    work = Work()
    shared = task.single_flight(work)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await shared("a")
    assert work.cancelled == ["a"]


async def test_a_call_that_ends_although_it_is_cancelled_gives_its_result() -> None:
    @task.single_flight
    async def stubborn() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "result"
        raise AssertionError

    caller = asyncio.create_task(stubborn())
    await turns()
    caller.cancel()
    assert await caller == "result"  # as of a caller who calls the function itself


async def test_after_forget_the_next_call_begins_anew() -> None:
    work = Work()
    shared = task.single_flight(work)
    shared.forget("a")  # there is none
    before = callers(shared, "a", 2)
    await turns()
    old = work.gates["a"]
    shared.forget("a")
    after = callers(shared, "a", 2)
    await turns()
    assert work.begun == ["a", "a"]
    old.set_result("old")
    work.gates["a"].set_result("new")
    assert await asyncio.gather(*before, *after) == ["old", "old", "new", "new"]


async def test_a_call_from_within_itself_is_refused() -> None:
    async def recurse(number: int) -> Any:
        return await (other if number else shared)(number)

    shared = task.single_flight(recurse)

    @task.single_flight
    async def other(number: int) -> int:
        async with asyncio.TaskGroup() as group:
            return int(await group.create_task(shared(number)))

    with pytest.raises(RuntimeError, match=r"recurse\(0\) would wait for itself"):
        await shared(0)
    with pytest.raises(ExceptionGroup) as caught:
        await shared(1)
    assert caught.group_contains(RuntimeError, match=r"recurse\(1\) would wait")


async def test_two_calls_that_others_began_are_not_left_waiting_for_each_other() -> None:
    both = asyncio.Barrier(2)

    @task.single_flight
    async def left() -> str:
        await both.wait()
        return await right()

    @task.single_flight
    async def right() -> str:
        await both.wait()
        return await left()

    async with asyncio.timeout(10):
        done = await asyncio.gather(left(), right(), return_exceptions=True)
    assert all("would wait for itself" in str(error) for error in done)


async def test_a_task_that_was_forked_in_a_call_may_call_again_when_that_has_ended() -> None:
    ended = asyncio.Event()
    results = []

    @task.single_flight
    async def call() -> int:
        async def later() -> None:
            await ended.wait()
            results.append(await call())

        if not results:
            results.append(1)
            task.fork(later)
        return 1

    await call()
    await turns()
    ended.set()
    await turns(10)
    assert results == [1, 1]


async def test_a_call_has_the_context_of_its_first_caller() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")

    @task.single_flight
    async def shared() -> str:
        return user.get()

    user.set("first")
    first = asyncio.create_task(shared())
    user.set("second")
    second = asyncio.create_task(shared())
    assert list(await asyncio.gather(first, second)) == ["first"] * 2


async def test_arguments_are_the_key() -> None:
    @task.single_flight
    async def add(one: int, *, two: int = 2) -> int:
        """Add."""
        return one + two

    assert list(await asyncio.gather(add(1), add(1, two=3), add(2))) == [3, 4, 4]
    assert (add.__name__, add.__doc__) == ("add", "Add.")  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="unhashable"):
        await add([])  # type: ignore[arg-type]


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="fn must be a coroutine function, not int"):
        task.single_flight(5)  # type: ignore[arg-type]
    with pytest.raises((TypeError, RuntimeError)) as caught:  # Python 3.11 wraps it

        class Users:
            @task.single_flight
            async def get(self) -> None: ...

    assert "not for methods such as" in str(caught.value.__cause__ or caught.value)


def test_each_loop_has_its_own_calls_and_takes_them_along() -> None:
    work = Work()
    shared = task.single_flight(work)

    async def leave_one() -> None:
        task.fork(shared, "a")
        await turns()

    async def finish_one() -> str:
        call = asyncio.create_task(shared("a"))
        await turns()
        work.gates["a"].set_result("done")
        return str(await call)

    asyncio.run(leave_one())
    assert work.cancelled == ["a"]
    loop = asyncio.new_event_loop()
    left = loop.create_task(shared("a"))  # it is never ended: the loop is closed first
    loop.run_until_complete(turns())
    left._log_destroy_pending = False  # type: ignore[attr-defined]
    for each in asyncio.all_tasks(loop):
        each._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    assert asyncio.run(finish_one()) == "done"
    thread = threading.Thread(target=lambda: asyncio.run(leave_one()))
    thread.start()
    thread.join()
    gone = weakref.ref(loop)
    del loop, left, each
    work.gates.clear()
    gc.collect()
    assert gone() is None


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 1)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 1)),
        st.tuples(st.just("fail"), st.integers(0, 1)),
        st.tuples(st.just("forget"), st.integers(0, 1)),
        st.tuples(st.just("turns"), st.integers(1, 3)),
    ),
    max_size=30,
)


@settings(max_examples=150)
@given(Steps)
def test_any_sequence_of_steps_keeps_the_promises(steps: list[tuple[str, int]]) -> None:
    """Each caller who is not cancelled gets the end of a call that was running while it waited."""

    async def run() -> None:
        running: dict[int, list[tuple[int, asyncio.Future[int]]]] = {0: [], 1: []}
        forgotten: Counter[int] = Counter()
        number = 0
        ended_by_us: set[int] = set()
        cancelled: set[int] = set()

        async def work(key: int) -> int:
            nonlocal number
            number += 1
            mine: tuple[int, asyncio.Future[int]] = (
                number,
                asyncio.get_running_loop().create_future(),
            )
            running[key].append(mine)
            assert len(running[key]) <= 1 + forgotten[key]
            try:
                return await mine[1]
            except asyncio.CancelledError:
                cancelled.add(mine[0])
                raise
            finally:
                running[key].remove(mine)

        shared = task.single_flight(work)
        calls: list[tuple[asyncio.Task[int], int]] = []
        asked: set[asyncio.Task[int]] = set()
        for step, value in steps:
            match step:
                case "call":
                    calls.append((asyncio.create_task(shared(value)), number))
                case "cancel" if value < len(calls):
                    asked.add(calls[value][0])
                    calls[value][0].cancel()
                case "end" | "fail" if running[value] and not running[value][0][1].done():
                    which, future = running[value][0]
                    ended_by_us.add(which)
                    if step == "end":
                        future.set_result(which)
                    else:
                        future.set_exception(ValueError(which))
                case "forget":
                    forgotten[value] += 1
                    shared.forget(value)
                case "turns":
                    await turns(value)
        await turns()
        while any(running.values()):
            for calls_of in running.values():
                for which, future in list(calls_of):
                    ended_by_us.add(which)
                    if not future.done():
                        future.set_result(which)
            await turns()
        await turns()
        for caller, _ in calls:
            assert caller.done()
            if caller.cancelled():
                assert caller in asked
            else:
                error = caller.exception()
                assert error is None or isinstance(error, ValueError)
                which = caller.result() if error is None else error.args[0]
                assert which in ended_by_us
        # Nothing ended but what was ended or abandoned.
        assert set(range(1, number + 1)) - cancelled <= ended_by_us
        assert not _flights.of(asyncio.get_running_loop())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())

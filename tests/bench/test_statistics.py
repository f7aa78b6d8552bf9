"""The logic without I/O: histograms, schedules, parsing of options, judging of results."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly._values import units
from silly.bench import plan as plans_module
from silly.bench import result as results
from silly.bench import summary
from silly.bench.asserts import Claim
from silly.bench.compare import compare, differences
from silly.bench.encryption import Encryption
from silly.bench.find_max import Try, judge, limit, plans, search, stronger
from silly.bench.histogram import ERROR, Histogram
from silly.bench.http_request import HttpRequest
from silly.bench.plan import Plan
from silly.bench.recorder import AFTER, Interval, Recorder
from silly.bench.schedule import Ramp, Schedule, Stage
from silly.bench.sizes import Sizes
from silly.bench.websocket_target import WebSocketTarget
from silly.cli.benching.search import Search

pytestmark = pytest.mark.no_engine

nanoseconds = st.one_of(st.integers(0, 5000), st.integers(0, 10**12))
some = st.lists(nanoseconds, min_size=1, max_size=200)


def counted(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


# ------------------------------------------------------------------------ histograms


@given(some, st.floats(0, 100))
def test_a_percentile_is_within_its_error_of_a_recorded_value(
    values: list[int], percent: float
) -> None:
    found = counted(values).percentile(percent)
    rank = max(1, math.ceil(percent / 100 * len(values) - 1e-9))
    right = sorted(values)[rank - 1]
    assert found is not None
    assert abs(found - right) <= right * ERROR


@given(some, some)
def test_merging_adds_counts(one: list[int], other: list[int]) -> None:
    merged = counted(one)
    merged.merge(counted(other))
    assert merged.to_list() == counted(one + other).to_list()


@given(st.lists(nanoseconds))
def test_plain_data_round_trip(values: list[int]) -> None:
    histogram = counted(values)
    again = Histogram.from_list(histogram.to_list())
    assert again.to_list() == histogram.to_list()
    assert (again.count, again.minimum, again.maximum, again.mean) == (
        len(values),
        min(values, default=None),
        max(values, default=None),
        sum(values) / len(values) if values else None,
    )


@given(some)
def test_percentiles_ascend_and_end_at_the_maximum(values: list[int]) -> None:
    found = counted(values).percentiles((0, 10, 50, 90, 99, 99.9, 100))
    assert found == sorted(found)
    assert found[0] >= min(values)
    assert found[-1] == max(values)


def test_edges_of_a_histogram() -> None:
    histogram = Histogram()
    assert histogram.percentile(50) is None
    assert histogram.percentiles((50, 99)) == []
    histogram.record(-5)
    histogram.record(1 << 60, 3)
    assert (histogram.count, histogram.minimum, histogram.maximum) == (4, 0, (1 << 43) - 1)
    not_its_extremes = ([6, 8, 15, 7, 1, 8, 1], [7, 9, 15, 7, 1, 8, 1], [8, 7, 15, 7, 1, 8, 1])
    out_of_range = ([0, 0, 0, -1, 1], [0, 0, 0, 1, -1], [0, 0, 0, 10**6, 1])
    for wrong in ([], [1, 2], *out_of_range, *not_its_extremes):
        with pytest.raises(ValueError, match="not a histogram"):
            Histogram.from_list(wrong)


# ------------------------------------------------------------------------- schedules

levels = st.floats(0.5, 10_000)
stages = st.lists(st.builds(Stage, st.floats(0.01, 100), levels), max_size=4)


@given(levels, stages, st.integers(0, 5000))
def test_requests_are_due_in_order_and_follow_the_rate(
    start: float, then: list[Stage], number: int
) -> None:
    schedule = Schedule(Ramp(start, then))
    assert schedule.due(0) == 0
    assert schedule.due(number) <= schedule.due(number + 1)
    # The number of a request is the area under the piecewise linear rate until it is due.
    due, ramp = schedule.due(number), Ramp(start, then)
    ends = itertools.accumulate((stage.seconds for stage in then), initial=0.0)
    places = [*(end for end in ends if end < due), due]
    area = sum(
        (ramp.level(one) + ramp.level(other)) / 2 * (other - one)
        for one, other in itertools.pairwise(places)
    )
    assert area == pytest.approx(number, rel=1e-6, abs=1e-6)


@given(levels, stages, st.floats(0, 50))
def test_counting_is_the_inverse_of_due(start: float, then: list[Stage], time: float) -> None:
    schedule = Schedule(Ramp(start, then))
    count = schedule.count(time)
    assert schedule.due(count) >= time
    assert count == 0 or schedule.due(count - 1) < time


@given(levels, st.integers(1, 7), st.integers(0, 300))
def test_workers_share_one_schedule(rate: float, parts: int, number: int) -> None:
    whole = Schedule(Ramp(rate))
    shares = [Schedule(Ramp(rate), part, parts) for part in range(parts)]
    assert shares[number % parts].due(number // parts) == whole.due(number)


def test_a_ramp_is_straight_between_its_stages_and_stays_at_the_last() -> None:
    ramp = Ramp(10, [Stage(10, 110), Stage(5, 110), Stage(2, 0)])
    assert [ramp.level(t) for t in (-1, 0, 5, 10, 14, 16, 17, 99)] == [
        10, 10, 60, 110, 110, 55, 0, 0,
    ]  # fmt: skip
    assert (ramp.seconds, ramp.highest) == (17, 110)
    assert Schedule(Ramp(0)).due(1) == math.inf
    downhill = Schedule(Ramp(100, [Stage(1, 0)]))
    assert (downhill.count(1.0), downhill.due(51)) == (50, math.inf)


# ------------------------------------------------------------ what options mean


@given(st.integers(0, 10**9))
def test_plain_sizes(size: int) -> None:
    assert units.size(str(size)) == Sizes.parse(str(size)).one == size


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 99), st.integers())
def test_sizes_follow_their_shares(low: int, more: int, share: int, seed: int) -> None:
    sizes = Sizes.parse(f"{low}-{low + more}:{share}%,9999:{100 - share}%")
    drawn = sizes.draw(50, seed)
    assert all(low <= size <= low + more or size == 9999 for size in drawn)
    assert drawn == sizes.draw(50, seed)
    assert (sizes.least, sizes.most) == (min(low, 9999), max(low + more, 9999))


def test_shares_of_sizes() -> None:
    drawn = Sizes.parse("64:90%,4096:10%").draw(10_000, 1)
    assert 800 < drawn.count(4096) < 1200
    assert Sizes.parse("1k").one == 1024


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a size such as"),
        ("x", "'x' is not a size such as"),
        ("5-", "not a size such as"),
        ("10-5", "5 is less than 10"),
        ("64:50%", "add up to 50%, not 100%"),
        ("64:50%,65:60%", "add up to 110%"),
        ("64,65", "has no share"),
        ("64:9,65:91%", "has no %"),
        ("64:0%,65:100%", "more than 0%"),
        ("64:x%,65:100%", "is not a number"),
        ("1.5", "whole number"),
    ],
)
def test_bad_sizes_are_explained(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Sizes.parse(text)


@given(st.floats(0.001, 1000), st.integers(0, 10**6))
def test_stages(seconds: float, level: int) -> None:
    assert Stage.parse(f"{seconds:.3f}s:{level}") == Stage(float(f"{seconds:.3f}"), level)


@pytest.mark.parametrize("text", ["", "30s", ":5", "30s:", "30s:x", "x:5", "0s:5", "30s:-5"])
def test_bad_stages_are_explained(text: str) -> None:
    with pytest.raises(ValueError, match="stage"):
        Stage.parse(text)


def test_units() -> None:
    assert [units.duration(text) for text in ("2", "500ms", "1.5m", "2h", "5us", "7µs")] == (
        pytest.approx([2, 0.5, 90, 7200, 5e-6, 7e-6])
    )
    assert [units.size(text) for text in ("64", "64k", "1M", "2KiB", "1.5k", "3 MB")] == [
        64, 65536, 1 << 20, 2048, 1536, 3 << 20,
    ]  # fmt: skip
    assert [units.count(text) for text in ("7", "10k", "1.5M")] == [7, 10_000, 1_500_000]
    assert [units.rate(text) for text in ("0.5", "10k", "2k/s")] == [0.5, 10_000, 2000]
    for parse, wrong in (
        (units.duration, "soon"),
        (units.duration, "-1s"),
        (units.size, "1.0001"),
        (units.count, "1.5"),
        (units.rate, "fast"),
        (units.number, "nan"),
        (units.number, "x"),
    ):
        with pytest.raises(ValueError, match="is not"):
            parse(wrong)
    assert [units.duration_text(v) for v in (None, 0, 1.5e-9, 1e-6, 0.00123456, 0.9999, 12.3)] == [
        "-", "0 s", "1.50 ns", "1 µs", "1.23 ms", "1.00 s", "12.3 s",
    ]  # fmt: skip
    assert [units.size_text(v) for v in (64, 1536, 1 << 30)] == ["64 B", "1.50 KiB", "1 GiB"]
    assert [units.text_of_count(v) for v in (0, 1.5, 71234)] == ["0", "1.50", "71 234"]


# ------------------------------------------------------------------------- judging


def a_result(**changes: Any) -> dict[str, Any]:
    histogram = counted([1_000_000 * n for n in range(1, 101)])
    result: dict[str, Any] = {
        "latency": {
            "min": 0.001, "mean": 0.05, "max": 0.1,
            "percentiles": {"50": 0.05, "99": 0.099}, "histogram": histogram.to_list(),
        },
        "requests": 100, "rate": 12_345.0, "errors": {"total": 0},
        "open_loop": None, "server": None, "client": {"cpu": 0.5},
    }  # fmt: skip
    return {**result, **changes}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("p99<100ms", True),
        ("p99 <= 99ms", True),
        ("p50>=51ms", False),
        ("p10<11ms", True),  # not published, so computed from the histogram
        ("p10<9.9ms", False),
        ("max==0.1", True),
        ("mean!=50ms", False),
        ("errors==0", True),
        ("error_rate<1%", True),
        ("requests>99", True),
        ("rate>=12k", True),
        ("rate>=13k/s", False),
        ("client_cpu<0.9", True),
        ("late==0", False),  # without a schedule, a claim about it cannot hold
        ("rss<1g", False),
        ("cpu_per_request<1ms", False),
    ],
)
def test_claims(text: str, holds: bool) -> None:
    assert Claim.parse(text).holds(a_result()) is holds


@pytest.mark.parametrize(
    ("text", "actual"),
    [("rss<1g", "2 KiB"), ("late==0", "not measured"), ("p50<1s", "50 ms"), ("errors==0", "0")],
)
def test_figures_have_their_units(text: str, actual: str) -> None:
    result = a_result(server={"rss": 2048, "cpu": 0.1, "cpu_per_request": 0.1})
    assert Claim.parse(text).actual_text(result) == actual


@pytest.mark.parametrize(
    "text", ["", "p99", "p99<", "<5ms", "p99<5 apples", "p0<1ms", "p101<1ms", "size<5", "errors==x"]
)
def test_bad_claims_are_explained(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a claim.*expected FIGURE COMPARISON VALUE"):
        Claim.parse(text)


@given(st.floats(0.001, 60), st.sampled_from(["<", "<=", ">", ">="]))
def test_claims_compare_as_numbers_do(value: float, comparison: str) -> None:
    claim = Claim.parse(f"max{comparison}{value:.6f}s")
    assert claim.holds(a_result()) is eval(f"0.1 {comparison} {value:.6f}")


# ----------------------------------------------------------------------- comparing


def a_run(rate: float, middle: float, seed: int, seconds: int = 20) -> dict[str, Any]:
    rng = random.Random(seed)
    intervals: list[dict[str, Any]] = []
    all_values: list[int] = []
    for start in range(seconds):
        count = max(1, round(rng.gauss(rate, rate / 20)))
        values = [round(rng.lognormvariate(math.log(middle), 0.3) * 1e9) for _ in range(count)]
        all_values += values
        intervals.append(
            {"start": start, "length": 1.0, "requests": count, "rate": float(count),
             "histogram": counted(values).to_list()}
        )  # fmt: skip
    percents = (50.0, 90.0, 99.0, 99.9)
    found = counted(all_values).percentiles(percents)
    return {
        "rate": sum(part["requests"] for part in intervals) / seconds,
        "latency": {
            "percentiles": {f"{p:g}": v / 1e9 for p, v in zip(percents, found, strict=True)}
        },
        "intervals": intervals,
    }


def test_a_difference_is_distinguished_from_noise() -> None:
    base = a_run(200, 0.001, 1)
    verdicts = {each.name: each.verdict for each in compare(base, a_run(200, 0.001, 2), draws=300)}
    assert verdicts["rate"] == verdicts["p50"] == "noise"
    found = {each.name: each for each in compare(base, a_run(300, 0.0005, 3), draws=300)}
    assert found["rate"].verdict == found["p50"].verdict == "better"
    assert found["rate"].low is not None
    assert found["rate"].high is not None
    assert found["rate"].low < found["rate"].ratio < found["rate"].high
    assert 0.45 < found["p50"].ratio < 0.55
    worse = {each.name: each.verdict for each in compare(a_run(300, 0.0005, 3), base, draws=300)}
    assert worse["rate"] == worse["p50"] == "worse"


def test_a_run_is_the_same_as_itself() -> None:
    base = a_run(50, 0.001, 1)
    assert {each.verdict for each in compare(base, base, draws=100)} == {"noise"}
    assert {each.ratio for each in compare(base, base, draws=100)} == {1.0}


def test_a_server_that_has_stopped_to_answer_is_worse() -> None:
    base, silent = a_run(200, 0.001, 1), a_run(200, 0.001, 2)
    silent["rate"] = 0.0
    for part in silent["intervals"][3:]:
        part.update(requests=0, rate=0.0, histogram=[])
    found = {each.name: each for each in compare(base, silent, draws=300)}
    assert (found["rate"].verdict, found["rate"].ratio) == ("worse", 0.0)


def test_what_makes_a_comparison_doubtful_is_said() -> None:
    def run(errors: int, *, is_limit: bool, depth: int) -> dict[str, Any]:
        return {
            "plan": {"depth": depth}, "errors": {"total": errors}, "client": {"is_limit": is_limit}
        }  # fmt: skip

    one, other = run(0, is_limit=True, depth=1), run(3, is_limit=False, depth=2)
    assert list(differences(one, other)) == [
        "depth was 1 and 2",
        "the client may have been the limit of the first run",
        "the second run had 3 errors",
    ]


def test_too_few_intervals_give_no_verdict() -> None:
    short = a_run(200, 0.001, 1, seconds=4)
    assert {each.verdict for each in compare(short, a_run(900, 1, 2))} == {"too short to tell"}


@given(st.floats(2, 1e7), st.floats(1, 1e5), st.floats(0.01, 0.2))
def test_the_search_finds_the_highest_rate_that_holds(
    limit: float, start: float, precision: float
) -> None:
    tried = search(start, precision, 60)
    rate = next(tried)
    found: float | None = None
    try:
        while True:
            rate = tried.send(rate <= limit)
    except StopIteration as end:
        found = end.value
    assert found is not None
    assert limit / (1 + precision) <= found * (1 + 1e-9)
    assert found <= limit


def test_the_search_gives_up() -> None:
    tried = search(1000, 0.05, 60)
    next(tried)
    with pytest.raises(StopIteration) as end:
        for _ in range(60):
            tried.send(False)
    assert end.value.value is None


def searched(server: float, client: float, cores: int) -> tuple[list[Try], list[Plan]]:
    """Search with a server that holds *server* per second, and *client* for each worker."""
    search = plans(Plan("x:1", rate=1000.0, busy_poll=True), 0.05, 30, cores)
    tries: list[Try] = []
    tried = [next(search)]
    while True:
        plan, rate = tried[-1], tried[-1].rate or 0.0
        by = "client" if rate > client * plan.workers else "server" if rate > server else ""
        tries.append(Try(rate, rate, not by, by, by, plan.workers, plan.busy_poll))
        try:
            tried.append(search.send(tries[-1]))
        except StopIteration:
            return tries, tried


@pytest.mark.parametrize(
    ("server", "client", "cores", "found", "by"),
    [
        (5000, 9000, 2, 5000, "server"),
        (30_000, 9000, 2, 18_000, "client"),
        (30_000, 9000, 8, 30_000, "server"),
        (30_000, 9000, 0, 9000, "client"),  # as it is
        (1e12, 9000, 0, 9000, "client"),
        (30, 1e9, 2, 30, "server"),
    ],
)
def test_a_search_ends_at_the_limit_of_client_or_server(
    server: float, client: float, cores: int, found: float, by: str
) -> None:
    tries, tried = searched(server, client, cores)
    best = max(each.rate for each in tries if each.holds)
    assert found / 1.06 <= best <= found
    assert limit(tries) == by
    assert max(plan.workers for plan in tried) <= max(1, cores)


def test_a_stronger_client_leaves_the_server_a_core() -> None:
    plan, seen = Plan("x:1", rate=1.0, busy_poll=True), []
    while (further := stronger(plan, 4)) is not None:
        plan = further
        seen.append((plan.workers, plan.busy_poll))
    assert seen == [(2, True), (2, False), (4, False)]
    assert stronger(Plan("x:1", connections=1, busy_poll=False), 4) is None
    assert limit([Try(5.0, 5.0, True, "", "", 1, True)]) == "tries"


@pytest.mark.parametrize(
    ("is_limit", "errors", "by"), [(1, 0, "client"), (0, 0, "server"), (1, 2, "server")]
)
def test_why_a_rate_fails(is_limit: int, errors: int, by: str) -> None:
    plan = Plan("x:1", rate=100.0)
    result: dict[str, Any] = {
        "rate": 50.0, "errors": {"total": errors}, "client": {"is_limit": bool(is_limit)},
        "open_loop": {"asked_rate": 100.0, "scheduled": 100, "unsent": 0},
    }  # fmt: skip
    one = judge(plan, result, [])
    assert (one.holds, one.limit, one.answered) == (False, by, 50.0)
    right = {**result, "rate": 99.0, "errors": {"total": 0}}
    assert judge(plan, right, []).holds
    waiting = {**right, "open_loop": {"asked_rate": 100.0, "scheduled": 100, "unsent": 50}}
    assert judge(plan, waiting, []).why == "50 requests never sent"
    fan_out = dataclasses.replace(plan, connections=3, fan_out=True)  # each message comes 3 times
    assert not judge(fan_out, right, []).holds
    assert judge(fan_out, {**right, "rate": 297.0}, []).holds


def test_a_client_that_is_the_limit_has_a_verdict_and_an_exit_code() -> None:
    for is_limit, code in ((True, 5), (False, 1)):
        found = Search()
        result: dict[str, Any] = {
            "rate": 50.0, "errors": {"total": 0, "wrong": 0}, "client": {"is_limit": is_limit},
            "open_loop": {"asked_rate": 100.0, "scheduled": 100, "unsent": 0},
        }  # fmt: skip
        found.add(Plan("x:1", rate=100.0), result, [])
        assert found.code == code
        published = found.published()
        assert published is not None
        assert published["find_max"]["limit"] == ("client" if is_limit else "server")
        assert any("the server may hold more" in line for line in found.lines()) is is_limit


def test_a_run_says_what_makes_its_figures_doubtful() -> None:
    result: dict[str, Any] = {
        "duration": 1.0, "udp": {"dropped_by_client": 2},
        "open_loop": {"late": 0, "late_by_client": 0, "unsent": 1},
    }  # fmt: skip
    dropped, busy = results._warnings(result, Interval(0))
    assert "this machine dropped 2 datagrams" in dropped
    assert "all connections were busy when 1 request was due" in busy
    assert results._busy(Plan("x:1"), Interval(0), 0.0) == 0.0
    (nothing,) = results._warnings({"duration": 0}, Interval(0))
    assert nothing == "the run ended before it measured anything"


def test_an_interval_that_ends_with_the_run_is_complete() -> None:
    intervals: list[Interval] = []
    recorder = Recorder(1e-9, intervals.append, lambda: 0.0)
    recorder.start(0, 0, 10)
    recorder.answered(0, 1, 1)
    recorder.end(3)  # three intervals later
    recorder.report(9)
    assert [(each.index, each.requests) for each in intervals] == [(0, 1), (AFTER, 0)]


@pytest.mark.parametrize("scheme", ["http", "https", "ws", "wss"])
def test_the_scheme_of_a_url_says_whether_it_is_encrypted(scheme: str) -> None:
    url = f"{scheme}://h/"
    plan = (
        Plan.of_http(HttpRequest(url))
        if scheme.startswith("http")
        else Plan.of_websocket(WebSocketTarget(url))
    )
    assert plan.tls == (Encryption() if scheme in {"https", "wss"} else None)


def test_requests_that_were_sent_again_are_in_the_summary() -> None:
    http = {"statuses": {"200": 5}, "repeated": 2}
    (line,) = summary._statuses({"http": http})
    assert line.split(maxsplit=1) == [
        "statuses", "200: 5, sent again after the end of a connection: 2"
    ]  # fmt: skip


def test_messages_of_websockets_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans_module, "MOST", 10)
    plan = Plan.of_websocket(WebSocketTarget("ws://h:1/"), data=b"x" * 11)
    with pytest.raises(ValueError, match="--data: a message has 10 bytes at most"):
        plan.check()


def test_empty_intervals_have_rows() -> None:
    plan = Plan("localhost:9999", interval=0.1)
    intervals = results._intervals(plan, {1: Interval(1), AFTER: Interval(AFTER)}, 0.35)
    assert [each["start"] for each in intervals] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [each["length"] for each in intervals] == pytest.approx([0.1, 0.1, 0.1, 0.05])

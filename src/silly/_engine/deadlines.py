"""Time limits of a connection: idle timeout, deadlines, and the minimum send rate.

Deadlines cost neither a timer for each connection nor work for each message: a sweep calls
`_check_deadlines` periodically, which compares counters that are kept anyway with their
previous values. Only an idle timeout that a program sets for one connection has a timer;
messages do not reset it, because it compares times when it expires.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

from silly._engine import stream_errors
from silly._engine.interface import Deadlines
from silly._values.arguments import positive_seconds

from .lifecycle import Lifecycle  # relative: each engine has a base of its own

__all__ = ["Timed"]


class DeadlineState:
    """What `Timed._check_deadlines` saw the last time."""

    __slots__ = ("partial", "partial_since", "window_acked", "window_start", "window_written")

    def __init__(self) -> None:
        self.partial = -1  # bytes read before those of the read that waits; -1: none waits
        self.partial_since = 0.0
        self.window_acked = -1  # bytes acknowledged when the window began; -1: all were
        self.window_written = 0  # bytes written when it began
        self.window_start = 0.0


class Timed(Lifecycle):
    """The part of a stream that enforces time limits."""

    __slots__ = (
        "_all_acked",
        "_deadline_state",
        "_idle_timeout",
        "_unsent_seen",
    )

    _all_acked: int  # bytes known to be acknowledged, if that is all of them
    _deadline_state: DeadlineState | None
    _idle_timeout: float  # 0: none; without a `_timer`, `_check_deadlines` checks it
    _unsent_seen: int

    # ---------------------------------------------------------------------- ended by limits

    def _end_for_limit(self, limit: str, error: OSError) -> None:
        """End the connection because of *limit*, unless it is ending already.

        For ``"memory_budget"``, discard its unread bytes, and reset it even if it lingers.
        """
        over_budget = limit == "memory_budget"
        if over_budget:
            self._discard_unread()
        if self._is_closed or self._failed:
            return
        if self._is_active():
            self._end(limit, error)
        elif over_budget and self._is_lingering():
            self._ended_by = limit
            self.abort()

    # ---------------------------------------------------------------------------- idleness

    @property
    def idle_timeout(self) -> float | None:
        return self._idle_timeout or None

    @idle_timeout.setter
    def idle_timeout(self, value: float | None) -> None:
        value = positive_seconds(value, "idle_timeout")
        self._idle_timeout = 0.0 if value is None else value
        if not self._is_active():
            return  # bounded by linger
        self._stop_timer()
        if self._idle_timeout:
            self._arm_idle_timer(self._last_activity + self._idle_timeout)

    def _arm_idle_timer(self, when: float) -> None:
        self._timer = self._call_later(when - self._now(), self._check_idle)

    def _check_idle(self) -> None:
        """Close if no bytes moved for `idle_timeout`, else set the timer again."""
        self._timer = None
        if not self._is_active():
            return
        due = self._idle_until()
        if self._now() < due - 0.001:
            self._arm_idle_timer(due)
        else:
            self._end("idle_timeout", stream_errors.idle_timed_out(self._idle_timeout))

    def _idle_until(self) -> float:
        """Return when the idle timeout expires if no more bytes move."""
        unsent = self._unsent()
        if unsent != self._unsent_seen:  # the peer took bytes, or more were written
            self._unsent_seen = unsent
            self._last_activity = self._now()
        return self._last_activity + self._idle_timeout

    # --------------------------------------------------------------------------- deadlines

    def _check_deadlines(self, now: float, deadlines: Deadlines) -> None:
        """End the connection if one of *deadlines* has passed at *now*. Called periodically."""
        first_byte, read_deadline, receive_rate, send_rate, send_window = deadlines
        if self._failed or not self._is_active():
            return
        self._account()
        if self._check_send_rate(now, send_rate, send_window):
            return
        if self._check_read_deadline(now, first_byte, read_deadline, receive_rate):
            return
        state = self._deadline_state
        if state is not None and state.window_acked < 0 and state.partial < 0:
            self._deadline_state = None
        if self._idle_timeout and self._timer is None and now >= self._idle_until():
            self._end("idle_timeout", stream_errors.idle_timed_out(self._idle_timeout))

    def _check_send_rate(self, now: float, rate: float, window: float) -> bool:
        """Check that the peer takes bytes fast enough; return whether the connection was ended."""
        written = self._bytes_out
        acked = written
        if rate and written != self._all_acked:
            acked = self._acknowledged()
        state = self._deadline_state
        if acked >= written:
            self._all_acked = written
            if state is not None:
                state.window_acked = -1
            return False
        state = self._get_deadline_state()
        if state.window_acked >= 0 and acked < state.window_written:  # the window is open
            if now - state.window_start < window:
                return False
            if acked - state.window_acked < rate * (now - state.window_start):
                self._end("min_send_rate", stream_errors.send_rate_too_low(rate, window))
                return True
        state.window_acked = acked
        state.window_written = written
        state.window_start = now
        return False

    def _check_read_deadline(
        self, now: float, first_byte: float, deadline: float, rate: float
    ) -> bool:
        """Check the waiting read; return whether the connection was ended."""
        unread = self._unfinished()
        pending = self._is_read_pending()
        if not pending or unread == 0:
            if self._deadline_state is not None:
                self._deadline_state.partial = -1
            if (
                pending
                and now - self._opened >= first_byte
                and not (self._received() or self._written())
            ):
                self._end("first_byte_timeout", stream_errors.first_byte_timed_out(first_byte))
                return True
            return False
        taken = self._received() - self._unread()
        state = self._get_deadline_state()
        if state.partial != taken:
            state.partial = taken
            state.partial_since = now
        elif now - state.partial_since >= deadline + unread / rate:
            self._end("read_deadline", stream_errors.read_deadline_passed(unread, deadline))
            return True
        return False

    def _get_deadline_state(self) -> DeadlineState:
        state = self._deadline_state
        if state is None:
            state = self._deadline_state = DeadlineState()
        return state

"""The settings of a run, checked: all that the generator needs to know.

The command line, the result and the workers share this one dataclass. Durations are
in seconds, sizes in bytes, rates per second.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Final

from silly.bench import messages
from silly.bench.encryption import Encryption
from silly.bench.http_request import HttpRequest
from silly.bench.messages import Factory, framed
from silly.bench.schedule import Ramp, Schedule, Stage
from silly.bench.sizes import Sizes
from silly.bench.websocket_target import MOST, WebSocketTarget
from silly.net import addr as addresses

__all__ = ["MODES", "Plan"]

MODES: Final = ("keep", "reconnect", "hold")
LEAST_INTERVAL: Final = 0.001  # seconds
_LEAST_DATAGRAM: Final = 18  # bytes: the numbers of the request and of its socket
_MOST_DATAGRAM: Final = 65503  # bytes, with a length prefix
_DEFAULT_SIZES: Final = Sizes(((1.0, 64, 64),))


@dataclass(frozen=True, slots=True)
class Plan:
    """Which server to load, and how. `check` finds contradictions."""

    addr: str
    connections: int = 10
    depth: int = 1
    """Requests in flight on each connection, at most."""
    rate: float | None = None
    """Requests per second (open loop); None: closed loop."""
    mode: str = "keep"
    framing: str = "line"
    sizes: Sizes = _DEFAULT_SIZES
    data: bytes | None = None
    template: bytes | None = None
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    stages: tuple[Stage, ...] = ()
    connect_rate: float | None = None
    duration: float | None = None
    requests: int | None = None
    warmup: float = 0.0
    workers: int = 1
    timeout: float = 5.0
    """For each reply, and for making each connection."""
    max_errors: int = 100
    interval: float = 1.0
    busy_poll: bool = False
    seed: int = 1
    tls: Encryption | None = None
    """None: connections are not encrypted."""
    udp: bool = False
    """Whether each request and each reply is a datagram."""
    http: HttpRequest | None = None
    """The request to an HTTP server; None: requests are just bytes, or messages."""
    websocket: WebSocketTarget | None = None
    """The server of WebSockets, whose messages are requests and replies; None: there are none."""
    fan_out: bool = False
    """Whether one more WebSocket sends, and the others receive what it has sent."""

    @classmethod
    def of_http(cls, http: HttpRequest, **settings: Any) -> Plan:
        """Return a plan for the server of *http*, encrypted if its URL begins with https.

        Raises:
            ValueError: *http* cannot be sent.
        """
        http.check()
        if http.is_encrypted and settings.get("tls") is None:
            settings["tls"] = Encryption()
        return cls(http.addr, http=http, **settings)

    @classmethod
    def of_websocket(cls, target: WebSocketTarget, **settings: Any) -> Plan:
        """Return a plan for the server of *target*, encrypted if its URL begins with wss.

        Raises:
            ValueError: no WebSocket can be asked for like that.
        """
        target.check()
        if target.is_encrypted and settings.get("tls") is None:
            settings["tls"] = Encryption()
        framing = "raw" if target.is_binary else "text"
        return cls(target.addr, websocket=target, framing=framing, **settings)

    def check(self) -> None:
        """Raise ValueError with a line that names the options if the plan contradicts itself."""
        if getattr(addresses.parse(self.addr, "ADDR"), "port", 1) == 0:
            raise ValueError(f"ADDR {self.addr!r} has port 0: give the server's port")
        self._check_numbers()
        self._check_payload()
        open_loop, hold = self.rate is not None, self.mode == "hold"
        closed_ramp = bool(self.stages) and not open_loop
        for wrong, text in (
            (self.requests is not None and self.duration is not None,
             "--requests and --duration: give one of them"),
            (bool(self.stages) and self.duration is not None,
             "--stage and --duration: the run lasts as long as its stages"),
            (bool(self.stages) and self.requests is not None,
             "--stage and --requests: the run lasts as long as its stages"),
            (hold and open_loop, "--rate and --mode hold: idle connections send no requests"),
            (hold and self.requests is not None,
             "--requests and --mode hold: connections are held for --duration"),
            (hold and self.depth != 1,
             "--depth and --mode hold: idle connections send no requests"),
            (self.mode == "reconnect" and self.depth != 1,
             "--depth and --mode reconnect: each connection has one request"),
            (self.mode == "reconnect" and self.connect_rate is not None,
             "--connect-rate and --mode reconnect: set the rate of connections with --rate"),
            (closed_ramp and self.connect_rate is not None,
             "--connect-rate and --stage: the stages say when connections are opened"),
            (closed_ramp and any(stage.target != int(stage.target) for stage in self.stages),
             "--stage without --rate: the number of connections must be whole"),
            (self.udp and not isinstance(addresses.parse(self.addr), addresses.TCPAddress),
             f"--udp and {self.addr}: UDP needs an ADDR with a port"),
            (self.udp and self.tls is not None, "--udp and --tls: datagrams are not encrypted"),
            (self.udp and self.mode != "keep",
             f"--udp and --mode {self.mode}: UDP has no connections"),
            (self.udp and self.http is not None, "--udp and a URL: HTTP needs connections"),
            (self.http is not None and self.tls is not None and not self.http.is_encrypted,
             "--tls and http://: the URL of an encrypted connection begins with https://"),
            (self.udp and self.websocket is not None,
             "--udp and a URL: WebSockets need connections"),
            (self.websocket is not None and self.tls is not None
             and not self.websocket.is_encrypted,
             "--tls and ws://: the URL of an encrypted WebSocket begins with wss://"),
            (self.fan_out and self.websocket is None,
             f"--fan-out needs a URL such as ws://{self.addr}/"),
            (self.fan_out and self.workers != 1,
             "--fan-out and --workers: all connections need one clock"),
            (self.fan_out and self.mode != "keep",
             f"--fan-out and --mode {self.mode}: connections stay open"),
            (self.fan_out and (closed_ramp or self.connect_rate is not None),
             "--fan-out: all connections are opened before the start"),
            (self.most_connections < self.workers,
             f"--workers {self.workers}: only {self.most_connections} connections for them"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(text)

    def _check_numbers(self) -> None:
        for name, value, least in (
            ("--connections", self.connections, 0 if self.stages and self.rate is None else 1),
            ("--depth", self.depth, 1),
            ("--workers", self.workers, 1),
            ("--requests", self.requests, 1),
            ("--max-errors", self.max_errors, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more, not {value}")
        for name, seconds in (
            ("--duration", self.duration),
            ("--timeout", self.timeout),
            ("--interval", self.interval),
            ("--connect-rate", self.connect_rate),
        ):
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} must be more than 0, not {seconds:g}")
        if self.interval < LEAST_INTERVAL:
            raise ValueError(f"--interval must be {LEAST_INTERVAL * 1e3:g} ms or more")
        if self.rate is not None and (self.rate < 0 or (self.rate == 0 and not self.stages)):
            raise ValueError(f"--rate must be more than 0, not {self.rate:g}")

    def _check_payload(self) -> None:
        given = [
            name
            for name, there in (
                ("--send", bool(self.pairs)),
                ("--data", self.data is not None),
                ("--template", self.template is not None),
            )
            if there
        ]
        if given and self.http is not None:
            raise ValueError(f"{given[0]} and a URL: give a --body")
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]}: give one of them")
        if self.data == b"":
            raise ValueError("--data: the file is empty")
        if any(not request or not reply for request, reply in self.pairs):
            raise ValueError("--send and --expect must not be empty")
        if self.framing == "line" and self.template is not None and b"\n" in self.template[:-1]:
            raise ValueError("--template has a newline in the middle: that makes two lines")
        if self.udp or self.fan_out:
            self._check_told_apart("--udp" if self.udp else "--fan-out", given)
        if self.udp and not given and self.sizes.most > _MOST_DATAGRAM:
            raise ValueError(f"--udp: a datagram has {_MOST_DATAGRAM} bytes at most")
        if self.websocket is not None:
            self._check_messages(given)
        if not given:
            least = 0 if self.framing == "length-prefix" else 1
            if self.sizes.least < least:
                raise ValueError(f"--size must be {least} or more for --framing {self.framing}")
            if self.framing == "fixed" and self.sizes.one is None:
                raise ValueError("--framing fixed needs one --size, not a distribution")

    def _check_told_apart(self, flag: str, given: list[str]) -> None:
        """Each payload must have its number, or duplicates and losses could not be told."""
        if self.data is not None:
            raise ValueError(f"{flag} and --data: each payload needs its number; use --template")
        texts = [reply for _, reply in self.pairs] or [self.template or b""]
        if given and any(b"{seq}" not in text for text in texts):
            raise ValueError(
                f"{flag} and {given[0]}: each reply needs {{seq}}, to tell which it is"
            )
        least = _LEAST_DATAGRAM + (self.framing == "line")
        if not given and self.sizes.least < least:
            raise ValueError(f"{flag} needs --size {least} or more")

    def _check_messages(self, given: list[str]) -> None:
        """Each message of a WebSocket has a bound, and text is UTF-8."""
        if not given and self.sizes.most > MOST:
            raise ValueError(f"--size: a message has {MOST} bytes at most")
        texts = [*itertools.chain(*self.pairs), self.data or b"", self.template or b""]
        if any(len(text) > MOST for text in texts):
            raise ValueError(f"{given[0]}: a message has {MOST} bytes at most")
        if self.framing == "text":
            try:
                for text in texts:
                    text.decode()
            except UnicodeDecodeError:
                raise ValueError(f"{given[0]} is not UTF-8: use --binary") from None

    # ---------------------------------------------------------------- derived values

    @property
    def measured_seconds(self) -> float | None:
        """How long to measure; None if the run ends after a number of requests."""
        if self.requests is not None:
            return None
        if self.stages:
            return sum(stage.seconds for stage in self.stages)
        return 10.0 if self.duration is None else self.duration

    @property
    def open_ramp(self) -> Ramp | None:
        """The rate over time; None in a closed loop."""
        return None if self.rate is None else Ramp(self.rate, self.stages)

    @property
    def ramp_of_connections(self) -> Ramp | None:
        """The number of connections over time; None if it is constant."""
        if self.stages and self.rate is None:
            return Ramp(self.connections, self.stages)
        return None

    @property
    def most_connections(self) -> int:
        """The greatest number of connections at a time."""
        ramp = self.ramp_of_connections
        return self.connections if ramp is None else int(ramp.highest)

    @property
    def lanes(self) -> int:
        """How many lanes there are at the start: one for each connection, or for all."""
        return 1 if self.fan_out else self.connections

    def schedule(self, part: int) -> Schedule | None:
        """Return the schedule of requests for the worker *part*; None in a closed loop."""
        ramp = self.open_ramp
        return None if ramp is None else Schedule(ramp, part, self.workers)

    @property
    def place(self) -> str:
        """What is loaded: the URL, or the address."""
        target = self.http or self.websocket
        return self.addr if target is None else target.shown_url

    def share(self, whole: int, part: int) -> int:
        """Return how many of *whole* belong to the worker *part*."""
        return whole // self.workers + (part < whole % self.workers)

    def factory(self) -> Factory:
        """Return the factory of messages for each connection."""
        if self.pairs:
            return messages.listed(self.pairs)
        if self.data is not None:
            lines = [self.data]
            if self.framing in {"line", "text"}:  # a line of one byte or more, without its newline
                lines = self.data.splitlines(keepends=self.framing == "line")
            framed_lines = [framed(self.framing, line) for line in lines]
            return messages.listed([(line, line) for line in framed_lines])
        if self.template is not None:
            if self.framing == "length-prefix":
                raise ValueError(
                    "--template and --framing length-prefix: the length would change; use --data"
                )
            line = framed(self.framing, self.template)
            return messages.listed([(line, line)])
        if self.sizes.one is not None:
            return messages.numbered(self.framing, self.sizes.one)
        return messages.mixed(self.framing, self.sizes, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, for the published result."""
        plain = dataclasses.asdict(dataclasses.replace(self, http=None, websocket=None))
        plain["sizes"] = [list(piece) for piece in self.sizes.pieces]
        plain["stages"] = [[stage.seconds, stage.target] for stage in self.stages]
        plain["http"] = None if self.http is None else self.http.to_dict()
        plain["websocket"] = None if self.websocket is None else self.websocket.to_dict()
        plain["pairs"] = [[_text(send), _text(expect)] for send, expect in self.pairs]
        plain["data"] = None if self.data is None else len(self.data)
        plain["template"] = None if self.template is None else _text(self.template)
        plain["duration"] = self.measured_seconds
        return plain


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")

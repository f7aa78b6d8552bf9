"""A result as text: the summary that ``silly bench`` prints at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from silly._values.units import counted, duration_text, size_text, text_of_count

__all__ = ["described", "lines"]


def described(result: dict[str, Any]) -> str:
    """Return the settings of the run, as one line."""
    plan = result["plan"]
    connections = plan["connections"]
    noun = "socket" if plan["udp"] else "connection"
    parts = ["UDP"] if plan["udp"] else []
    if plan["http"] is not None:
        parts.append(f"{plan['http']['method']}")
    if plan["rate"] is not None:
        rate = " → ".join(
            text_of_count(level) for level in (plan["rate"], *(s[1] for s in plan["stages"]))
        )
        parts.append(f"open loop, {rate} requests/s")
    elif plan["mode"] == "hold":
        parts.append("idle connections")
    else:
        parts.append("closed loop")
    if plan["stages"] and plan["rate"] is None:
        levels = " → ".join(
            text_of_count(level) for level in (connections, *(s[1] for s in plan["stages"]))
        )
        parts.append(f"{levels} {noun}s")
    else:
        parts.append(counted(connections, noun))
    if plan["fan_out"]:
        parts[-1] = f"one sender, {counted(connections, 'receiver')}"
    if plan["depth"] > 1 and plan["fan_out"]:
        parts[-1] += f", {text_of_count(plan['depth'])} messages in flight"
    elif plan["depth"] > 1:
        parts[-1] += f", {text_of_count(plan['depth'])} requests in flight on each"
    if plan["mode"] == "reconnect":
        parts.append("a new one for each request")
    if (target := plan["websocket"]) is not None:
        parts[0] = f"{'binary' if target['binary'] else 'text'} messages, {parts[0]}"
    if plan["tls"] is not None and plan["http"] is None and target is None:
        parts.append("TLS")
    return ", ".join(parts)


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the summary."""
    ended = {"interrupted": ", interrupted", "stopped": f", {result['why']}"}
    yield f"{result['addr']}: {described(result)}"
    yield ""
    idle = result["plan"]["mode"] == "hold"
    yield _row(
        "requests",
        f"{text_of_count(result['requests'])} {'after' if idle else 'in'} "
        f"{duration_text(result['duration'])}{ended.get(result['outcome'], '')}",
    )
    yield from _statuses(result)
    if not idle:
        yield _row(
            "rate",
            f"{text_of_count(result['rate'])} /s   "
            f"({size_text(result['bytes_out_rate'])}/s out, "
            f"{size_text(result['bytes_in_rate'])}/s in)",
        )
    yield from _errors(result)
    yield from _datagrams(result)
    yield from _fan_out(result)
    yield from _open_loop(result)
    yield ""
    yield from _latencies(result)
    yield from _others(result)
    for warning in result["warnings"]:
        yield f"warning: {warning}"
    for claim in result["claims"]:
        verdict = "holds" if claim["holds"] else "FAILS"
        yield f"{verdict}: {claim['text']} ({claim['actual']})"


def _row(name: str, text: str) -> str:
    return f"{name:<12}{text}"


def _statuses(result: dict[str, Any]) -> Iterator[str]:
    http = result["http"]
    if http is None:
        return
    counts = [f"{status}: {text_of_count(count)}" for status, count in http["statuses"].items()]
    if http["repeated"]:
        counts.append(
            f"sent again after the end of a connection: {text_of_count(http['repeated'])}"
        )
    yield _row("statuses", ", ".join(counts) or "none")


def _errors(result: dict[str, Any]) -> Iterator[str]:
    errors = result["errors"]
    if not errors["total"]:
        sure = "" if result["http"] else ", byte for byte"
        yield _row("errors", f"0: every reply was right{sure}")
        return
    kinds = ", ".join(
        f"{text_of_count(count)} {kind}" for kind, count in sorted(errors["kinds"].items())
    )
    yield _row("errors", f"{text_of_count(errors['total'])}: {kinds}")
    for text in errors["first"]:
        yield f"  {text}"
    if len(errors["first"]) < errors["total"]:
        yield "  …"


def _datagrams(result: dict[str, Any]) -> Iterator[str]:
    udp = result["udp"]
    if udp is not None:
        others = ", ".join(
            f"{text_of_count(udp[name])} {name}" for name in ("duplicates", "reordered", "late")
        )
        yield _row(
            "datagrams",
            f"{text_of_count(udp['sent'])} sent, {text_of_count(udp['lost'])} lost "
            f"({udp['loss']:.2%}), {others}",
        )


def _fan_out(result: dict[str, Any]) -> Iterator[str]:
    fan_out = result["fan_out"]
    if fan_out is not None:
        yield _row(
            "fan-out",
            f"{counted(fan_out['messages'], 'message')} to "
            f"{counted(fan_out['receivers'], 'receiver')}: "
            f"{text_of_count(fan_out['delivered'])} delivered, "
            f"{text_of_count(fan_out['undelivered'])} not",
        )


def _open_loop(result: dict[str, Any]) -> Iterator[str]:
    open_loop = result["open_loop"]
    if open_loop is not None:
        yield _row(
            "schedule",
            f"{text_of_count(open_loop['scheduled'])} due, "
            f"{text_of_count(open_loop['late'])} sent more than 1 ms late "
            f"(at most {duration_text(open_loop['max_lag'])}), "
            f"{text_of_count(open_loop['unsent'])} never sent",
        )


def _latencies(result: dict[str, Any]) -> Iterator[str]:
    latency, service = result["latency"], result["service"]
    if not latency["count"]:
        yield "no latencies: no request was answered"
        return
    columns = [latency] if service is None else [latency, service]
    if service is None:
        yield "latency"
    else:
        yield f"latency     {'from due time':>14}{'from sending':>14}"
    rows = [("min", [c["min"] for c in columns]), ("mean", [c["mean"] for c in columns])]
    unsupported = []
    for percent in latency["percentiles"]:
        if latency["count"] * (100 - float(percent)) / 100 < 1:
            unsupported.append(f"p{percent}")  # would equal the maximum
        else:
            rows.append((f"p{percent}", [c["percentiles"][percent] for c in columns]))
    rows.append(("max", [c["max"] for c in columns]))
    for name, values in rows:
        yield f"  {name:<10}" + "".join(f"{duration_text(value):>14}" for value in values)
    if result["unanswered"]:
        count = result["unanswered"]
        yield (
            f"  ({text_of_count(count)} {'was' if count == 1 else 'were'} not answered, and "
            f"{'counts' if count == 1 else 'count'} with the time waited so far)"
        )
    if unsupported:
        yield f"  ({', '.join(unsupported)}: too few requests to tell from the maximum)"


def _others(result: dict[str, Any]) -> Iterator[str]:
    yield ""
    connect = result["connect"]
    if connect is not None and connect["count"]:
        yield _row(
            "connecting",
            f"{counted(connect['count'], 'connection')}"
            f"{' made or timed out' if result['errors']['kinds'].get('connect') else ''}, "
            f"p50 {duration_text(connect['percentiles']['50'])}, "
            f"max {duration_text(connect['max'])}",
        )
    websocket = result["websocket"]
    if websocket is not None and (opened := websocket["opened"]) is not None:
        yield _row(
            "opening",
            f"{counted(opened['count'], 'WebSocket')}, p50 "
            f"{duration_text(opened['percentiles']['50'])}, max {duration_text(opened['max'])}",
        )
    if (tls := result["tls"]) is not None:
        protocol = f", ALPN {tls['alpn']}" if tls["alpn"] else ""
        yield _row("TLS", f"{tls['version']}, {tls['cipher']}{protocol}")
        for kind in ("full", "resumed"):
            if (taken := tls[kind]) is not None:
                yield _row(
                    f"  {kind}",
                    f"{counted(taken['count'], 'handshake')}, "
                    f"p50 {duration_text(taken['percentiles']['50'])}, "
                    f"max {duration_text(taken['max'])}",
                )
    client = result["client"]
    polling = " (busy polling)" if client["busy_poll"] else ""
    workers = counted(client["workers"], "worker")
    yield _row(
        "client", f"{client['cpu']:.2f} cores in {workers}{polling}, {result['engine']} engine"
    )
    server = result["server"]
    if server is not None:
        yield _row(
            "server",
            f"{server['cpu']:.2f} cores, {duration_text(server['cpu_per_request'])} per request, "
            f"{size_text(server['rss'])} resident "
            f"({'+' if server['rss_growth'] >= 0 else '-'}"
            f"{size_text(abs(server['rss_growth']))})",
        )

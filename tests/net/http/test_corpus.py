"""gunicorn's requests (corpus/README.md), in one piece, at every split, and over connections.

Where the result differs from gunicorn's, a table says why. Most of the files have no Host,
which decides about them before what they are about does. So each of those is also tried with one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from silly.net import http
from silly.net.limits import Limits
from tests.net.http.sessions import ParsedOnly, understand
from tests.net.http.wire import exchange

CORPUS = Path(__file__).parent / "corpus"
ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0"}

# gunicorn's options, where there are such limits here.
LIMITS = {
    "invalid/006": Limits(max_target_bytes=4094),
    "invalid/007": Limits(max_head_bytes=8190),
    "invalid/008": Limits(max_head_bytes=8190),
    "invalid/010": Limits(max_head_bytes=10),
    "invalid/011": Limits(max_headers=2),
    "invalid/012": Limits(max_head_bytes=98),
    "invalid/017": Limits(max_head_bytes=8190),
    "invalid/limit_header_default_01": Limits(max_head_bytes=8190),
    "valid/024": Limits(max_target_bytes=8200, max_head_bytes=16400),
}

# Of invalid/: these are accepted.
ACCEPTED = {
    "019": "X-Forwarded-* mean nothing here (RFC 7239 defines Forwarded for it)",
    "040": "'_' is a character of names (RFC 9110, section 5.6.2), and no other name is meant",
    "chunked_07": "as 040",
}

# Of valid/: these are refused, with this status.
NO_HOST = (400, "HTTP/1.1 without Host (RFC 9112, section 3.2)")
NO_CODING = (501, "no transfer coding but chunked is understood (RFC 9112, section 6.1)")
METHOD = (400, "unknown method (RFC 9110, section 9.1; the parser cannot tell it from no method)")
NO_PROXY_HEADER = (400, "PROXY headers are an option of the listener, and come before HTTP")
OBS_FOLD = (400, "obs-fold (RFC 9112, section 5.2)")
CONNECT = (501, "CONNECT, and this is no proxy (RFC 9110, sections 9.1 and 9.3.6)")
REFUSED = {
    "005": (400, "'#' in a target (RFC 9112, section 3.2.1; RFC 3986, section 3.3)"),
    "009": (400, "Transfer-Encoding and Content-Length (RFC 9112, section 6.3)"),
    "013": (400, "spaces in chunk extensions: 'bad' ones (RFC 9112, section 7.1.1)"),
    "025": (400, "more than one Transfer-Encoding; and as 025_line"),
    "025_line": NO_CODING,
    "027": (400, "bytes beyond ASCII in a target (RFC 9112, section 3.2; RFC 3986, section 2)"),
    "028": (400, "space before the colon (RFC 9112, section 5.1)"),
    "029": (400, "identity, which is no transfer coding any more (RFC 9112, appendix C.2)"),
    "030": (400, "as 029"),
    "031": METHOD,
    "031compat": METHOD,
    "031compat2": METHOD,
    "compat_obs_fold": OBS_FOLD,
    "compat_obs_fold_huge": OBS_FOLD,
    "pp_01": NO_PROXY_HEADER,
    "pp_02": NO_PROXY_HEADER,
    "pp_04": NO_PROXY_HEADER,
    "pp_05": NO_PROXY_HEADER,
    "rfc9112_smuggle_gzip_chunked_01": NO_CODING,
    "rfc9112_smuggle_te_identity_chunked_01": NO_CODING,
    "rfc9112_target_absolute_userinfo_01": (400, "user information (RFC 9110, section 4.2.4)"),
    "rfc9112_target_authority_connect_01": CONNECT,
    "rfc9112_target_authority_ipv6_01": CONNECT,
}
# Of valid/: these reach the handler, where reading the body fails.
CUT_OFF = {"099": "the body is shorter than its Content-Length (RFC 9112, section 8)"}
# Of those of valid/ that are not in REFUSED, these are accepted only with a Host (NO_HOST).
HOSTLESS = {
    *("004", "006", "007", "010", "011", "012", "014", "018", "021", "022", "023", "100"),
}  # fmt: skip


def contents(name: str) -> bytes:
    """Return the bytes that a file stands for."""
    text = (CORPUS / f"{name}.http").read_bytes().replace(b"\n", b"")
    return re.sub(
        rb"\\(?:x([0-9A-Fa-f]{2})|([rnt0]))",
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else ESCAPES[found[2]],
        text,
    )


def names(folder: str) -> list[str]:
    return sorted(f"{folder}/{path.stem}" for path in (CORPUS / folder).glob("*.http"))


def with_host(data: bytes) -> bytes:
    """Return *data* with a Host in each request, if it has none."""
    if b"\nhost:" in data.lower():
        return data
    return data.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: a\r\n")


def expected(name: str, *, has_host: bool) -> int | None:
    """Return the status of the refusal of a valid request, or None: it is accepted."""
    stem = name.partition("/")[2]
    if stem in REFUSED:
        return REFUSED[stem][0]
    return NO_HOST[0] if stem in HOSTLESS and not has_host else None


def is_decided_by_host(name: str) -> bool:
    return with_host(contents(name)) != contents(name)


def test_the_tables_name_files_that_exist() -> None:
    assert len(names("invalid")) == 74
    assert len(names("valid")) == 63
    assert {f"invalid/{stem}" for stem in ACCEPTED} <= set(names("invalid"))
    assert {f"valid/{stem}" for stem in REFUSED | dict.fromkeys(HOSTLESS)} <= set(names("valid"))


@pytest.mark.no_engine
@pytest.mark.parametrize("has_host", [False, True], ids=["as it is", "with a Host"])
@pytest.mark.parametrize("name", names("invalid"))
def test_invalid_requests_are_refused(name: str, has_host: bool) -> None:
    data = with_host(contents(name)) if has_host else contents(name)
    outcome = understand(data, limits=LIMITS.get(name, Limits()))
    if name.partition("/")[2] in ACCEPTED:
        assert outcome.is_refused == (is_decided_by_host(name) and not has_host)
        return
    assert outcome.is_refused
    assert not any(request.is_complete for request in outcome.requests)
    if outcome.status is None:  # the stream ends too early
        assert name in {"invalid/001", "invalid/rfc9112_chunked_missing_final_crlf_01"}
    else:
        assert 400 <= outcome.status < 500 or outcome.status == 505


@pytest.mark.no_engine
@pytest.mark.parametrize("has_host", [False, True], ids=["as it is", "with a Host"])
@pytest.mark.parametrize("name", names("valid"))
def test_valid_requests_are_accepted(name: str, has_host: bool) -> None:
    data = with_host(contents(name)) if has_host else contents(name)
    outcome = understand(data, limits=LIMITS.get(name, Limits()))
    status = expected(name, has_host=has_host)
    if status is not None and not has_host and is_decided_by_host(name):
        assert outcome.status in {status, NO_HOST[0]}
    else:
        assert outcome.status == status
    if name.partition("/")[2] in CUT_OFF:
        assert [request.is_complete for request in outcome.requests] == [False]
    else:
        assert outcome.is_refused == (status is not None)


@pytest.mark.no_engine
@pytest.mark.parametrize("name", names("invalid") + names("valid"))
def test_how_the_bytes_are_split_makes_no_difference(name: str) -> None:
    data = with_host(contents(name))
    limits = LIMITS.get(name, Limits())
    outcome = understand(data, limits=limits, kind=ParsedOnly)
    assert understand(data, limits=limits) == outcome
    for cut in range(1, len(data)):
        assert understand(data, [cut], limits) == outcome, cut
        if len(data) < 1000:
            assert understand(data, [cut], limits, ParsedOnly) == outcome, cut
    assert understand(data, range(1, len(data)), limits) == outcome


@pytest.mark.heavy
async def test_over_connections() -> None:
    """Each file's requests reach the handler, or none does and the client is told."""
    completed: list[bytes] = []

    async def handler(request: http.Request) -> str:
        await request.body()
        completed.append(request.raw_target)
        return "ok"

    for limits in {None, *LIMITS.values()}:
        async with http.listen("127.0.0.1:0", handler, limits=limits or Limits()) as listener:
            for name in names("invalid") + names("valid"):
                if LIMITS.get(name) != limits:
                    continue
                data = with_host(contents(name))
                outcome = understand(data, limits=limits or Limits())
                wanted = [each.target for each in outcome.requests if each.is_complete]
                completed.clear()
                answer = await exchange(listener.local_addr, data)
                statuses = [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]
                assert completed == wanted, name
                refusal = [] if outcome.status is None else [outcome.status]
                assert statuses == [200] * len(wanted) + refusal, name
            assert listener.stats.handler_errors == 0
        assert not http.service_of(listener).crashes

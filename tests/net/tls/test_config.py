"""What `Server` and `Client` say about wrong arguments and wrong files."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silly.net import tls
from silly.net.tls import kinds
from silly.net.tls.certificates import first_certificate
from silly.net.tls.config import as_client, as_server
from silly.net.tls.x509 import distinguished_name
from tests.net.tls import certificates
from tests.programs import assert_prints

pytestmark = pytest.mark.no_engine

CERT, KEY = certificates.pair()

ARGUMENTS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: tls.Server(b"x"), TypeError, "cert must be the path of a file"),  # type: ignore[arg-type]
    (lambda: tls.Server(""), TypeError, "cert must be the path of a file, not ''"),
    (lambda: tls.Server(Path(CERT).read_text()), TypeError, "not its contents"),
    (lambda: tls.Server(CERT, 5), TypeError, "key must be the path"),  # type: ignore[arg-type]
    (lambda: tls.Server(CERT, KEY, sni=[]), TypeError, "sni must be a dict"),  # type: ignore[arg-type]
    (lambda: tls.Server(CERT, KEY, sni={"a": CERT}), TypeError, "sni: expected"),  # type: ignore[dict-item]
    (lambda: tls.Server(CERT, KEY, sni={"": (CERT, KEY)}), ValueError, "sni: '' is no host name"),
    (lambda: tls.Server(CERT, KEY, sni={"*": (CERT, KEY)}), ValueError, "sni: '\\*' is no host"),
    (lambda: tls.Server(CERT, KEY, sni={"a.*": (CERT, KEY)}), ValueError, "is no host name"),
    (lambda: tls.Server(CERT, KEY, alpn="h2"), TypeError, "alpn must be a tuple of names"),
    (lambda: tls.Server(CERT, KEY, alpn=("",)), ValueError, "1 to 255 ASCII characters, not ''"),
    (lambda: tls.Server(CERT, KEY, alpn=("x" * 256,)), ValueError, "1 to 255 ASCII characters"),
    (lambda: tls.Server(CERT, KEY, alpn=(b"h2",)), ValueError, "ASCII"),  # type: ignore[arg-type]
    (lambda: tls.Server(CERT, KEY, client_ca=CERT), ValueError, "go together"),
    (lambda: tls.Server(CERT, KEY, client_cert="required"), ValueError, "go together"),
    (lambda: tls.Server(CERT, KEY, client_cert="yes"), ValueError, "'none', 'optional' or 'req"),
    (lambda: tls.Server(CERT, KEY, min_version="1.1"), ValueError, "must be '1.2' or '1.3'"),
    (lambda: tls.Server(CERT, KEY, min_version=1.2), ValueError, "not 1.2"),  # type: ignore[arg-type]
    (lambda: tls.Server(CERT, KEY, password=5), TypeError, "password must be"),  # type: ignore[arg-type]
    (lambda: tls.Client(ca=""), TypeError, "ca must be the path of a file"),
    (lambda: tls.Client(key=KEY), ValueError, "key needs cert"),
    (lambda: tls.Client(verify=0), TypeError, "verify must be True or False"),  # type: ignore[arg-type]
    (lambda: tls.Client(ca=CERT, verify=False), ValueError, "contradict each other"),
    (lambda: tls.Client(server_name=""), TypeError, "server_name must be a host name"),
    (lambda: tls.Client(server_name="a..b"), ValueError, "server_name must be a host name"),
    (lambda: tls.Client(server_name=".a"), ValueError, "server_name must be a host name"),
    (lambda: tls.Client(alpn="h2"), TypeError, "alpn must be a tuple"),
    (lambda: tls.Client(password=[]), TypeError, "password must be"),  # type: ignore[arg-type]
    (lambda: as_server(True), TypeError, "tls must be a tls.Server or an ssl.SSLContext"),
    (lambda: as_server(tls.Client()), TypeError, "not a tls.Client"),
    (lambda: as_client("x"), TypeError, "tls must be True, a tls.Client or"),
    (lambda: as_client(tls.Server(CERT, KEY)), TypeError, "not a tls.Server"),
    (lambda: as_server(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)), ValueError, "is for clients"),
    (lambda: as_client(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)), ValueError, "is for servers"),
]


@pytest.mark.parametrize("number", range(len(ARGUMENTS)))
def test_wrong_arguments(number: int) -> None:
    call, kind, expected = ARGUMENTS[number]
    with pytest.raises(kind, match=expected) as caught:
        call()
    assert type(caught.value) is kind


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    other_key = certificates.pair("other.test")[1]
    contents = {
        "empty": b"",
        "garbage": b"garbage\n",
        "der": ssl.PEM_cert_to_DER_cert(Path(certificates.ca_file()).read_text()),
        "cut": Path(CERT).read_bytes()[:400],
        "key alone": Path(KEY).read_bytes(),
        "encrypted": certificates.encrypted_key(),
    }
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    directory = tmp_path / "directory"
    directory.mkdir()
    unreadable = {"missing": tmp_path / "missing", "directory": directory}
    return {name: str(path) for name, path in (paths | unreadable).items()} | {
        "cert": CERT,
        "key": KEY,
        "other key": other_key,
    }


@pytest.mark.parametrize(
    ("cert", "key", "kind", "expected"),
    [
        ("missing", "key", FileNotFoundError, "missing"),
        ("cert", "missing", FileNotFoundError, "missing"),
        ("directory", "key", IsADirectoryError, "directory"),
        ("empty", "key", ssl.SSLError, "empty, .*PEM"),
        ("garbage", "key", ssl.SSLError, "garbage, .*PEM"),
        ("der", "key", ssl.SSLError, "der, .*PEM"),
        ("cut", "key", ssl.SSLError, "cut, "),
        ("cert", "garbage", ssl.SSLError, "garbage: .*PEM"),
        ("cert", None, ssl.SSLError, "PEM"),
        ("key alone", "key", ssl.SSLError, "key alone, .*PEM"),
        ("cert", "other key", ssl.SSLError, "the private key does not belong"),
        ("cert", "encrypted", ValueError, "encrypted: the private key is encrypted: give"),
    ],
)
def test_wrong_files(
    cert: str, key: str | None, kind: type[Exception], expected: str, files: dict[str, str]
) -> None:
    pair: tuple[Any, Any] = (files[cert], files[key] if key else None)
    for call in (
        lambda: tls.Server(*pair),
        lambda: tls.Server(CERT, KEY, sni={"b.test": pair}),
        lambda: tls.Client(cert=pair[0], key=pair[1]),
    ):
        with pytest.raises(kind, match=expected):
            call()


def test_the_key_is_encrypted(files: dict[str, str]) -> None:
    for password in ("secret", b"secret"):
        tls.Server(CERT, files["encrypted"], password=password)
        tls.Client(cert=CERT, key=files["encrypted"], password=password)
    with pytest.raises(ssl.SSLError, match="the password is wrong"):
        tls.Server(CERT, files["encrypted"], password="wrong")


@pytest.mark.parametrize(
    ("ca", "kind", "expected"),
    [
        ("missing", FileNotFoundError, "missing"),
        ("empty", ssl.SSLError, "empty: there is no certificate in it"),
        ("garbage", ssl.SSLError, "garbage: there is no certificate in it"),
        ("key alone", ssl.SSLError, "key alone: there is no certificate in it"),
    ],
)
def test_wrong_authorities(
    ca: str, kind: type[Exception], expected: str, files: dict[str, str]
) -> None:
    with pytest.raises(kind, match=expected):
        tls.Client(ca=files[ca])
    with pytest.raises(kind, match=expected):
        tls.Server(CERT, KEY, client_ca=files[ca], client_cert="required")


def test_names_with_other_letters_are_compared_as_they_are_sent() -> None:
    server = tls.Server(CERT, KEY, sni={"BÜCHER.test.": certificates.pair("b.test")})
    assert list(server._by_name) == ["xn--bcher-kva.test"]


def suites_of(context: ssl.SSLContext, version: str) -> list[str]:
    return [each["name"] for each in context.get_ciphers() if each["protocol"] == version]


def test_the_lightest_cipher_suites_come_first() -> None:
    context = tls.Server(CERT, KEY).context
    assert "AES128" in suites_of(context, "TLSv1.2")[0]
    suites = suites_of(context, "TLSv1.3")
    assert set(suites) == set(suites_of(ssl.create_default_context(), "TLSv1.3"))
    if kinds.set_ciphersuites is not None:
        assert suites[0] == "TLS_AES_128_GCM_SHA256"


@pytest.mark.parametrize(
    "allowed",
    ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"],
)
def test_what_the_machine_forbids_stays_forbidden(
    allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "openssl.cnf"
    config.write_text(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n"
        f"[tls]\nCiphersuites = {allowed}\n"
    )
    monkeypatch.setenv("OPENSSL_CONF", str(config))
    assert_prints(
        "from silly.net import tls\n"
        f"context = tls.Server({CERT!r}, {KEY!r}).context\n"
        "suites = [c['name'] for c in context.get_ciphers() if c['protocol'] == 'TLSv1.3']\n"
        "print(':'.join(suites))",
        allowed + "\n",
    )


def test_cipher_suites_that_do_not_exist() -> None:
    if kinds.set_ciphersuites is None:
        pytest.skip("they cannot be set here")
    context = tls.Server(CERT, KEY).context
    suites = context.get_ciphers()
    with pytest.raises((ValueError, ssl.SSLError)):
        kinds.set_ciphersuites(context, "TLS_OF_MY_OWN")
    assert context.get_ciphers() == suites


def test_a_context_of_the_programs_own() -> None:
    """Nothing is known of its files: there is nothing to read again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = as_server(context)
    assert server.expires_at is None
    assert server.reload()
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert repr(server) == f"tls.Server({context!r})"


def test_a_date_that_cannot_be_told_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def expires_at(_: str) -> float:
        raise ValueError("OpenSSL could read it")

    monkeypatch.setattr("silly.net.tls.config.expires_at", expires_at)
    assert tls.Server(CERT, KEY).expires_at is None


def test_what_is_no_certificate(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("no certificate\n")
    with pytest.raises(ValueError, match=r"key\.pem has no certificate in PEM format"):
        first_certificate(str(path))
    with pytest.raises(ValueError, match="the certificate is not valid DER"):
        distinguished_name(b"")

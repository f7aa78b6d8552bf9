"""The page about TLS: its commands make certificates that work, its tables are complete."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from silly.net.tls import failures
from tests.cli.terminal import Echo, silly

pytestmark = pytest.mark.no_engine

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "tls.md"


def test_an_authority_of_ones_own(tmp_path: Path) -> None:
    [commands] = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    subprocess.run(
        ["bash", "-e", "-c", commands], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    with Echo("127.0.0.1:0", "--tls-cert", cert, "--tls-key", key) as echo:
        addr = f"localhost:{echo.port}"
        client = ("--cert", str(tmp_path / "client.pem"), "--key", str(tmp_path / "client.key"))
        done = silly(
            "connect", addr, "--tls", "--ca", str(tmp_path / "ca.pem"), *client, data=b"hello\n"
        )
        assert done.stdout == b"hello\n"
        assert b"subject      CN=db.internal\n" in done.stderr
        echo.stop()


def test_every_reason_is_explained() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    reasons = {*failures._REASONS.values(), "tls_alert", "tls_protocol"}
    assert told == {*reasons, "handshake_timeout", "handshake"}

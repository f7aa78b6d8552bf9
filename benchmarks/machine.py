"""The machine that is measured on: what it is, a network for us alone, and what else it does.

The network
    Where that is allowed (to root, or with unprivileged user namespaces), the
    benchmark runs in a network namespace of its own: nobody else's packets pass
    its loopback, and the settings of `NETWORK` hold, whatever the machine's are.
    Congestion control is one that does not pace what is sent; sockets in
    TIME_WAIT are not kept, else connect-echo-close would measure the client's
    search for a free port. Elsewhere it runs in the machine's network, and says so.

What else it does
    Processor time that was used meanwhile (/proc/stat, all processors) but by
    none of us, in processors: 0.5 is half of one.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import platform
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NETWORK = {
    "tcp_congestion_control": "reno",
    "tcp_max_tw_buckets": "0",
    "ip_local_port_range": "1024 65535",
}
MARK = "SILLY_BENCHMARK_NETWORK"  # in the environment: we are in our own
DISTURBED = 0.1  # processors used by others, above which a measurement is repeated
TICKS = os.sysconf("SC_CLK_TCK")
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def own_network() -> str:
    """Start this program again in a network of its own; in there, or if that fails, name it."""
    if MARK in os.environ:
        prepare_network()
        return "own namespace, " + ", ".join(" ".join(setting) for setting in NETWORK.items())
    refused = "no unshare command"
    for how in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which(how[0]) is None:
            break
        tried = subprocess.run(
            [*how, sys.executable, __file__], capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            again = [*how, sys.executable, *sys.orig_argv[1:]]
            os.execvpe(how[0], again, {**os.environ, MARK: "own"})
        refused = tried.stderr.strip().rpartition("\n")[2]
    return f"the machine's, shared ({refused})"


def prepare_network() -> None:
    """Bring the loopback of a new namespace up, and set it up. Raises `OSError`."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        name, flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", name, flags | IFF_UP))
    for name, value in NETWORK.items():
        Path("/proc/sys/net/ipv4", name).write_text(value)


def described(network: str) -> dict[str, Any]:
    """What the results say of this machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": round(os.getloadavg()[0], 2),
        "network": network,
    }


def _interrupts_apart() -> bool:
    """Whether the kernel takes the time of interrupts off the process that they interrupted."""
    wanted = "CONFIG_IRQ_TIME_ACCOUNTING=y"
    try:
        with gzip.open("/proc/config.gz", "rt") as config:
            return wanted in config.read()
    except OSError:
        config_of_release = Path(f"/boot/config-{platform.release()}")
        return config_of_release.exists() and wanted in config_of_release.read_text()


INTERRUPTS_APART = _interrupts_apart()


def _used() -> float:
    """Seconds of processor time that all of the machine has used."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in first.split()[1:9])
    ticks = user + nice + system + steal
    if not INTERRUPTS_APART:  # then they are in what our own processes used, too
        ticks += irq + softirq
    return ticks / TICKS


def _used_by_us() -> float:
    """Seconds that this process used, and those that it started and waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


class Others:
    """What others use of the machine from now on."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = _used() - _used_by_us()

    def processors(self, server: float) -> float:
        """How many processors others kept busy, when the server used *server* seconds."""
        used = _used() - _used_by_us() - self._before - server
        return max(0.0, used / (time.monotonic() - self._begun))


if __name__ == "__main__":  # tried by own_network
    try:
        prepare_network()
    except OSError as error:
        sys.exit(str(error))

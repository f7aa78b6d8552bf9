"""The machine that the benchmark runs on: its description, its network, other load on it.

The network
    Where that is allowed (for root, or with unprivileged user namespaces), the
    benchmark runs in its own network namespace: its loopback carries no other
    traffic, and the settings of `NETWORK` apply, whatever the machine's are. The
    congestion control does not pace packets. TIME_WAIT sockets are not kept;
    otherwise connect-echo-close would measure the client's search for a free port.
    Elsewhere the benchmark runs in the machine's network and reports that.

Other load
    The processor time that other processes used during a measurement (/proc/stat,
    all processors), as a number of processors: 0.5 is half of one.
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
MARK = "SILLY_BENCHMARK_NETWORK"  # this variable is set inside the own namespace
DISTURBED = 0.1  # a measurement with a higher load by others, in processors, is repeated
TICKS = os.sysconf("SC_CLK_TCK")
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def own_network() -> str:
    """Restart this program in its own network namespace if that is allowed.

    Return a description of the network. Inside the namespace, prepare it first.
    """
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
    """Bring up the loopback of a new namespace and apply `NETWORK`. Raises `OSError`."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        name, flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", name, flags | IFF_UP))
    for name, value in NETWORK.items():
        Path("/proc/sys/net/ipv4", name).write_text(value)


def description(network: str) -> dict[str, Any]:
    """Return the description of this machine for the results."""
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
    """Return whether the kernel accounts interrupts apart from the processes they interrupt."""
    wanted = "CONFIG_IRQ_TIME_ACCOUNTING=y"
    try:
        with gzip.open("/proc/config.gz", "rt") as config:
            return wanted in config.read()
    except OSError:
        config_of_release = Path(f"/boot/config-{platform.release()}")
        return config_of_release.exists() and wanted in config_of_release.read_text()


INTERRUPTS_APART = _interrupts_apart()


def _used() -> float:
    """Return the processor time that the whole machine has used, in seconds."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in first.split()[1:9])
    ticks = user + nice + system + steal
    if not INTERRUPTS_APART:  # our own processes' times include them as well
        ticks += irq + softirq
    return ticks / TICKS


def _used_by_us() -> float:
    """Return the processor time of this process and its finished children, in seconds."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


class Others:
    """The load by other processes, from now on."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = _used() - _used_by_us()

    def processors(self, server: float) -> float:
        """Return the load by others, in processors; the server used *server* seconds."""
        used = _used() - _used_by_us() - self._before - server
        return max(0.0, used / (time.monotonic() - self._begun))


if __name__ == "__main__":  # run by own_network in a new namespace
    try:
        prepare_network()
    except OSError as error:
        sys.exit(str(error))

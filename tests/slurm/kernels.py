"""Slurm on kernels with several NUMA nodes: one host with four, or two hosts with two each and a cable between them.

Run by ``make test-slurm-numa`` and ``make test-cluster``. Boots the NUMA lab's kernels under QEMU; the first host runs
slurmctld, each one munged and a slurmd, and the first submits jobs and checks where every rank's pages are. Emulated
nodes show truthfully where pages are; they show nothing about speed.
"""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "lab"))
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import cluster
import lab

ROOT = lab.ROOT
MPICH = ROOT / ".venv-mpich/bin/python"


def cable(host: int, port: int) -> list[str]:
    """QEMU's options for a network card whose other end is the other host's; host 1 listens."""
    end = "listen" if host == 1 else "connect"
    card = f"virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0{host}"
    return [f"--qemu-opts=-netdev socket,id=n0,{end}=127.0.0.1:{port} -device {card}"]


def listens(port: int) -> bool:
    """Whether somebody listens on a port of loopback, told without connecting: the cable has one other end."""
    rows = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == f"0100007F:{port:04X}" and row.split()[3] == "0A" for row in rows)


class Host:
    """A booted kernel; its output is printed line by line, with its name before it where there are several."""

    def __init__(self, number: int, hosts: int, nodes: int, port: int, key: str) -> None:
        script = ROOT / "tests/slurm/guest.sh"
        guest = ["bash", script, number, hosts, nodes, ROOT, MPICH, key]
        self.prefix = f"host{number}: " if hosts > 1 else ""
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            lab.kernel(nodes, guest, cable(number, port) if hosts > 1 else []),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=lab.environment(),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            print(f"{self.prefix}{line.rstrip()}", flush=True)

    def wait(self, seconds: float) -> None:
        """Wait for the guest to end, at most so long."""
        try:
            self.process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            print(f"{self.prefix}not done in time", flush=True)

    def stop(self) -> None:
        """End it and QEMU."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        self._reader.join(10)


def main() -> int:
    """Boot the hosts and count what the first one says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, choices=[1, 2], default=1)
    parser.add_argument("--nodes", type=int, default=4, help="NUMA nodes of each host")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for everything")
    options = parser.parse_args()
    if not MPICH.exists():
        print(f"slurm: {MPICH} is missing; remedy: make MPI=mpich")
        print("slurm: 0 passed, 1 failed")
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):  # even where a shell started us with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    start, key, (port,) = time.monotonic(), secrets.token_hex(64), cluster.free_ports(1)
    print(f"--- {options.hosts} host(s) with {options.nodes} nodes: {lab.kernel_image().name}", flush=True)
    hosts: list[Host] = []
    try:
        for number in range(1, options.hosts + 1):
            hosts.append(Host(number, options.hosts, options.nodes, port, key))
            while number == 1 and options.hosts > 1 and not listens(port) and hosts[0].process.poll() is None:
                time.sleep(0.1)
        hosts[0].wait(options.timeout)
    except KeyboardInterrupt:
        print("slurm: interrupted")
    finally:
        for host in hosts:
            host.stop()
    verdicts = [m["verdict"] for line in hosts[0].lines if (m := lab.RESULT.match(line))] if hosts else []
    passed, failed = verdicts.count("ok"), sum(v != "ok" for v in verdicts)
    if not any(re.fullmatch("slurm guest done", line.strip()) for line in hosts[0].lines if hosts):
        print("the guest ended early: FAILED")
        failed += 1
    print(f"--- {time.monotonic() - start:.0f} s")
    print(f"slurm: {passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())

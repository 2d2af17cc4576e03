"""A private Slurm: munged, slurmctld and one slurmd per node, all of them on this host or shared by several.

Nothing of it is outside its own directory, and it listens only on ports of its own, so that clusters run side by
side and beside an installed Slurm. The daemons are children that end with this process, however it ends.
"""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

DEBIAN = "apt-get install slurm-wlm munge"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "sinfo", "setpriv")
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing_tools() -> list[str]:
    """Name the programs of Slurm that this host lacks."""
    return [name for name in DAEMONS if shutil.which(name, path=SEARCH) is None]


def tool(name: str) -> str:
    """Path of a program, those of /usr/sbin included."""
    path = shutil.which(name, path=SEARCH)
    if path is None:
        raise FileNotFoundError(f"{name} is missing; remedy: {DEBIAN}")
    return path


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody has; held together while they are chosen, so that all differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in held]
    for s in held:
        s.close()
    return ports


@dataclass(frozen=True)
class Node:
    """One slurmd.

    Attributes
    ----------
    name : str
    host : str
        Host name of the machine it runs on; nodes of one host differ in `name` and `port`.
    address : str
    port : int
    sockets, cores_per_socket : int
        As Slurm is to see it.
    """

    name: str
    host: str
    address: str
    port: int
    sockets: int
    cores_per_socket: int


def cgroup_version() -> str:
    """Cgroups of this host; Slurm's own detection wants systemd's hierarchy beside those of version 1."""
    return "v1" if pathlib.Path("/sys/fs/cgroup/freezer").is_dir() else "v2"


def configuration(
    directory: pathlib.Path, controller: Node, port: int, nodes: list[Node], user: str
) -> dict[str, str]:
    """Give the text of every configuration file, by its name.

    Every daemon finds its state below `directory`, which each host of the cluster has for itself.
    """
    lines = [
        "ClusterName=hpcalloc",
        f"SlurmctldHost={controller.host}({controller.address})",
        f"SlurmctldPort={port}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={directory}/munge.socket",
        f"StateSaveLocation={directory}/state",
        f"SlurmdSpoolDir={directory}/spool-%n",
        f"SlurmctldPidFile={directory}/slurmctld.pid",
        f"SlurmdPidFile={directory}/slurmd-%n.pid",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/affinity",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "SlurmdParameters=config_overrides",
        "SwitchType=switch/none",
        f"TmpFS={directory}/tmp-%n",
        "MpiDefault=none",
        f"SlurmdLogFile={directory}/slurmd-%n.log",
        "ReturnToService=2",
        "MessageTimeout=60",
        "SlurmdTimeout=600",
        "InactiveLimit=0",
        "KillWait=5",
        "MinJobAge=300",
    ]
    for node in nodes:
        cpus = node.sockets * node.cores_per_socket
        lines.append(
            f"NodeName={node.name} NodeHostname={node.host} NodeAddr={node.address} Port={node.port} CPUs={cpus} "
            f"Sockets={node.sockets} CoresPerSocket={node.cores_per_socket} ThreadsPerCore=1 State=UNKNOWN"
        )
    names = ",".join(node.name for node in nodes)
    lines.append(f"PartitionName=test Nodes={names} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO")
    return {
        "slurm.conf": "\n".join(lines) + "\n",
        "cgroup.conf": f"CgroupPlugin=cgroup/{cgroup_version()}\nIgnoreSystemd=yes\n",
    }


class Cluster:
    """A running Slurm; a context manager.

    Parameters
    ----------
    nodes : list of Node
    local : list of str
        Names of the nodes whose slurmd is started here.
    controls : bool
        slurmctld is started here; the controller is on the host of the first node.
    control_port : int
    key : bytes
        Munge's key, the same on all hosts; at least 32 bytes.
    directory : pathlib.Path, optional
        The same path on every host; by default a new one, which only a cluster on one host can have.
    """

    def __init__(
        self,
        nodes: list[Node],
        local: list[str],
        *,
        controls: bool = True,
        control_port: int,
        key: bytes | None = None,
        directory: pathlib.Path | None = None,
    ) -> None:
        self.nodes, self.local, self.controls, self.control_port = nodes, local, controls, control_port
        self._key = key or secrets.token_bytes(64)
        self._owned = directory is None
        # Short: Slurm's socket names below it must stay under 108 bytes.
        self.directory = directory or pathlib.Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- starting -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        here = self.directory
        here.mkdir(exist_ok=True)
        here.chmod(0o755)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        for name, text in configuration(here, self.nodes[0], self.control_port, self.nodes, user).items():
            (here / name).write_text(text)
        (here / "state").mkdir(exist_ok=True)
        # munged wants its directories closed to others, but its socket reachable.
        private = here / "munge"
        private.mkdir(mode=0o700, exist_ok=True)
        key = private / "key"
        key.touch(mode=0o600)
        key.write_bytes(self._key)
        self._daemon(
            "munged",
            *("--foreground", "--force", f"--socket={here}/munge.socket", f"--key-file={key}"),
            *(f"--pid-file={private}/pid", f"--seed-file={private}/seed", f"--log-file={private}/log"),
        )
        self._wait(lambda: (here / "munge.socket").exists(), "munged's socket", 30)
        if self.controls:
            self._daemon("slurmctld", "-D", "-f", f"{here}/slurm.conf", "-c")
        for name in self.local:
            (here / f"spool-{name}").mkdir(exist_ok=True)
            (here / f"tmp-{name}").mkdir(exist_ok=True)
            self._daemon("slurmd", "-D", "-f", f"{here}/slurm.conf", "-N", name)

    def _daemon(self, name: str, *options: str) -> None:
        # setpriv: the daemon gets SIGTERM when this process dies, even by SIGKILL.
        with open(self.directory / f"{name}.{len(self._daemons)}.out", "wb") as out:
            process = subprocess.Popen(
                [tool("setpriv"), "--pdeathsig", "TERM", tool(name), *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, **self.environment),
                start_new_session=True,  # Ctrl-C is for us; they are stopped in order
            )
        self._daemons.append((name, process))

    def _wait(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            self.check_daemons()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} is not there after {seconds:.0f} s\n{self.logs()}")
            time.sleep(0.1)

    def wait_ready(self, seconds: float = 60) -> None:
        """Return when every node is idle."""

        def idle() -> bool:
            done = subprocess.run(
                [tool("sinfo"), "--noheader", "--Node", "--format=%N %T"],
                capture_output=True,
                text=True,
                env=dict(os.environ, **self.environment),
                check=False,
            )
            states = dict(line.split() for line in done.stdout.splitlines())
            return {state.rstrip("*") for state in states.values()} == {"idle"} and not any(
                state.endswith("*") for state in states.values()
            )

        self._wait(idle, f"an idle state of {len(self.nodes)} nodes", seconds)

    def check_daemons(self) -> None:
        """Raise if a daemon has ended."""
        for name, process in self._daemons:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with exit code {process.returncode}\n{self.logs()}")

    def logs(self, lines: int = 15) -> str:
        """Last lines of what the daemons said."""
        parts = []
        for file in sorted([*self.directory.glob("*.out"), *self.directory.glob("munge/log")]):
            text = file.read_text(errors="replace").splitlines()[-lines:]
            parts += [f"--- {file.name}", *text]
        return "\n".join(parts)

    # ---- stopping -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End jobs, daemons and job steps, and remove the directory; safe to call again."""
        alive = [name for name, process in self._daemons if process.poll() is None]
        if self.controls and "slurmctld" in alive and "munged" in alive:
            self._cancel_jobs()
        for _, process in reversed(self._daemons):
            _end(process)
        self._daemons.clear()
        # Steps detach from their slurmd: found by the configuration they were started with.
        for pid in _processes_with("SLURM_CONF", self.environment["SLURM_CONF"]):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        if self._owned:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _cancel_jobs(self) -> None:
        environment = dict(os.environ, **self.environment)
        try:
            jobs = self._queue(environment)
            if jobs:
                subprocess.run(
                    [tool("scancel"), *jobs], env=environment, timeout=20, check=False, capture_output=True
                )
                deadline = time.monotonic() + 20
                while self._queue(environment) and time.monotonic() < deadline:
                    time.sleep(0.2)
        except subprocess.TimeoutExpired:
            pass  # the daemons go next

    def _queue(self, environment: Mapping[str, str]) -> list[str]:
        done = subprocess.run(
            [tool("squeue"), "--noheader", "--format=%A"],
            env=environment,
            timeout=20,
            check=False,
            capture_output=True,
            text=True,
        )
        return done.stdout.split()


def one_host(names: tuple[str, ...] = ("n1", "n2"), *, sockets: int = 1) -> Cluster:
    """Give a cluster of several nodes that are all this host, over loopback."""
    cores = max(len(os.sched_getaffinity(0)) // sockets, 1)
    control, *ports = free_ports(1 + len(names))
    host = socket.gethostname().partition(".")[0]
    nodes = [
        Node(name, host, "127.0.0.1", port, sockets, cores) for name, port in zip(names, ports, strict=True)
    ]
    return Cluster(nodes, list(names), control_port=control)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _processes_with(name: str, value: str) -> list[int]:
    """Processes other than this one that have a variable of that value in their environment."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found

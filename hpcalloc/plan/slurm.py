# SPDX-License-Identifier: BSD-3-Clause
"""A Slurm job script for a program, with the planner's ranks, threads and bindings. Pure: a topology in, text out.

The plan is for the topology of a compute node, and the script has it literally: `srun` gets one CPU mask per local rank.
Counts (``--cpus-per-task`` with ``--cpu-bind=cores``) would give the same only if ranks divide a node's cores evenly.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .._text import size_text
from ..discover.topology import Topology, format_ids
from ..exceptions import PlanError, message
from .ranks import Plan, make_plan

__all__ = ["JobScript", "make_jobscript"]

LAUNCHERS = ("srun", "mpirun")
PER_NODE = ("numa", "socket", "core")
HINTS = ("compute_bound", "memory_bound", "multithread", "nomultithread")

_NAME = re.compile(r"[\w.,@:+-]+")
_TIME = re.compile(r"\d+(:\d+(:\d+)?)?|\d+-\d+(:\d+(:\d+)?)?|UNLIMITED|INFINITE")
_MEMORY = re.compile(r"(\d+)([KMGT]?)")
_FILE = re.compile(r"[\w./,@:+%-]+")
_INTERPRETER = re.compile(r"python[\d.]*|julia|Rscript|perl|bash|sh")
_ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?")


@dataclass(frozen=True)
class JobScript:
    """A job script and the geometry it has.

    Attributes
    ----------
    text : str
        The script.
    plan : Plan
        Of each of its nodes.
    nodes, ranks_per_node, threads : int
        Threads are those of a rank.
    """

    text: str
    plan: Plan
    nodes: int
    ranks_per_node: int
    threads: int


def make_jobscript(
    topology: Topology,
    program: Sequence[str],
    *,
    nodes: int = 1,
    ranks_per_node: int | Literal["numa", "socket", "core"] = "numa",
    threads: int | Literal["auto"] = "auto",
    launcher: Literal["srun", "mpirun"] = "srun",
    mpi: str | None = None,
    name: str | None = None,
    time: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    memory: str | None = None,
    array: str | None = None,
    hint: str | None = None,
    log: str | None = None,
    setup: Sequence[str] = (),
    venv: str | None = None,
    check: bool = True,
) -> JobScript:
    """Write a job script that starts a program on whole nodes, every rank on its share of them.

    Parameters
    ----------
    topology : Topology
        Of a compute node; all of the job's are taken to be alike.
    program : sequence of str
        The program and its arguments.
    nodes : int
        Nodes of the job.
    ranks_per_node : int or {"numa", "socket", "core"}
        A number, or one per NUMA node that has cores, per socket, or per core.
    threads : int or "auto"
        OpenMP threads of a rank; auto: as many as the smallest share of a rank has cores.
    launcher : {"srun", "mpirun"}
    mpi : str, optional
        srun's ``--mpi``; by default the cluster's own.
    name, time, partition, account, memory, array, hint, log : str, optional
        As of sbatch; `memory` is per node, `log` is sbatch's ``--output``. `name` is the program's by default.
    setup : sequence of str
        Lines of shell that come first, such as ``module load openmpi``.
    venv : str, optional
        Virtual environment, or another folder with ``bin/hpcalloc``, whose programs are used; after `setup`.
    check : bool
        Begin with ``hpcalloc doctor`` and ``hpcalloc report`` on all ranks.

    Raises
    ------
    PlanError
        Geometry that the topology hasn't: more ranks than cores, more threads than the cores of a rank, more memory
        than a node; words that sbatch does not know.
    """
    _check_words(
        nodes, launcher, mpi, program, name=name, partition=partition, account=account, time=time, array=array,
        hint=hint, log=log,
    )  # fmt: skip
    for line in (*setup, *([venv] if venv is not None else [])):
        if not line or set("\n\0") & set(line):
            raise _refusal(
                f"{line!r} in setup or venv", "one line that is not empty", "give --setup several times"
            )
    cores = topology.usable_cores
    ranks = _ranks(topology, ranks_per_node)
    if ranks > len(cores):
        raise _refusal(
            f"{ranks} ranks a node",
            f"the {len(cores)} cores of {topology.source}",
            "fewer ranks a node, more nodes",
        )
    # If Slurm grants siblings, a mask has whole cores; threads are one per core.
    plan = make_plan(topology, ranks, smt=hint != "nomultithread")
    node_of = topology.node_of_cpu()
    core_of = {pu: core.pus for core in cores for pu in core.pus}
    width = min(len({core_of[cpu] for cpu in share.cpus}) for share in plan.ranks)
    count = width if threads == "auto" else threads
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= width:
        raise _refusal(
            f"threads={threads!r} with {ranks} ranks a node",
            f"1 to {width}, the cores of the smallest share of a rank on {topology.source}",
            "fewer threads, or fewer ranks a node",
        )
    _check_memory(topology, memory)
    spans = any(len({node_of[cpu] for cpu in share.cpus}) > 1 for share in plan.ranks)
    title = name or _title(program)
    directives = {
        "job-name": title,
        "nodes": str(nodes),
        "ntasks-per-node": str(ranks),
        "exclusive": None,
        "time": time,
        "partition": partition,
        "account": account,
        "mem": memory or "0",
        "array": array,
        "hint": hint,
        "output": log,
    }
    lines = [
        "#!/bin/bash -l" if setup else "#!/usr/bin/env bash",
        f"# {nodes} node{'s' if nodes > 1 else ''}, {ranks} rank{'s' if ranks > 1 else ''} a node, "
        f"{count} thread{'s' if count > 1 else ''} a rank; planned for {_comment(topology.source)}.",
        *(
            f"#   local rank {share.local_rank}: NUMA node{'s' if len(share.nodes) > 1 else ''} "
            f"{format_ids(share.nodes)}, CPUs {format_ids(share.cpus)}"
            for share in plan.ranks
        ),
        *(
            f"#SBATCH --{key}" + (f"={value}" if value is not None else "")
            for key, value in directives.items()
            if value is not None or key == "exclusive"
        ),
        "set -eo pipefail",
        "",
        "# The environment is made here: the job needs nothing of the shell it is submitted from, also with --export=NONE.",
        "# A site's MPI comes from its module; the MPI wheels of a virtual environment are for trying.",
        *setup,
        *([f'export PATH={shlex.quote(venv)}/bin:"$PATH"'] if venv is not None else []),
        "export SLURM_EXPORT_ENV=ALL # and the ranks have it",
        "set -u",
        'command -v hpcalloc || { echo "no hpcalloc in PATH=$PATH; remedy: --venv or --setup" >&2; exit 1; }',
        "",
        f"export OMP_NUM_THREADS={count}",
        *(_srun(plan, mpi, spans) if launcher == "srun" else _mpirun(plan, topology)),
        "",
    ]
    if check:
        lines += [
            "# What is wrong with the launch, and where every rank and its memory is. Whatever they find, the job goes on.",
            "diagnose() {",
            '    launch timeout 300 hpcalloc "$@" || echo "hpcalloc $1: exit code $?; the job goes on"',
            "}",
            "diagnose doctor",
            "diagnose report",
        ]
    if any(mark in word for word in program for mark in "$`"):
        lines.append("# shellcheck disable=SC2016 # what looks like an expansion is the program's own")
    lines += [f"launch hpcalloc run {shlex.join(program)}", ""]
    return JobScript("\n".join(lines), plan, nodes, ranks, count)


def _title(program: Sequence[str]) -> str:
    """The name of a program, or of what an interpreter is to run."""
    words = [word.rsplit("/", 1)[-1] for word in program]
    title = words[0]
    if _INTERPRETER.fullmatch(title):
        title = next((word for word in words[1:] if word and not word.startswith("-")), title)
        title = title.removesuffix(".py")
    return re.sub(r"[^\w.-]+", "_", title)


# ---- launching ----------------------------------------------------------------------------------------


def _srun(plan: Plan, mpi: str | None, spans: bool) -> list[str]:
    ranks = len(plan.ranks)
    masks = ",".join(hex(sum(1 << cpu for cpu in share.cpus)) for share in plan.ranks)
    options = [
        *([f"--mpi={mpi}"] if mpi else []),
        f'--ntasks="$((SLURM_JOB_NUM_NODES * {ranks}))" --ntasks-per-node={ranks} --distribution=block:block',
        # Ranks with several NUMA nodes must not be held to one.
        f"--mem-bind={'none' if spans else 'local'}",
        f"--cpu-bind=mask_cpu:{masks}",
    ]
    return [
        "# The masks say which CPUs a rank gets; a count beside them would have srun cut the node to that many.",
        "unset SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK SLURM_HINT",
        "launch() {",
        "    srun " + " \\\n        ".join([*options, '"$@"']),
        "}",
    ]


def _mpirun(plan: Plan, topology: Topology) -> list[str]:
    """Refuse a plan other than equal blocks of cores: mpirun has no option for it."""
    cores, ranks = topology.usable_cores, len(plan.ranks)
    width = len(cores) // ranks
    for i, share in enumerate(plan.ranks):
        block = {pu for core in cores[i * width : (i + 1) * width] for pu in core.pus}
        if set(share.cpus) != block:
            raise _refusal(
                f"mpirun for {ranks} ranks on {len(cores)} cores, of which local rank {i} is to have "
                f"{format_ids(share.cpus)}",
                "equal blocks of cores",
                "launcher='srun', or ranks that divide every NUMA node's cores",
            )
    return [
        "launch() {",
        f"    local ranks=$((SLURM_JOB_NUM_NODES * {ranks}))",
        "    if mpirun --version | grep -q 'Open MPI'; then",
        f'        mpirun -n "$ranks" --map-by ppr:{ranks}:node:PE={width} --bind-to core "$@"',
        "    else # MPICH",
        f'        mpirun -n "$ranks" -ppn {ranks} -bind-to core:{width} "$@"',
        "    fi",
        "}",
    ]


# ---- refusing -----------------------------------------------------------------------------------------


def _refusal(value: str, limit: str, remedy: str) -> PlanError:
    return PlanError(message("make_jobscript", value, limit, remedy))


def _comment(text: str) -> str:
    return " ".join(text.split())


def _ranks(topology: Topology, asked: int | str) -> int:
    if isinstance(asked, str):
        cores = topology.usable_cores
        counts = {
            "numa": len({core.node for core in cores}),
            "socket": len({core.package for core in cores}),
            "core": len(cores),
        }
        if asked not in counts:
            raise _refusal(f"ranks_per_node={asked!r}", f"a number or {', '.join(PER_NODE)}", "choose one")
        return counts[asked]
    if isinstance(asked, bool) or asked < 1:
        raise _refusal(f"ranks_per_node={asked!r}", "at least 1", "pass the ranks of one node")
    return asked


def _check_words(
    nodes: int, launcher: str, mpi: str | None, program: Sequence[str], **words: str | None
) -> None:
    if isinstance(nodes, bool) or nodes < 1:
        raise _refusal(f"nodes={nodes!r}", "at least 1", "pass the nodes of the job")
    if launcher not in LAUNCHERS:
        raise _refusal(f"launcher={launcher!r}", ", ".join(LAUNCHERS), "choose one")
    if not program or not program[0]:
        raise _refusal("no program", "a program and its arguments", "name it at the end")
    if program[0].startswith("-") or program[0].endswith("/"):
        raise _refusal(
            f"program {program[0]!r}", "a program, no option and no directory", "begin with its name"
        )
    if any("\n" in word or "\0" in word for word in program):
        raise _refusal("a line break in the program's arguments", "single lines", "pass a file instead")
    if mpi is not None and launcher == "mpirun":
        raise _refusal(f"mpi={mpi!r} with mpirun", "srun's --mpi", "leave it out, or launcher='srun'")
    patterns = {
        "time": (_TIME, "such as 30, 01:30:00 or 2-00"),
        "array": (_ARRAY, "such as 0-7 or 1,3,5-9:2%4"),
        "hint": (re.compile("|".join(HINTS)), ", ".join(HINTS)),
        "log": (_FILE, "a file name such as logs/%x-%j.out"),
    }
    for key, word in {"mpi": mpi, **words}.items():
        pattern, like = patterns.get(key, (_NAME, "a word of letters, digits and .,@:+-"))
        if word is not None and not pattern.fullmatch(word):
            raise _refusal(f"{key}={word!r}", like, "correct it")


def _check_memory(topology: Topology, memory: str | None) -> None:
    if memory is None:
        return
    match = _MEMORY.fullmatch(memory)
    if match is None:
        raise _refusal(
            f"memory={memory!r}", "a number with K, M, G or T, such as 64G; 0 for all", "correct it"
        )
    there = sum(node.memory_bytes for node in topology.nodes)
    asked = int(match[1]) << {"K": 10, "": 20, "M": 20, "G": 30, "T": 40}[match[2]]
    if there and asked > there:
        raise _refusal(
            f"memory={memory!r}", f"{size_text(there)} of {topology.source}", "less, or more nodes"
        )

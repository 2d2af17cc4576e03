# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench bandwidth``."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..._text import plural
from ...bench import bandwidth, triads
from ...bench.kernels import KERNELS
from ...bench.sizes import mib
from ...discover.topology import Topology
from ...exceptions import HpcallocError, message
from ..console import plain_console, print_table
from ..mpi import mpi_option, world
from . import figures
from .output import give, json_option, mark, note_option, plot_option, progress_bar, thread_list

__all__ = ["command"]


@click.command()
@click.option(
    "--size",
    "size",
    type=click.IntRange(1),
    metavar="MIB",
    help="Of each array; default 4 x the last-level caches.",
)
@click.option(
    "--small", is_flag=True, help="Allow arrays that fit into caches; 1 MiB unless --size says otherwise."
)
@click.option("--iterations", default=8, show_default=True, help="Counted iterations of a run.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each cell, interleaved.")
@click.option(
    "--stores",
    type=click.Choice(bandwidth.STORES),
    default="auto",
    show_default=True,
    help="How kernels write: through the caches, past them, or what is measured to be faster.",
)
@click.option(
    "--threads", metavar="N,N,...", help="Thread counts of the scaling; default powers of two, and all."
)
@click.option(
    "--compare/--no-compare",
    default=None,
    help="The triad beside C STREAM, NumPy and Numba; by default unless under MPI.",
)
@note_option
@json_option
@plot_option
@mpi_option
@click.pass_context
def command(
    ctx: click.Context,
    size: int | None,
    small: bool,
    iterations: int,
    repeats: int,
    stores: str,
    threads: str | None,
    compare: bool | None,
    note: str,
    json_file: str | None,
    plot_file: str | None,
    mpi: bool | None,
) -> None:
    """Measure memory bandwidth from each node's cores to each node's memory.

    Alone: read, write, copy and triad with all cores of a node and with one, over thread counts, and the triad beside C
    STREAM's. Under mpirun or srun: all ranks at once, on local, deliberately remote, interleaved and unplaced memory.
    Exit code 1 if a result is wrong or a page is not on its node.
    """
    options = bandwidth.Options(
        nbytes=size << 20 if size is not None else None,
        small=small,
        iterations=iterations,
        repeats=repeats,
        stores=stores,
        threads=thread_list(threads) if threads is not None else (),
    )
    comm = world(mpi)
    if comm is None:
        result = _alone(options, compare is not False)
        rank = 0
    else:
        if compare or threads is not None:
            raise HpcallocError(
                message(
                    "bench bandwidth",
                    "--compare" if compare else f"--threads {threads}",
                    "one process; of ranks only the placements are compared",
                    "--no-mpi, or OMP_NUM_THREADS for the threads of a rank",
                )
            )
        result = _together(comm, options)
        rank = comm.Get_rank()
        good = comm.bcast(result.get("good"), root=0)
    if rank == 0:
        if note:
            result["remarks"].insert(0, note)
        good = result["good"]
        draw = figures.ranks if "ranks" in result else figures.matrix
        give(result, json_file, plot_file, draw, _print)
    if not good:
        ctx.exit(1)


def _alone(options: bandwidth.Options, compare: bool) -> dict[str, Any]:
    total = bandwidth.steps(options) + (triads.steps(options) if compare else 0)
    with progress_bar(total) as advance:
        result = bandwidth.measure(options, advance)
        if compare:
            rows = triads.compare(options, Topology.from_machine(), result["array_bytes"], advance)
            result["triads"] = rows
            result["good"] = result["good"] and all(row.get("result_verified", True) for row in rows)
    return result


def _together(comm: Any, options: bandwidth.Options) -> dict[str, Any]:
    from ...bench import ranks

    with progress_bar(ranks.steps(options), quiet=comm.Get_rank() != 0) as advance:
        return ranks.measure(comm, options, advance)


# ---- tables, readable at 80 columns ---------------------------------------------------------------------


def _print(result: dict[str, Any]) -> None:
    console = plain_console()
    facts = result["machine"]
    console.print(f"{facts['processor']}, {facts['cpus']} CPUs; kernels {facts['instruction_set']}")
    console.print(
        f"arrays of {mib(result['array_bytes'])}, medians of {result['repeats']} x {result['iterations']} iterations;"
    )
    console.print("GB/s = 10^9 bytes/s, " + result["counting"].replace("; ", ";\n", 1))
    for remark in result["remarks"]:
        console.print(f"note: {remark}")
    if "ranks" in result:
        _print_ranks(console, result)
    else:
        _print_matrix(console, result)
        _print_scaling(console, result)
        _print_triads(console, result)
    console.print(f"bench bandwidth {'ok' if result['good'] else 'FAILED'}: {_verdict(result)}")


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _stores_text(choices: dict[str, dict[str, Any]]) -> str:
    streaming = [kernel for kernel, choice in choices.items() if choice["use"] == "streaming"]
    return f"streaming stores: {', '.join(streaming) or 'none'}"


def _print_matrix(console: Console, result: dict[str, Any]) -> None:
    memory = result["memory_nodes"]
    for team, title in (("all", "all cores of the node"), ("one", "one core")):
        table = Table(
            "CPUs of",
            "threads",
            "kernel",
            title=f"GB/s, {title}; {_stores_text(result['stores'][team])}",
            padding=(0, 1 if len(memory) < 5 else 0),
        )
        for node in memory:
            table.add_column(f"memory {node}" if len(memory) < 5 else str(node), justify="right")
        cells = {
            (c["cpu_node"], c["kernel"], c["memory_node"]): c for c in result["cells"] if c["team"] == team
        }
        for cpu_node in result["cpu_nodes"]:
            for kernel in KERNELS:
                row = [cells[cpu_node, kernel, node] for node in memory]
                first = kernel == KERNELS[0]
                table.add_row(
                    f"node {cpu_node}" if first else "",
                    str(row[0]["threads"]) if first else "",
                    kernel,
                    *(_cell(cell) for cell in row),
                    end_section=kernel == KERNELS[-1],
                )
        print_table(console, table)


def _cell(cell: dict[str, Any]) -> str:
    if not cell["result_verified"]:
        return "WRONG"
    return _rate(cell["gb_per_s"]) + mark(cell["placed"])


def _print_scaling(console: Console, result: dict[str, Any]) -> None:
    table = Table("threads", "on nodes", title="triad over threads, each on its own node's memory")
    for name in ("GB/s", "per thread", "speed-up"):
        table.add_column(name, justify="right")
    one = result["scaling"][0]
    for point in result["scaling"]:
        table.add_row(
            str(point["threads"]),
            ",".join(map(str, point["nodes"])),
            _cell(point),
            _rate(point["gb_per_s"] / point["threads"]),
            f"{point['gb_per_s'] / one['gb_per_s']:.2f}",
        )
    print_table(console, table)


def _print_triads(console: Console, result: dict[str, Any]) -> None:
    if "triads" not in result:
        return
    table = Table("triad", title="the triad beside others, interleaved, same sizes and cores")
    for name in ("threads", "GB/s", "best", "over STREAM"):
        table.add_column(name, justify="right")
    for row in result["triads"]:
        if "absent" in row:
            table.add_row(row["contestant"], "-", "absent", "", "")
            continue
        table.add_row(
            row["contestant"],
            str(row["threads"]),
            _rate(row["gb_per_s"]) if row["result_verified"] else "WRONG",
            _rate(row["best_gb_per_s"]),
            f"{row['over_stream']:.2f}",
        )
    print_table(console, table)
    for absent in sorted({row["absent"] for row in result["triads"] if "absent" in row}):
        console.print(f"Numba {absent}")


def _print_ranks(console: Console, result: dict[str, Any]) -> None:
    names = ["local", "remote", "interleaved", "unplaced"]
    table = Table(
        "rank", "nodes", "threads", title=f"triad, GB/s, all ranks at once; {_stores_text(result['stores'])}"
    )
    for name in names:
        table.add_column(name, justify="right")
    for rank in result["ranks"]:
        cells = []
        for name in names:
            place = rank["placements"].get(name)
            cells.append(
                _cell({**place["kernels"]["triad"], "placed": place["placed"] if place["nodes"] else True})
                if place
                else "-"
            )
        threads = rank["placements"]["local"]["threads"]
        table.add_row(str(rank["rank"]), ",".join(map(str, rank["nodes"])), str(threads), *cells)
    print_table(console, table)
    table = Table(
        "kernel",
        title=f"sum over {plural(len(result['ranks']), 'rank')}, GB/s: all bytes over the slowest rank's time",
    )
    for name in names:
        table.add_column(name, justify="right")
    for kernel in KERNELS:
        sums = result["sums"]
        table.add_row(kernel, *(_rate(sums[name][kernel]) if name in sums else "-" for name in names))
    print_table(console, table)


def _verdict(result: dict[str, Any]) -> str:
    if "ranks" in result:
        places = [
            place for rank in result["ranks"] for place in rank["placements"].values() if place["nodes"]
        ]
        cells = [cell for place in places for cell in place["kernels"].values()]
    else:
        places = cells = [*result["cells"], *result["scaling"]]
    right = sum(cell["result_verified"] for cell in cells)
    unknown = next((place["unknown"] for place in places if place["unknown"]), None)
    placed = sum(place["placed"] is True for place in places)
    where = (
        f"placement unknown (?): {unknown}"
        if unknown
        else f"{placed} of {len(places)} sets of pages on their node"
    )
    if placed < len(places) and not unknown:
        where += " (! marks the others)"
    return f"{right} of {len(cells)} results verified, {where}"

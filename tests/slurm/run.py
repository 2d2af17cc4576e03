"""A real Slurm in the tests: starts one on loopback and submits every job script to it.

Run by ``make test-slurm``; needs neither root nor an installed configuration. Each job is submitted with
``sbatch -W``, in the form a user would, and its exit code, its output and the files it wrote are checked. The
cluster is two nodes that are this host, so that ranks of both share its CPUs: nothing is measured here.
"""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import cluster

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPTS = ROOT / "jobscripts"
MULTIARCH = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
PMIX = pathlib.Path(f"/usr/lib/{MULTIARCH}/pmix2/lib/libpmix.so")  # what Debian's plugin loads

# How the ranks of a job are started: the virtual environment, and what a user would have in the environment.
LAUNCHES = {
    "openmpi mpirun": (".venv", {"LAUNCHER": "mpirun"}),
    "openmpi srun pmix": (".venv", {"LAUNCHER": "srun", "SLURM_MPI_TYPE": "pmix"}),
    "mpich srun pmi2": (".venv-mpich", {"LAUNCHER": "srun", "SLURM_MPI_TYPE": "pmi2"}),
    "mpich mpirun": (".venv-mpich", {"LAUNCHER": "mpirun"}),
}
ROOT_MAY = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
# Submitted with nothing of this environment but what a script takes as its parameters, and with hpcalloc not on the PATH.
BARE = "mpich srun pmi2"
SHORT = {"CHECK_MIB": "4", "SIZE": "192", "STEPS": "40"}
SECONDS = (
    1200  # all jobs are submitted at once, so the last one waits for all others; minutes on a busy machine
)

REPORT = (
    r"^(not )?healthy: \d+ ranks? on \d+ hosts?",
    r"may place memory: (yes|no)",
    r"^ rank +host +CPUs +nodes",
)
LOCAL = r"(100\.0 % of [1-9]\d* array pages local|placement unknown: .+)"


def heat2d(ranks: int) -> str:
    """Match the last line of the halo solver."""
    return rf"^heat2d ok: {ranks} ranks, (100\.0 % of [1-9]\d* pages local|placement unknown: .+), \d+ x \d+ points"


@dataclass(frozen=True)
class Job:
    """A submission and what it must give.

    Attributes
    ----------
    script : str
        Its name in `jobscripts`, or a path.
    launches : tuple of str
        Keys of `LAUNCHES`; it is submitted once for each.
    expect : tuple of str
        Regular expressions of its output, each of which must be found.
    options : tuple of str
        For sbatch.
    environment : dict
        For the job, beyond `SHORT`.
    code : int
        Its exit code.
    files : tuple of str
        Files in $RESULTS that it must write.
    """

    script: str
    launches: tuple[str, ...]
    expect: tuple[str, ...]
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    code: int = 0
    files: tuple[str, ...] = ()


def written(directory: pathlib.Path, name: str, launch: str, *options: str) -> str:
    """Have `hpcalloc jobscript` write a script for the halo solver; give its path."""
    path = directory / f"written-{name}-{launch.replace(' ', '-')}.sh"
    program = ("python", "examples/mpi/heat2d.py", "--size", SHORT["SIZE"], "--steps", SHORT["STEPS"])
    venv, how = LAUNCHES[launch]
    options += ("--venv", str(ROOT / venv), "--setup", f"export {ROOT_MAY}")
    if how["LAUNCHER"] == "mpirun":
        options += ("--launcher", "mpirun")
    else:
        options += ("--mpi", how["SLURM_MPI_TYPE"])
    command = [sys.executable, "-m", "hpcalloc", "jobscript", "--output", str(path), *options, "--", *program]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)
    return str(path)


def jobs(cores: int, scratch: pathlib.Path) -> list[Job]:
    """List what is submitted; every script of `jobscripts` is among them."""
    both = ("openmpi mpirun", "mpich srun pmi2")
    everything = tuple(LAUNCHES)
    numa = ("--nodes", "2", "--ranks-per-node", "numa", "--threads", "auto", "--log", f"{scratch}/%x-%j.out")
    core = ("--nodes", "2", "--ranks-per-node", "core", "--time", "10", "--hint", "nomultithread")
    return [
        Job("job_mpi_all_sockets.sh", both, (*REPORT, LOCAL, heat2d(cores))),
        Job("job_mpi_nodes.sh", everything, (*REPORT, LOCAL, heat2d(2 * cores), "2 nodes with")),
        Job("job_mpi_few_ranks.sh", both, (*REPORT, LOCAL, heat2d(1))),
        Job("job_hybrid_numa.sh", everything, (*REPORT, LOCAL, heat2d(2)), ("--nodes=2",)),
        Job(
            "job_openmp_all_sockets.sh",
            both[1:],
            (*REPORT, LOCAL, rf"^thread_buffers ok: {cores} threads", r"^thread 0 on node \d+: home \d+"),
        ),
        Job(
            "job_mpi_placement.sh",
            both,
            (
                *(
                    *REPORT,
                    LOCAL,
                    r"^stream ok: \d+ ranks, plain NumPy",
                    r"^stream ok: \d+ ranks, 100\.0 % of",
                ),
                *(rf"^. {kind} +. {cores} +. 2 " for kind in ("bound", "unbound", "interleaved")),
                r"^plot: ",
            ),
            environment={"SIZE": "20000", "STEPS": "3", "ROUNDS": "2"},
            files=("placement.png", "bound-2.json", "unbound-2.json", "interleaved-2.json"),
        ),
        Job(
            "job_mpi_sweep.sh",
            both,
            (*REPORT, LOCAL, *(rf"^cg_poisson3d ok: {cores} ranks, .* {n}\^3 points" for n in (24, 32))),
            ("--array=0-1",),
            {"SIZES": "24 32"},
            files=("size-24.json", "size-32.json"),
        ),
        Job(
            "job_mpi_scaling.sh",
            both,
            (
                *(*REPORT, LOCAL),
                rf"^. strong +. {2 * cores} ",
                rf"^. weak +. {2 * cores} ",
                r"^cg_poisson3d ok: 1 ranks, 100\.0 % of .* 24\^3 points",
                r"^plot: ",
            ),
            environment={"SIZE": "24"},
            files=("scaling.png", f"strong-{2 * cores}.json", f"weak-{2 * cores}.json"),
        ),
        Job(
            "job_mpi_container.sh",
            both,
            ("^in hpcalloc.sif", *REPORT, LOCAL, heat2d(1)),
            environment={"IMAGE": "hpcalloc.sif"},
        ),
        Job(
            "job_mpi_container.sh",
            both[1:],
            (
                "^in refusing.sif",
                "may ask for placement: no",
                "^placement unknown: ",
                "^heat2d ok: 1 ranks, placement unknown",
            ),
            environment={"IMAGE": "refusing.sif"},
        ),
        *(
            Job(
                written(scratch, name, launch, *options),
                (launch,),
                (*REPORT, LOCAL, heat2d(ranks)),
                ("--export=NONE",),
            )
            for name, options, ranks, launches in (
                ("numa", numa, 2, everything[1:3]),
                ("core", core, 2 * cores, everything[1:3]),
                ("mpirun", ("--ranks-per-node", "core"), cores, everything[0::3]),
            )
            for launch in launches
        ),
        # Looked at while it runs, on both hosts; and placements compared in turns.
        Job(
            str(HERE / "job_ps.sh"),
            both[:1],
            (r"^HOST +RANK +PID ", r"^\S+ +0 +\d+ python .* 8\d\.\d MiB +100 % ", r"^\S+ +1 +\d+ python "),
            ("--nodes=2", "--ntasks=2"),
        ),
        Job(
            str(HERE / "job_compare.sh"),
            both[:1],
            (r"^as-launched +2 +8 +1 ", r"^pinned +2 +8 +2 .* slower"),
            ("--ntasks=2",),
        ),
        # What must fail does: geometry that no node has, a launcher that isn't one, a program that exits 2.
        Job(
            "job_hybrid_numa.sh",
            both[1:],
            (rf"hybrid_numa: {cores + 1} ranks a node; limit: 1 to the {cores} cores",),
            environment={"RANKS_PER_NODE": str(cores + 1)},
            code=2,
        ),
        Job(
            "job_hybrid_numa.sh",
            both[1:],
            (rf"hybrid_numa: {cores + 1} threads a rank; limit: 1 to {cores}",),
            environment={"RANKS_PER_NODE": "1", "THREADS": str(cores + 1)},
            code=2,
        ),
        Job("job_mpi_container.sh", both[:1], ("neither IMAGE nor CONTAINER; limit",), code=2),
        Job(
            "job_mpi_sweep.sh",
            both[:1],
            ("array task 1; limit: 0 to 0",),
            ("--array=1",),
            {"SIZES": "10"},
            code=2,
        ),
        Job(
            "job_mpi_nodes.sh", both[:1], (r"LAUNCHER=prun; limit",), environment={"LAUNCHER": "prun"}, code=2
        ),
        Job(
            "job_mpi_all_sockets.sh",
            both,
            (r"argument --size: 0: numbers from 1",),
            environment={"SIZE": "0"},
            code=2,
        ),
    ]


@dataclass
class Outcome:
    """What became of one submission."""

    name: str
    wrong: list[str]
    output: str
    seconds: float
    again_ok: bool = False

    def to_text(self) -> str:
        """Give what was wrong, and what the job said, cut in its middle."""
        output = self.output
        verdict = "FAILED, but not the second time" if self.again_ok else "FAILED"
        if len(output) > 6000:
            output = f"{output[:3000]}\n[...]\n{output[-3000:]}"
        return "\n".join(
            [f"--- {self.name} said:", output.rstrip(), f"--- {self.name}: {verdict}:", *self.wrong]
        )


def submit(job: Job, launch: str, slurm: cluster.Cluster, scratch: pathlib.Path) -> Outcome:
    """Submit a job once and check it."""
    venv, how = LAUNCHES[launch]
    path = pathlib.Path(job.script)
    script = path if path.is_absolute() else SCRIPTS / job.script
    name = f"{script.name} [{launch}]" + (f" {job.environment}" if job.environment else "")
    scratch.mkdir()
    parameters = {**SHORT, **how, **job.environment, "RESULTS": str(scratch / "results")}
    environment = {**os.environ, **parameters, **slurm.environment, "PATH": cluster.SEARCH}
    bin_folder, options = ROOT / "tests/slurm/bin", job.options
    if path.is_absolute() and "--export=NONE" in options:
        pass
    elif launch == BARE:
        parameters |= {"VENV": str(ROOT / venv), "SETUP": f"export PATH={bin_folder}:$PATH"}
        options += ("--export=" + ",".join(f"{name}={value}" for name, value in parameters.items()),)
        environment = {n: v for n, v in environment.items() if n not in parameters}
    else:
        environment |= dict(word.split("=") for word in ROOT_MAY.split())
        environment["PATH"] = f"{ROOT / venv / 'bin'}:{bin_folder}:{cluster.SEARCH}"
    start = time.monotonic()
    command = [cluster.tool("sbatch"), "-W", f"--output={scratch}/out-%A_%a", *options, str(script)]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        code, said = done.returncode, done.stderr
    except subprocess.TimeoutExpired:
        queue = subprocess.run(
            [cluster.tool("squeue"), "--format=%j %T %r"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        code, said = -1, f"not done after {SECONDS} s; the queue:\n{queue.stdout}"
    text = said + "".join(f.read_text(errors="replace") for f in sorted(scratch.glob("out-*")))
    wrong = [f"exit code {code}, not {job.code}"] if code != job.code else []
    wrong += [f"nothing matches {e}" for e in job.expect if not re.search(e, text, re.M)]
    for file in job.files:
        if not any(f.stat().st_size for f in (scratch / "results").glob(file)):
            wrong.append(f"no {file}, or an empty one")
    return Outcome(name, wrong, text, time.monotonic() - start)


def missing(launch: str) -> str | None:
    """Name what a launch lacks on this host."""
    if "pmix" in launch and not PMIX.exists():
        return f"{PMIX} (apt-get install libpmix-dev)"
    if not (ROOT / LAUNCHES[launch][0] / "installed").exists():
        return f"{LAUNCHES[launch][0]} (make{' MPI=mpich' if 'mpich' in launch else ''})"
    return None


def main() -> int:
    """Submit everything and print the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="jobs whose name has it")
    options = parser.parse_args()
    if absent := cluster.missing_tools():
        print(f"slurm: missing {', '.join(absent)}; remedy: {cluster.DEBIAN}")
        print("slurm: 0 passed, 1 failed")
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):  # even where a shell started us with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    passed = failed = 0
    outcomes: list[Outcome] = []
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="hpcalloc-slurm-"))
    try:
        with cluster.one_host() as slurm:
            slurm.wait_ready()
            cores = slurm.nodes[0].cores_per_socket
            submissions = []
            for job in jobs(cores, scratch):
                for launch in job.launches:
                    if options.only not in f"{job.script} [{launch}]":
                        continue
                    if lack := missing(launch):
                        print(f"{job.script} [{launch}]: FAILED: missing {lack}")
                        failed += 1
                        continue
                    submissions.append((job, launch))
            # All at once: Slurm queues them, and `sbatch -W` looks only every ten seconds whether its job is done.
            pool = ThreadPoolExecutor(max(len(submissions), 1))
            waiting = [
                pool.submit(submit, job, launch, slurm, scratch / str(i))
                for i, (job, launch) in enumerate(submissions)
            ]
            try:
                for future in waiting:
                    outcome = future.result()
                    verdict = "FAILED" if outcome.wrong else "ok"
                    print(f"{outcome.name}: {verdict} ({outcome.seconds:.0f} s)", flush=True)
                    outcomes.append(outcome)
                # Two slurmd of one host share what real ones have each for themselves (session directories, ports): a
                # job that stumbles over the other's gets a second, lonely, try. What it said the first time is shown.
                for i, (job, launch) in enumerate(submissions):
                    if outcomes[i].wrong:
                        again = submit(job, launch, slurm, scratch / f"{i}-again")
                        outcomes[i].again_ok = not again.wrong
                        print(
                            f"{again.name}: {'FAILED' if again.wrong else 'ok'}, the second time", flush=True
                        )
                passed += sum(not outcome.wrong or outcome.again_ok for outcome in outcomes)
                failed += sum(bool(outcome.wrong) and not outcome.again_ok for outcome in outcomes)
                slurm.check_daemons()
            finally:
                slurm.stop()  # ends sbatch too, so that its thread does
                pool.shutdown(cancel_futures=True)
    except (RuntimeError, TimeoutError, OSError, subprocess.SubprocessError) as error:
        print(f"slurm: {error}")
        failed += 1
    except KeyboardInterrupt:
        print("slurm: interrupted")
        failed += 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if passed + failed == 0:
        print(f"slurm: no job has {options.only!r} in its name")
        failed += 1
    for outcome in outcomes:  # last, where a log that was cut at its top still has them
        if outcome.wrong:
            print(outcome.to_text())
    print(f"slurm: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

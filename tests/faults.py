# SPDX-License-Identifier: BSD-3-Clause
"""Ranks that raise, are interrupted, leave or are killed at random points of init, shared arrays, report and close.

    python tests/faults.py --seconds 600 --ranks 2 --seed 1 [--python VENV/bin/python ...]

starts jobs of that many ranks, with each MPI in turn. There are three kinds:

rounds: one fault each, on a random rank or on all. A round is good if all ranks end it within the time limits with what
    hpcalloc may raise, no context is open afterwards, and affinity, thread pools and NumPy's allocator are as before.
killed: a rank is killed. Where the launcher lets the others live, they end the round as above.
ctrl-c: mpirun is interrupted. The job ends.

After each job /dev/shm is as before, but for what MPI itself leaves of killed ranks (and, without --alone, for what the MPI
of other programs makes meanwhile; unshare --mount and a tmpfs of one's own make it true). Half of the jobs have
HPCALLOC_REPORT. Prints counts and the longest time of a round; exits 1 with the seeds of jobs that were not good.
"""

import argparse
import collections
import contextlib
import faulthandler
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from launching import mpirun_path

LIMIT, HEALTHY = 2, 60  # HPCALLOC_TIMEOUT of rounds with a fault and without
WAITS = 3  # a round waits so often at most: for the others, for rank 0's answer, in close
SLACK = 240  # seconds that a crowded machine may take for the rest of a round
FAULTS = (
    "none",
    "none",
    "none",
    "raise",
    "interrupt",
    "interrupt",
    "interrupt all",
    "interrupts",
    "absent",
    "raise in one call",
)
POINTS = 11
KINDS = ("rounds", "rounds", "rounds", "killed", "ctrl-c")
# What MPI makes in /dev/shm: Open MPI's and its UCX's, MPICH's, and its windows'.
MPIS_OWN = re.compile(r"(vader_segment|sm_segment|osc_rdma|osc_sm|ucx_|mpich_shar_|mpi_shm|mpich_)[\w.-]*")

IN_MPI = re.compile(r"most recent call first\):\n  File .* in together\n")


class PlannedError(Exception):
    """The fault that is made on purpose."""


# ---- one rank -------------------------------------------------------------------------------------------------


class State:
    """What a round must leave as it was."""

    def __init__(self):
        import threadpoolctl
        from numpy._core.multiarray import get_handler_name

        self._handler_name = get_handler_name
        self._pools = threadpoolctl.ThreadpoolController().lib_controllers

    def now(self):
        masks = set()
        for tid in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                masks.add(tuple(sorted(os.sched_getaffinity(int(tid)))))
        return sorted(masks), [pool.num_threads for pool in self._pools], self._handler_name()


def rank_main(seed, rounds, kind):
    from mpi4py import MPI

    import hpcalloc

    faulthandler.enable()  # says where a rank is that the job's time limit ends
    world = MPI.COMM_WORLD
    comms = [world.Dup() for _ in range(rounds)]  # one that a round has spoilt is not used again
    state = State()
    before = state.now()
    counts, longest = collections.Counter(), collections.Counter()
    lasts = 0.05

    def interrupted(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupted)
    for number, comm in enumerate(comms):
        dice = random.Random(f"{seed} {number}")
        culprit, fault, point = dice.randrange(world.size), dice.choice(FAULTS), dice.randrange(POINTS)
        waits = [dice.uniform(0, 1.2 * lasts) for _ in range(world.size)]
        killing = kind == "killed" and number == rounds - 1
        if killing:
            fault = "kill"
        elif kind == "killed":
            fault = "none"
        mine = culprit == world.rank
        if fault == "interrupt all":
            mine = True
        limit = HEALTHY if fault == "none" else LIMIT
        os.environ["HPCALLOC_TIMEOUT"] = str(limit)
        if killing and mine:
            signal.signal(
                signal.SIGALRM, signal.SIG_DFL
            )  # ends the process as SIGKILL does: no code of it runs
        if killing:
            print(f"KILLING {culprit}", flush=True)

        def at(here, mine=mine, fault=fault, point=point):
            if mine and here == point and fault == "raise":
                raise PlannedError

        # A rank that hangs says where, and ends the job.
        faulthandler.dump_traceback_later(WAITS * 2 * limit + SLACK, exit=True)
        start = time.monotonic()
        outcome, text = "ended", ""
        try:
            try:
                if mine and fault.startswith(("interrupt", "kill")):
                    again = 0.003 if fault == "interrupts" else 0
                    signal.setitimer(signal.ITIMER_REAL, max(waits[world.rank], 1e-5), again)
                if not (mine and fault == "absent"):
                    use(hpcalloc, comm, at, bad=mine and fault == "raise in one call")
                if mine and killing:
                    signal.pause()
            except (PlannedError, KeyboardInterrupt, ValueError, hpcalloc.HpcallocError) as error:
                outcome, text = type(error).__name__, str(error)
            finally:
                quiet()
        except KeyboardInterrupt:
            outcome = "KeyboardInterrupt"
            quiet()
        lasted = time.monotonic() - start
        faulthandler.cancel_dump_traceback_later()
        bad = ""
        if hpcalloc.current() is not None:
            bad = f"{hpcalloc.current()} is open"
        elif state.now() != before:
            bad = f"{state.now()} was {before}"
        elif fault == "none" and outcome != "ended":
            bad = f"{outcome}: {text}"
        if bad:
            print(
                f"BAD seed {seed} round {number}: {fault} on {culprit}, rank {world.rank}: {bad}", flush=True
            )
        if killing:  # the communicators are no more; nor does MPI_Finalize end
            if not bad:
                print(f"SURVIVED {outcome}", flush=True)
            os._exit(0)
        if fault == "none" and outcome == "ended":
            lasts = 0.7 * lasts + 0.3 * lasted
        lasts = world.bcast(lasts)  # every rank draws the same
        if not world.allreduce(int(not bad), op=MPI.MIN):
            world.Abort(3)
        counts[f"{fault}: {outcome}"] += 1
        longest[fault] = max(longest[fault], lasted)
    everyone = world.gather((counts, longest))
    if world.rank == 0:
        print("COUNTS", json.dumps(everyone), flush=True)


def quiet():
    """Stop the interrupts, one of which may come first."""
    for _ in range(10):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        except KeyboardInterrupt:
            pass


def use(hpcalloc, comm, at, bad):
    """What a program does with hpcalloc, on a communicator that is used once."""
    at(0)
    with hpcalloc.init(comm) as ctx:
        at(1)
        ctx.install_numpy_allocator()
        a = ctx.shared_zeros(1000 if not bad else -1)
        at(2)
        a.mine[...] = ctx.rank
        a.barrier()
        at(3)
        with hpcalloc.init(comm) as inner:
            at(4)
            b = inner.shared_empty((10, 10), halo=1)
            with a.lock(0):
                at(5)
        ctx.report()
        at(6)
        b.free()
        at(7)
        a.barrier()
        at(8)
        with ctx.shared_zeros((50, 3), "f4", split="page") as c:
            c.mine[...] = 1
            at(9)
    at(10)


# ---- jobs -----------------------------------------------------------------------------------------------------


class Launcher:
    """The mpirun beside a Python, and its options."""

    def __init__(self, python):
        self.python = python
        beside = pathlib.Path(python).parent / "mpirun"
        self.mpirun = str(beside) if beside.exists() else shutil.which("mpirun") or mpirun_path()
        said = subprocess.run([self.mpirun, "--version"], capture_output=True, text=True, check=False).stdout
        self.is_open_mpi = "Open MPI" in said or "Open RTE" in said
        version = re.search(r"\d+\.\d+(\.\d+)?", said)
        self.name = f"{'Open MPI' if self.is_open_mpi else 'MPICH'} {version[0] if version else '?'}"

    def words(self, ranks, survive):
        options = []
        if self.is_open_mpi:
            # Unbound, so that there is a binding to take back.
            options += ["--bind-to", "none"] + (
                ["--map-by", ":OVERSUBSCRIBE"] if ranks > os.cpu_count() else []
            )
            options += ["--enable-recovery"] if survive else []
        elif survive:
            options += ["-disable-auto-cleanup"]
        return [self.mpirun, *options, "-n", str(ranks), self.python]


def job(ranks, seed, rounds, kind="rounds", launcher=None, alone=False):
    """Run one job: its counts, the longest rounds, and what it said if it is not good."""
    launcher = launcher or Launcher(sys.executable)
    dice = random.Random(f"job {seed}")
    survive = kind == "killed" and dice.random() < 0.7
    if kind != "rounds":
        rounds = min(rounds, dice.randint(1, 5))
    command = [
        *launcher.words(ranks, survive),
        "-m",
        "mpi4py",
        __file__,
        "--rank",
        str(seed),
        str(rounds),
        kind,
    ]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    before = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory(prefix="hpcalloc-faults-") as scratch:
        if dice.random() < 0.5:
            environment["HPCALLOC_REPORT"] = f"{scratch}/report.json"
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        most = 2 * SLACK + WAITS * 2 * HEALTHY + rounds * WAITS * (LIMIT + 1)
        if kind == "ctrl-c":
            time.sleep(dice.uniform(0.2, 4))
            process.send_signal(signal.SIGINT)
        try:
            said = process.communicate(timeout=most)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)
            return None, {}, f"no end within {most:.0f} s\n" + process.communicate()[0][-8000:]
        # Ranks that mpirun has not waited for.
        with_ended = f"{__file__} --rank {seed} "
        end = time.monotonic() + SLACK
        while time.monotonic() < end and any(with_ended in line for line in command_lines()):
            time.sleep(0.1)
        parts = [str(path) for path in pathlib.Path(scratch).rglob("*.part")] if kind == "rounds" else []
    counts, longest, bad = verdict(kind, said, process.returncode)
    left = set(os.listdir("/dev/shm")) - before
    foreign = {name for name in left if not MPIS_OWN.fullmatch(name)}
    if foreign or parts or (left and alone and kind == "rounds"):
        bad = f"left: {sorted(left)} {parts}\n{bad}"
    if left and alone and not bad:
        counts["entries of MPI's in /dev/shm"] += len(left)
        for name in left:
            remove(pathlib.Path("/dev/shm", name))
    return (None if bad else counts), longest, bad


def remove(path):
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def command_lines():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = pathlib.Path("/proc", name, "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            yield text.replace("\0", " ")


def verdict(kind, said, code):
    """Counts and longest rounds of what a job said, and why it is not good."""
    total, longest = collections.Counter(), collections.Counter()
    if kind == "killed" and "Timeout (" in said and IN_MPI.search(said):
        # MPI's own calls that wait for all ranks have no limit: one that is killed inside leaves the others there.
        total["killed, another rank: inside of a call of MPI's"] = 1
        return total, longest, ""
    if "BAD seed" in said or "Timeout (" in said:
        return total, longest, said[-8000:]
    if kind == "ctrl-c":
        total[f"ctrl-c: job ended {'with an error' if code else 'before'}"] = 1
        return total, longest, ""
    if kind == "killed":
        survivors = re.findall(r"SURVIVED (\w+)", said)
        total["killed: job ended"] = 1
        for outcome in survivors:
            total[f"killed, another rank: {outcome}"] += 1
        return total, longest, "" if "KILLING" in said else said[-4000:]
    counted = [line for line in said.splitlines() if line.startswith("COUNTS ")]
    if code != 0 or not counted:
        return total, longest, f"exit code {code}\n{said[-8000:]}"
    for counts, lasted in json.loads(counted[0].split(" ", 1)[1]):
        total.update(counts)
        for fault, seconds in lasted.items():
            longest[fault] = max(longest[fault], seconds)
    return total, longest, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", action="append")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--rank", nargs=3)
    chosen = parser.parse_args()
    if chosen.rank:
        return rank_main(int(chosen.rank[0]), int(chosen.rank[1]), chosen.rank[2])
    launchers = [Launcher(python) for python in chosen.python or [sys.executable]]
    start, seed, not_good = time.monotonic(), chosen.seed, []
    totals = {launcher.name: collections.Counter() for launcher in launchers}
    longest = collections.Counter()
    while seed == chosen.seed or time.monotonic() < start + chosen.seconds:
        launcher = launchers[seed % len(launchers)]
        kind = KINDS[seed // len(launchers) % len(KINDS)]
        counts, lasted, bad = job(chosen.ranks, seed, chosen.rounds, kind, launcher, chosen.alone)
        if counts is None:
            print(f"{bad}\nfaults: {launcher.name}, seed {seed}, {kind}: not good", flush=True)
            not_good.append(seed)
        else:
            totals[launcher.name].update(counts)
            totals[launcher.name][f"jobs: {kind}"] += 1
        for fault, seconds in lasted.items():
            longest[fault] = max(longest[fault], seconds)
        seed += 1
    for name, total in totals.items():
        print(f"{name}: {json.dumps(total, sort_keys=True)}")
    print("longest round, s:", json.dumps({fault: round(s, 1) for fault, s in longest.items()}))
    print(f"{seed - chosen.seed} jobs of {chosen.ranks} ranks in {time.monotonic() - start:.0f} s, ", end="")
    print(f"not good: seeds {not_good}" if not_good else "all good")
    sys.exit(bool(not_good))


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    main()

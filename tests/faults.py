# SPDX-License-Identifier: BSD-3-Clause
"""Ranks that raise, are interrupted, leave or die at random points of init, shared arrays, report and close.

    python tests/faults.py --seconds 600 --ranks 2 --seed 1

starts jobs of that many ranks, each with rounds of one fault on a random rank. A round is good if all ranks end it with
what hpcalloc may raise, no context is open afterwards, and the affinity is as before; a job is good if it ends in time.
Killed ranks have a job of their own. Prints counts, and exits 1 with the seed of the first job that was not good.
"""

import argparse
import faulthandler
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from launching import mpirun_words

LIMIT, HEALTHY = 2, 10  # HPCALLOC_TIMEOUT of rounds with a fault and without
FAULTS = (
    "none",
    "none",
    "none",
    "raise",
    "interrupt",
    "interrupt",
    "interrupts",
    "absent",
    "raise in one call",
)
POINTS = 9


class PlannedError(Exception):
    """The fault that is made on purpose."""


# ---- one rank -------------------------------------------------------------------------------------------------


def rank_main(seed, rounds, killing):
    from mpi4py import MPI

    import hpcalloc

    faulthandler.enable()  # says where a rank is that the job's time limit ends
    world = MPI.COMM_WORLD
    comms = [world.Dup() for _ in range(rounds)]  # one that a round has spoilt is not used again
    before = os.sched_getaffinity(0)
    counts = {}
    lasts = 0.05

    def interrupted(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupted)
    for number, comm in enumerate(comms):
        dice = random.Random(f"{seed} {number}")
        culprit, fault, point = dice.randrange(world.size), dice.choice(FAULTS), dice.randrange(POINTS)
        wait = dice.uniform(0, 1.2 * lasts)
        mine = culprit == world.rank
        os.environ["HPCALLOC_TIMEOUT"] = str(HEALTHY if fault == "none" else LIMIT)
        if killing and mine and number == rounds - 1:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
            fault = "interrupt"
        reached = 0

        def at(here, mine=mine, fault=fault, point=point):
            nonlocal reached
            reached = here
            if mine and here == point and fault == "raise":
                raise PlannedError

        start = time.monotonic()
        outcome, text = "ended", ""
        try:
            try:
                if mine and fault.startswith("interrupt"):
                    again = 0.003 if fault == "interrupts" else 0
                    signal.setitimer(signal.ITIMER_REAL, max(wait, 1e-5), again)
                if not (mine and fault == "absent"):
                    use(hpcalloc, comm, at, bad=mine and fault == "raise in one call")
            except (PlannedError, KeyboardInterrupt, ValueError, hpcalloc.HpcallocError) as error:
                outcome, text = type(error).__name__, str(error)
            finally:
                quiet()
        except KeyboardInterrupt:
            outcome = "KeyboardInterrupt"
            quiet()
        current = hpcalloc.current()
        good = current is None and os.sched_getaffinity(0) == before
        if fault == "none" and outcome == "ended":
            lasts = 0.7 * lasts + 0.3 * (time.monotonic() - start)
        lasts = world.bcast(lasts)  # every rank draws the same
        if not good:
            print(
                f"BAD seed {seed} round {number}: {fault} on {culprit}, rank {world.rank}: {current}",
                flush=True,
            )
        if good and fault == "none":
            good = outcome == "ended"
            if not good:
                print(
                    f"BAD seed {seed} round {number}: no fault, rank {world.rank}: {outcome}: {text}",
                    flush=True,
                )
        if not world.allreduce(int(good), op=MPI.MIN):
            world.Abort(3)
        counts[f"{fault}: {outcome}"] = counts.get(f"{fault}: {outcome}", 0) + 1
    everyone = world.gather(counts)
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


# ---- jobs -----------------------------------------------------------------------------------------------------


def job(ranks, seed, rounds, killing):
    """Start one job; its counts, or None with what it said if it is not good."""
    environment = dict(
        os.environ,
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )
    command = [
        *mpirun_words(ranks),
        sys.executable,
        __file__,
        "--rank",
        str(seed),
        str(rounds),
        str(int(killing)),
    ]
    # A round waits three times at most: for the others, for rank 0's answer, in close.
    most = 30 + rounds * 3 * (LIMIT + 1)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=most)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        return None, f"no end within {most:.0f} s\n" + process.communicate()[0][-8000:]
    counted = [line for line in said.splitlines() if line.startswith("COUNTS ")]
    if killing:
        good = process.returncode != 0 and "BAD" not in said
        return ({"killed: job ended": 1}, "") if good else (None, said[-4000:])
    if process.returncode != 0 or not counted:
        return None, said[-4000:]
    total = {}
    for of_rank in json.loads(counted[0].split(" ", 1)[1]):
        for name, count in of_rank.items():
            total[name] = total.get(name, 0) + count
    return total, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rank", nargs=3, type=int)
    chosen = parser.parse_args()
    if chosen.rank:
        return rank_main(chosen.rank[0], chosen.rank[1], bool(chosen.rank[2]))
    shm = set(os.listdir("/dev/shm"))
    end, seed, total = time.monotonic() + chosen.seconds, chosen.seed, {}
    while True:
        killing = seed % 5 == 4
        counts, said = job(chosen.ranks, seed, min(5, chosen.rounds) if killing else chosen.rounds, killing)
        if counts is None:
            print(said)
            sys.exit(f"faults: job with seed {seed} of {chosen.ranks} ranks is not good")
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
        seed += 1
        if time.monotonic() > end:
            break
    left = {name for name in os.listdir("/dev/shm") if name not in shm and "hpcalloc" in name}
    assert not left, left
    print(f"{seed - chosen.seed} jobs of {chosen.ranks} ranks, all good: {json.dumps(total, sort_keys=True)}")


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    main()

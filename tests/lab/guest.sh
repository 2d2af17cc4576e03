#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs inside a machine of the lab: guest.sh ROOT PYTHON NODES KINDS MEMKIND CHECK... Every line of a check ends in ": ok",
# ": FAILED" or ": skipped"; lab.py counts them. A marker at the end shows that the guest got there.
set -u
root=$1 python=$2 nodes=$3 kinds=$4 memkind=$5
shift 5
bin="$root"/build/native/bin
export HOME=/tmp OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
PATH="$(dirname "$python"):$PATH"

# check NAME COMMAND...: its output if it fails.
check() {
    local name=$1
    shift
    if "$@" >/tmp/check.out 2>&1; then echo "$name: ok"; else
        grep -vE ': (ok|FAILED|skipped)$' /tmp/check.out | tail -40
        grep -E ': (FAILED|skipped)$' /tmp/check.out | sed 's/^/  /; s/$/ here/'
        echo "$name: FAILED"
    fi
}
# Exit code 1: a check failed.
fails() {
    "$@"
    [ $? = 1 ]
}

placement() { "$bin"/lab_placement; }

# With placement switched off the checks must fail.
unplaced() {
    for case in on_node_preferred on_node_strict interleaved_pages_alternate blocked_parts_are_in_order; do
        check "placement switched off is noticed by $case" fails env LD_PRELOAD="$root"/build/native/liblab_unplaced.so "$bin"/lab_placement $case
    done
}

library() {
    check "stress" "$bin"/stress --threads 4 --operations 20000
    check "test_api" "$bin"/test_api every_policy_gives_memory mixed_cache_interleaved_spans_are_reused block_info_describes_blocks \
        bad_requests_are_refused prefault_and_page_query strict_memory_is_there_at_once
    check "untouched pages" "$bin"/test_os query_tells_untouched_pages query_tells_read_pages_from_unmapped_ones
    # The header's inline path compares the CPU; secure mode has none.
    check "inline" "$bin"/test_inline_static inline
    check "secure" env NUMALLOC_SECURE=1 "$bin"/test_inline_static calls
}

hotplug() { check "CPUs that come online" "$bin"/lab_hotplug; }

# A policy that somebody chose before the start, under bare LD_PRELOAD and for hpcalloc's local arrays.
under_numactl() {
    local options=$1
    shift
    # shellcheck disable=SC2086
    check "numactl $options under preload" numactl $options env LD_PRELOAD="$root"/build/native/libnumalloc_preload.so "$bin"/preload_inherited "$@"
}
inherited() {
    under_numactl --membind=1 1
    under_numactl --preferred=1 1
    under_numactl --interleave=0-1 --each 0 1
    under_numactl --membind=0-1 0 1
}

# What may be changed only on a machine of one's own, and what a container may forbid.
exhaustion() {
    "$bin"/test_exhaustion commit_limit cgroup_limit no_huge_pages >/tmp/exhaustion.out 2>&1
    grep -E '^(commit|cgroup)_limit: |^no_huge_pages: |failed:|skipped:' /tmp/exhaustion.out | sort -u
}

# shellcheck disable=SC2086
kinds() { "$bin"/lab_kinds $kinds; }

python_kinds() { "$python" "$root"/tests/lab/check_kinds.py; }

memkind() {
    local fast=${memkind%% *}
    # shellcheck disable=SC2086
    check "a program for hbwmalloc.h" taskset -c 0 "$bin"/use_hbw $fast
    # shellcheck disable=SC2086
    check "a program for memkind.h" taskset -c 0 "$bin"/use_memkind $memkind
}

off() { check "one node" grep -qx "on node 0 of 1" <("$bin"/header_example); }

smt() { check "cores of two threads" grep -qx 0-1 /sys/devices/system/cpu/cpu0/topology/thread_siblings_list; }

# The kernel knows the node of each network card, and programs see them there.
devices() {
    local found node
    found=$(for card in $(grep -l 0x10d3 /sys/bus/pci/devices/*/device); do cat "${card%/device}"/numa_node; done)
    for node in 0 1; do
        check "a network card on node $node" grep -qx "$node" <<<"$found"
    done
    check "ranks near devices" "$python" "$root"/tests/lab/check_devices.py
}

arrays() { check "arrays of every policy" "$python" "$root"/tests/lab/check_python.py; }

bandwidth() { check "bench bandwidth and latency, pages of 4x4 cells" "$python" "$root"/tests/lab/check_bandwidth.py; }

# job NAME MPIRUN-WORD...: a rank for each node; MPI's shared memory wants a real directory. Its output if it fails.
job() {
    local name=$1
    shift
    if timeout 480 env OMP_WAIT_POLICY=passive mpirun --mca osc ^ucx -n 4 "$@" >/tmp/job.out 2>&1 && ! grep -q osc_ucx /tmp/job.out; then
        cat /tmp/job.out
    else
        tail -40 /tmp/job.out
        echo "$name: FAILED"
        return 1
    fi
}

ranks() { job "4 ranks" "$python" -m mpi4py "$root"/tests/lab/check_ranks.py; }

# The main job; the same solver without hpcalloc, started by it; and a process that moves away before it allocates.
reports() {
    local to=/tmp/reports heat=(--size 256 --steps 50) last
    local leave="import os, numpy as n; os.sched_setaffinity(0, [7 - min(os.sched_getaffinity(0))]); a = n.ones(10**6); del a"
    mkdir -p $to
    HPCALLOC_REPORT=$to/library.json job "heat2d on 4 ranks" "$python" "$root"/examples/mpi/heat2d.py "${heat[@]}" || return
    last=$(tail -1 /tmp/job.out)
    check "heat2d on 4 ranks, 100.0 % local" test "${last%% of *}" = "heat2d ok: 4 ranks, 100.0 %"
    HPCALLOC_REPORT=$to/plain.json job "unchanged heat2d" hpcalloc run "$python" "$root"/examples/mpi/heat2d_plain.py "${heat[@]}" || return
    HPCALLOC_REPORT=$to/control.json taskset -c 0 hpcalloc run "$python" -c "$leave"
    check "unchanged ranks under hpcalloc run, 100.0 % local" "$python" "$root"/tests/lab/check_run.py $to
}

online=$(ls -d /sys/devices/system/node/node[0-9]* 2>/dev/null | wc -l)
[ "$online" = "$nodes" ] && echo "the kernel has $nodes nodes: ok" || echo "the kernel has $online of $nodes nodes: FAILED"
for name in "$@"; do
    begin=$SECONDS
    "$name"
    echo "--- $name: $((SECONDS - begin)) s in the guest"
done
echo "lab guest done"

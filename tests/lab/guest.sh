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

shared() {
    if timeout 480 mpirun -n 4 "$python" -m mpi4py "$root"/tests/lab/check_shared.py >/tmp/shared.out 2>&1 &&
        ! grep -q osc_ucx /tmp/shared.out; then
        cat /tmp/shared.out
    else
        tail -40 /tmp/shared.out
        echo "shared arrays on 4 ranks: FAILED"
    fi
}

# Four ranks, a node each; MPI's shared memory wants a real directory.
ranks() {
    local reports=/tmp/reports last
    mkdir -p $reports
    heat=(--size 256 --steps 50)
    if HPCALLOC_REPORT=$reports/library.json timeout 480 mpirun --mca osc ^ucx -n 4 "$python" "$root"/examples/mpi/heat2d.py "${heat[@]}" >/tmp/heat.out 2>&1; then
        tail -25 /tmp/heat.out
        last=$(tail -1 /tmp/heat.out)
        case $last in
            "heat2d ok: 4 ranks, 100.0 % of "*) echo "heat2d on 4 ranks, 100.0 % local: ok" ;;
            *) echo "heat2d on 4 ranks, 100.0 % local: FAILED" ;;
        esac
    else
        tail -40 /tmp/heat.out
        echo "heat2d on 4 ranks, 100.0 % local: FAILED"
    fi
    { OMP_WAIT_POLICY=passive timeout 480 mpirun --mca osc ^ucx -n 4 hpcalloc bench bandwidth --small --iterations 1 \
        --repeats 1 --json /tmp/ranks.json && "$python" "$root"/tests/lab/check_bandwidth.py /tmp/ranks.json; } >/tmp/ranks.out 2>&1 &&
        echo "bench bandwidth of 4 ranks, local and remote pages: ok" ||
        { tail -20 /tmp/ranks.out; echo "bench bandwidth of 4 ranks, local and remote pages: FAILED"; }
    # The same solver without hpcalloc, started by it; and ranks that move away before they allocate.
    leave="import os, numpy as n; here = min(os.sched_getaffinity(0)); os.sched_setaffinity(0, [(here + 2) % 8]); a = n.ones(10**6); del a"
    HPCALLOC_REPORT=$reports/plain.json timeout 480 mpirun --mca osc ^ucx -n 4 hpcalloc run "$python" "$root"/examples/mpi/heat2d_plain.py "${heat[@]}" >/tmp/run.out 2>&1 &&
        HPCALLOC_REPORT=$reports/control.json timeout 480 mpirun -n 4 hpcalloc run "$python" -c "$leave" >>/tmp/run.out 2>&1 &&
        "$python" "$root"/tests/lab/check_run.py $reports && echo "unchanged ranks under hpcalloc run, 100.0 % local: ok" ||
        { tail -30 /tmp/run.out; ls $reports; echo "unchanged ranks under hpcalloc run, 100.0 % local: FAILED"; }
}

online=$(ls -d /sys/devices/system/node/node[0-9]* 2>/dev/null | wc -l)
[ "$online" = "$nodes" ] && echo "the kernel has $nodes nodes: ok" || echo "the kernel has $online of $nodes nodes: FAILED"
for name in "$@"; do
    begin=$SECONDS
    "$name"
    echo "--- $name: $((SECONDS - begin)) s in the guest"
done
echo "lab guest done"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs inside the lab's kernel: guest.sh NODES ROOT PYTHON. Every line of a check ends in ": ok", ": FAILED" or
# ": skipped"; lab.py counts them. A marker at the end shows that the guest got there.
set -u
nodes=$1 root=$2 python=$3
export HOME=/tmp OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
PATH="$(dirname "$python"):$PATH"

online=$(ls -d /sys/devices/system/node/node[0-9]* | wc -l)
[ "$online" = "$nodes" ] && echo "lab kernel has $nodes nodes: ok" || echo "lab kernel has $online of $nodes nodes: FAILED"

"$root"/build/native/bin/lab_placement
"$root"/build/native/bin/stress --threads 4 --operations 20000 && echo "stress on $nodes nodes: ok" || echo "stress on $nodes nodes: FAILED"
"$root"/build/native/bin/test_api every_policy_gives_memory mixed_cache_interleaved_spans_are_reused block_info_describes_blocks \
    bad_requests_are_refused prefault_and_page_query strict_memory_is_there_at_once >/tmp/api.out 2>&1 && echo "test_api on $nodes nodes: ok" || { tail -5 /tmp/api.out; echo "test_api on $nodes nodes: FAILED"; }

"$root"/build/native/bin/test_os query_tells_untouched_pages query_tells_read_pages_from_unmapped_ones >/tmp/os.out 2>&1 &&
    echo "untouched pages on $nodes nodes: ok" || { cat /tmp/os.out; echo "untouched pages on $nodes nodes: FAILED"; }

# The header's inline path compares the CPU; secure mode has none.
"$root"/build/native/bin/test_inline_static inline >/tmp/inline.out 2>&1 && echo "inline on $nodes nodes: ok" || { cat /tmp/inline.out; echo "inline on $nodes nodes: FAILED"; }
NUMALLOC_SECURE=1 "$root"/build/native/bin/test_inline_static calls >/tmp/inline.out 2>&1 && echo "secure on $nodes nodes: ok" || { cat /tmp/inline.out; echo "secure on $nodes nodes: FAILED"; }

"$root"/build/native/bin/lab_hotplug >/tmp/hotplug.out 2>&1 && echo "CPUs that come online on $nodes nodes: ok" || { cat /tmp/hotplug.out; echo "CPUs that come online on $nodes nodes: FAILED"; }

# A policy that somebody chose before the start, under bare LD_PRELOAD and for hpcalloc's local arrays.
inherited() {
    local options=$1
    shift
    # shellcheck disable=SC2086
    numactl $options env LD_PRELOAD="$root"/build/native/libnumalloc_preload.so "$root"/build/native/bin/preload_inherited "$@" >/tmp/inherited.out 2>&1 &&
        echo "numactl $options under preload on $nodes nodes: ok" || { cat /tmp/inherited.out; echo "numactl $options under preload on $nodes nodes: FAILED"; }
}
inherited --membind=1 1
inherited --preferred=1 1
inherited --interleave=0-1 --each 0 1
inherited --membind=0-1 0 1

# What may be changed only on a machine of one's own, and what a container may forbid.
"$root"/build/native/bin/test_exhaustion commit_limit cgroup_limit no_huge_pages >/tmp/exhaustion.out 2>&1
grep -E '^(commit|cgroup)_limit: |^no_huge_pages: |failed:|skipped:' /tmp/exhaustion.out | sort -u

if [ "$nodes" = 4 ]; then
    "$python" "$root"/tests/lab/check_python.py && echo "arrays of every policy: ok" || echo "arrays of every policy: FAILED"
    "$python" "$root"/tests/lab/check_bandwidth.py && echo "bench bandwidth and latency, pages of 4x4 cells: ok" ||
        echo "bench bandwidth and latency, pages of 4x4 cells: FAILED"
    if timeout 480 mpirun -n 4 "$python" -m mpi4py "$root"/tests/lab/check_shared.py >/tmp/shared.out 2>&1 &&
        ! grep -q osc_ucx /tmp/shared.out; then
        cat /tmp/shared.out
    else
        tail -40 /tmp/shared.out
        echo "shared arrays on 4 ranks: FAILED"
    fi
    # Four ranks, a node each; MPI's shared memory wants a real directory.
    reports=/tmp/reports
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
fi
echo "lab guest done"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# What placement is worth on a node: STREAM's triad on ranks that are bound with hpcalloc's arrays, unbound with plain
# NumPy's, and bound with plain arrays that are interleaved over all NUMA nodes. In turns within one job, so that a
# slow spell of the machine meets all three; at the end a table and a plot.
#
#   sbatch jobscripts/job_mpi_placement.sh
#   RESULTS=placement ROUNDS=7 sbatch jobscripts/job_mpi_placement.sh
#
# ROUNDS (5) of each, SIZE (40000000) elements a rank, STEPS (20) repetitions in a round, RANKS_PER_NODE (one per
# core); the rest: jobscripts/common.sh. Interleaving needs numactl; without it that row is left out, and it is said.
#
#SBATCH --job-name=mpi_placement
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=01:00:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

geometry "$cores"
collect "$SLURM_JOB_ID"
check

program=(python "$HPCALLOC_HOME/examples/mpi/stream.py" --size "${SIZE:-40000000}" --steps "${STEPS:-20}")
command -v numactl >/dev/null || echo "$SLURM_JOB_NAME: numactl is missing: nothing is interleaved"
for ((round = 1; round <= ${ROUNDS:-5}; round++)); do
    launch "${program[@]}" --json "$results/bound-$round.json"
    CPU_BIND=none MEM_BIND=none launch "${program[@]}" --no-hpcalloc --json "$results/unbound-$round.json"
    if command -v numactl >/dev/null; then
        MEM_BIND=none launch numactl --interleave=all \
            "${program[@]}" --no-hpcalloc --json "$results/interleaved-$round.json"
    fi
done
((numa_nodes > 1)) || echo "1 NUMA node: no remote memory to compare with"
python "$HPCALLOC_HOME/jobscripts/summary.py" placement "$results" --plot "$results/placement.png"

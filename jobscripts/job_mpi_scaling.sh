#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Strong and weak scaling of the conjugate gradient solver: 1, 2, 4 ... ranks up to a node's, then 2, 4 ... nodes.
# Strong: the same cube on all. Weak: a cube with as many points a rank. At the end a table and the curves.
#
#   sbatch --nodes=8 jobscripts/job_mpi_scaling.sh
#
# SIZE (256) points in each direction on one rank, RANKS_PER_NODE (one per core). Ranks fill a node in order: the first
# ones share one NUMA node's memory. The rest: jobscripts/common.sh.
#
#SBATCH --job-name=mpi_scaling
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=02:00:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

geometry "$cores"
collect "$SLURM_JOB_ID"
check

solve() { # solve KIND SIZE
    launch hpcalloc run python "$HPCALLOC_HOME/examples/mpi/cg_poisson3d.py" --size "$2" --json "$results/$1-$ranks.json"
}

full=$ranks_per_node all_nodes=$nodes size=${SIZE:-256}
counts=()
for ((count = 1; count < full; count *= 2)); do counts+=("1 $count"); done
for ((count = 1; count < all_nodes; count *= 2)); do counts+=("$count $full"); done
counts+=("$all_nodes $full")
for geometry in "${counts[@]}"; do
    read -r nodes ranks_per_node <<<"$geometry"
    ranks=$((nodes * ranks_per_node))
    solve strong "$size"
    solve weak "$(awk -v n="$size" -v p="$ranks" 'BEGIN { printf "%.0f", n * p ^ (1 / 3) }')"
done
python "$HPCALLOC_HOME/jobscripts/summary.py" scaling "$results" --plot "$results/scaling.png"

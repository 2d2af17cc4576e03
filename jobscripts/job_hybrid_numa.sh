#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# MPI and threads: one rank per NUMA node, and a thread on each of the node's cores.
#
#   sbatch --nodes=4 jobscripts/job_hybrid_numa.sh
#
# SIZE (16384) and STEPS (500) of the halo solver; the rest: jobscripts/common.sh.
#
#SBATCH --job-name=hybrid_numa
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

geometry "$numa_nodes"
check
launch hpcalloc run python "$HPCALLOC_HOME/examples/mpi/heat2d.py" --size "${SIZE:-16384}" --steps "${STEPS:-500}"

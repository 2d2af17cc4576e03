#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Fewer ranks than NUMA nodes: each rank has the cores of several neighbouring nodes, and its arrays are
# interleaved over them, so that all their memory controllers work for it.
#
#   sbatch jobscripts/job_mpi_few_ranks.sh
#
# RANKS_PER_NODE: half as many ranks as NUMA nodes by default, at least one. A rank that wants several nodes must
# not be held to one by srun's --mem-bind=local: it is `none` here. SIZE (16384) and STEPS (500) of the halo solver;
# the rest: jobscripts/common.sh.
#
#SBATCH --job-name=mpi_few_ranks
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

MEM_BIND=${MEM_BIND:-none}
geometry $(((numa_nodes + 1) / 2))
check
launch hpcalloc run python "$HPCALLOC_HOME/examples/mpi/heat2d.py" --size "${SIZE:-16384}" --steps "${STEPS:-500}"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The halo solver on several nodes, a rank on every core of each.
#
#   sbatch --nodes=8 jobscripts/job_mpi_nodes.sh
#
# SIZE (32768) interior points in each direction, STEPS (500) sweeps; the rest: jobscripts/common.sh.
#
#SBATCH --job-name=mpi_nodes
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

geometry "$cores"
check
launch hpcalloc run python "$HPCALLOC_HOME/examples/mpi/heat2d.py" --size "${SIZE:-32768}" --steps "${STEPS:-500}"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The halo solver on one node, all of its sockets, a rank on every core.
#
#   sbatch jobscripts/job_mpi_all_sockets.sh
#   SIZE=4096 STEPS=100 LAUNCHER=mpirun sbatch jobscripts/job_mpi_all_sockets.sh
#
# SIZE (16384) interior points in each direction, STEPS (500) sweeps; the rest: jobscripts/common.sh.
#
#SBATCH --job-name=mpi_all_sockets
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

geometry "$cores"
check
launch hpcalloc run python "$HPCALLOC_HOME/examples/mpi/heat2d.py" --size "${SIZE:-16384}" --steps "${STEPS:-500}"

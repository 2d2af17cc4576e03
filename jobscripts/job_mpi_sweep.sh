#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# A parameter sweep as an array job: each task solves Poisson's equation at one size, on a node of its own, and leaves
# a JSON file.
#
#   sbatch jobscripts/job_mpi_sweep.sh
#   SIZES='100 200' RESULTS=sweep sbatch --array=0-1 jobscripts/job_mpi_sweep.sh
#
# SIZES (64 128 256 512) points in each direction, one a task; --array has to have as many. RESULTS
# (results-ARRAYJOBID) is the same for all tasks. The rest: jobscripts/common.sh.
#
#SBATCH --job-name=mpi_sweep
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=01:00:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

read -ra sizes <<<"${SIZES:-64 128 256 512}"
task=${SLURM_ARRAY_TASK_ID:?this is an array job}
if ((task >= ${#sizes[@]})); then
    refuse "array task $task" "0 to $((${#sizes[@]} - 1)), one for each of SIZES" "--array=0-$((${#sizes[@]} - 1))"
fi
geometry "$cores"
collect "$SLURM_ARRAY_JOB_ID"
check
launch hpcalloc run python "$HPCALLOC_HOME/examples/mpi/cg_poisson3d.py" --size "${sizes[task]}" \
    --json "$results/size-${sizes[task]}.json"

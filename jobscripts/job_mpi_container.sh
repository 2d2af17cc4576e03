#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The halo solver from a container: the launcher starts a container for each rank, the MPI library is the image's.
#
#   IMAGE=hpcalloc.sif LAUNCHER=srun SLURM_MPI_TYPE=pmix sbatch jobscripts/job_mpi_container.sh
#
# The image has Python with hpcalloc and an MPI library that speaks the launcher's PMI: one that meets `srun --mpi=pmix`
# here meets it from within as well. With LAUNCHER=mpirun the host's MPI and the image's have to be of one kind.
#
# Seccomp: placing memory takes mbind and set_mempolicy, proving it move_pages. Apptainer sets no filter of its own, so
# all works. The default profiles of Docker and Podman refuse these calls to processes without CAP_SYS_NICE: then
# memory is where the pinned rank first touches it and reports say "placement unknown" with the reason. The remedy is
# --cap-add=SYS_NICE or a profile that permits them (--security-opt seccomp=FILE).
#
# IMAGE: the image. CONTAINER: the whole command before PROGRAM, instead of `apptainer exec`, words split at blanks.
# SIZE (16384) and STEPS (500); the rest: jobscripts/common.sh.
#
#SBATCH --job-name=mpi_container
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

container=(apptainer exec --bind "$HPCALLOC_HOME" "${IMAGE:-}")
[ -z "${CONTAINER:-}" ] || read -ra container <<<"$CONTAINER"
if [ -z "${IMAGE:-}${CONTAINER:-}" ]; then
    refuse "neither IMAGE nor CONTAINER" "an image" "IMAGE=hpcalloc.sif sbatch jobscripts/job_mpi_container.sh"
fi
geometry "$numa_nodes"
check
launch "${container[@]}" hpcalloc run python "$HPCALLOC_HOME/examples/mpi/heat2d.py" \
    --size "${SIZE:-16384}" --steps "${STEPS:-500}"

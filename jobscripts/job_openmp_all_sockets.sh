#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# One OpenMP process on all sockets of a node: threads on every core, each with buffers on its own NUMA node.
#
#   make examples && sbatch jobscripts/job_openmp_all_sockets.sh
#
# THREADS: one per core by default. The process itself is not bound to a node's memory: its threads place their own.
# The rest: jobscripts/common.sh.
#
#SBATCH --job-name=openmp_all_sockets
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=00:10:00
set -euo pipefail
source "${HPCALLOC_HOME:-${SLURM_SUBMIT_DIR:?submit this script with sbatch}}/jobscripts/common.sh"

LAUNCHER=srun MEM_BIND=${MEM_BIND:-none}
geometry 1
check
export OMP_PLACES=cores OMP_PROC_BIND=spread # all threads are OpenMP's, and each keeps its node
launch "$HPCALLOC_HOME/build/examples/openmp/thread_buffers" # each thread places its own memory; run would spread it

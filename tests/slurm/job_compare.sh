#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Placements of a program compared inside of an allocation; its figure is made of what the placement gives it.
#SBATCH --job-name=compare
#SBATCH --time=10
set -euo pipefail
hpcalloc compare -n 2 --variants pinned --metric 'figure: (.*)' --launcher "srun --mpi=none --overlap -n {n}" -- \
    python -c "import os; print('figure:', 1 + ('HPCALLOC_RUN' in os.environ))"

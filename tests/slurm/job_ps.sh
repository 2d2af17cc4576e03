#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# A job whose processes are looked at while they run: each has 80 MiB on the node of its CPUs.
#SBATCH --job-name=ps
#SBATCH --time=10
set -euo pipefail
tasks=$SLURM_NTASKS
srun --mpi=none --cpu-bind=cores python -c "x = bytearray(b'x') * (80 << 20); import time; time.sleep(300)" &
step=$!
out=$(mktemp)
for _ in $(seq 30); do
    hpcalloc ps --job "$SLURM_JOB_ID" >"$out" 2>&1 || true
    [ "$(grep -c 'python .* 8[0-9]\.[0-9] MiB ' "$out")" -ge "$tasks" ] && break
    sleep 1
done
cat "$out"
rm "$out"
kill "$step"
wait "$step" || true

# SPDX-License-Identifier: BSD-3-Clause
"""Who runs where: ranks on a topology, one process of `hpcalloc run`, a Slurm job. Pure functions."""

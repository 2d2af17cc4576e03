# SPDX-License-Identifier: BSD-3-Clause
"""Where processes run: ranks on a topology, one process of `hpcalloc run`, a Slurm job. Pure functions."""

# SPDX-License-Identifier: BSD-3-Clause
"""Arrays over the ranks of a host, in shared windows of MPI."""

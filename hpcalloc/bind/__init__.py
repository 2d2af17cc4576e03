# SPDX-License-Identifier: BSD-3-Clause
"""Affinity and thread pools, the ranks of a communicator, and what one rank has been given."""

# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks: side by side, interleaved, medians. ``hpcalloc bench`` prints what these modules measure."""

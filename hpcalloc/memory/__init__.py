# SPDX-License-Identifier: BSD-3-Clause
"""Arrays, the allocator of NumPy, pages that are faulted in and moved, and where pages are."""

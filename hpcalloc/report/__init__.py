# SPDX-License-Identifier: BSD-3-Clause
"""What was obtained, for one rank and for all: record, summary, HTML and the files of HPCALLOC_REPORT."""

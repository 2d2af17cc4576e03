# SPDX-License-Identifier: BSD-3-Clause
"""``python -m hpcalloc``."""

from .cli import main

main()

# SPDX-License-Identifier: BSD-3-Clause
"""What the machine and the launcher are: topology, launcher, and the files of /proc and /sys. Reads only."""

# SPDX-License-Identifier: BSD-3-Clause
"""What a call raises on this rank, to compare it with the others'."""


def raised(call):
    """The exception, None without one."""
    try:
        call()
    except Exception as error:
        return error
    return None

"""Locks that one process holds at a time; the system lets go of them however that process ends."""

from __future__ import annotations


def take_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False where another process holds it.

    Where the system knows no such locks nobody is kept out.

    Raises:
        OSError: locks do not work on this file.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

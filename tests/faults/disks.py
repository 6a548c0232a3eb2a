"""Full and read-only disks: a small private file system of this process, if Linux allows one."""

import contextlib
import ctypes
import os
import resource
import signal

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
READ_ONLY, REMOUNT, PRIVATE, RECURSIVE = 1, 32, 1 << 18, 1 << 14


def own_disk(folder, size=2**26):
    """Mounts an empty tmpfs on a folder for this process and its children only; returns False if that is forbidden.

    Only for a process with one thread, such as a fork.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_MOUNTS | (0 if user == 0 else NEW_USER)):
        return False
    try:
        if user != 0:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {user} 1")
            _write("/proc/self/gid_map", f"0 {group} 1")
    except OSError:
        return False
    if libc.mount(None, b"/", None, PRIVATE | RECURSIVE, None):
        return False
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) == 0


def make_read_only(folder):
    """Makes a private disk read-only."""
    if ctypes.CDLL(None).mount(None, os.fsencode(folder), None, REMOUNT | READ_ONLY, None):
        raise OSError(f"'{folder}' cannot be mounted anew.")


@contextlib.contextmanager
def almost_full(folder, free, own):
    """Leaves this many free bytes on a private disk; without one, limits the size of files ("File too large")."""
    if not own:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        return
    filler = os.path.join(folder, "filler")
    status = os.statvfs(folder)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - free))
    try:
        yield
    finally:
        os.unlink(filler)


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)

"""Writing files whole or not at all, and saying in one sentence what went wrong."""

import contextlib
import errno
import os
import shutil
from pathlib import Path

from filelock import FileLock

from ganseg.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
# Where params/ and notebooks/ lie: a wheel carries them in the package, a clone beside it
ROOT = _PACKAGE if (_PACKAGE / "params").is_dir() else _PACKAGE.parent
FULL = {errno.ENOSPC: "no room is left", errno.EDQUOT: "the quota is used up"}  # whatever is written there
NOT_WRITABLE = FULL | {
    errno.EROFS: "it is read-only", errno.EACCES: "it may not be written", errno.EPERM: "it may not be written",
    errno.ENAMETOOLONG: "its name is too long", errno.EINVAL: "its name is not allowed there",
    errno.ENOTDIR: "a file is where a folder should be", errno.EEXIST: "a file is where a folder should be",
    errno.EISDIR: "a folder is where the file should be", errno.ENOTEMPTY: "another folder is there",
    errno.ELOOP: "a link leads to itself", errno.EFBIG: "it is too large for that disk", errno.EIO: "the disk fails",
}  # fmt: skip


def outputs_root():
    """Where runs are kept: $GANSEG_OUTPUTS, where a first ~ is the home folder.

    Else outputs/ in the clone, or in the working folder where there is none.
    """
    beside = Path.cwd() if ROOT == _PACKAGE else ROOT
    return Path(os.path.expanduser(os.environ.get("GANSEG_OUTPUTS") or beside / "outputs"))


def absolute(path):
    """A path that a user named, as an absolute Path: from the working directory, else from the project's root.

    Where there is nothing at either, from the working directory. A first ~ is the home folder; ~nobody stays.
    """
    path = os.path.expanduser(path)
    # os.path.exists raises no error for a name that is too long, or below a folder that may not be entered
    return next(filter(os.path.exists, (Path(path), ROOT / path)), Path(path)).absolute()


def one_line(error):
    """What an exception says, in one line; its type's name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def whole(path, mode="w"):
    """Open a file for writing that takes the place of `path` only once all of it is on the disk.

    path  str or Path; folders above it are made
    mode  "w" for UTF-8 text, "wb" for bytes
    Where the block fails, what was at `path` before stays. Raises UserError where it cannot be written.
    """
    path = Path(path)
    # Two processes may write at once. The longest name that a disk allows leaves no room for a longer one
    partial = path.with_name(f"{path.name[:50]}.{os.getpid()}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # a power cut must not leave a name without its content
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path):
    """A new folder to write into, which takes the place of the folder `path` once the block ends without an error.

    The caller holds a lock: what a process that was killed left of either is removed. Raises UserError where it cannot
    be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    for old in (partial, path):
        shutil.rmtree(old, ignore_errors=True)
    try:
        with writing(path):
            partial.mkdir(parents=True)
            yield partial
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def locked(path):
    """Keep other processes, which wait, out of the block by the lock file `path`; folders above it are made.

    Raises UserError where it cannot be written.
    """
    lock = FileLock(path)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_text(path, text):
    """Write a text file whole or not at all; see whole."""
    with whole(path) as file:
        file.write(text)


@contextlib.contextmanager
def writing(path):
    """Turn the error of a path that cannot be written into a UserError of one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # PyTorch wraps what writing a checkpoint raises
        causes = [error, error.__cause__, error.__context__]
        reason = next((NOT_WRITABLE[e.errno] for e in causes if getattr(e, "errno", None) in NOT_WRITABLE), None)
        if reason is None and "PytorchStreamWriter" in str(error):
            reason = "no room is left"
        if reason is None:
            raise
        raise UserError(
            f"{path}: cannot be written, {reason}; make room, or choose another name or folder (that of all runs is "
            "GANSEG_OUTPUTS). What was saved before is kept, and the same command goes on from there."
        ) from None

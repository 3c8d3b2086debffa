"""The files of a folder as a data set: clutter left out, links followed with care."""

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

from ganseg import files
from ganseg.errors import UserError

CLUTTER = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}


def fingerprint(path):
    """A text that changes when a file of a folder, or the archive, is added, removed or changed."""
    path = Path(path)
    digest = hashlib.sha256()
    for name, found in walk(path) if path.is_dir() else [(path.name, path.stat())]:
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def walk(root, prefix="", seen=None):
    """(name, stat) of all that lies below a folder but clutter, sorted. Links are followed, but not in a circle.

    Links that lead nowhere and pipes are among them: whoever reads them is told why they cannot be read. A folder that
    cannot be listed is a UserError, for nobody knows how many pictures it holds.
    Where runs are kept nothing is read, for their pictures are no photos, unless the folder itself lies in there.
    """
    here = os.path.realpath(root)
    if seen is None:
        outputs = os.path.realpath(files.outputs_root())
        if here == outputs:
            raise UserError(f"source: {root} is the folder of all runs; name a folder of pictures.")
        seen = frozenset() if here.startswith(outputs + os.sep) else frozenset({outputs})
    if here in seen:
        return
    try:
        with os.scandir(root) as entries:
            entries = sorted(_seen_from_here(entry) for entry in entries if not is_clutter(entry.name))
    except OSError as error:  # it may not be entered, went away, or the disk fails
        raise UserError(f"source: {printable(str(root))} cannot be read: {error.strerror}; make it readable, or move "
                        "it away.") from None
    for name, is_folder, found in entries:
        if is_folder:
            yield from walk(os.path.join(root, name), f"{prefix}{name}/", seen | {here})
        else:
            yield prefix + name, found


def _seen_from_here(entry):
    """Name, whether it is a folder, and stat of an entry, or of the link itself where that leads nowhere."""
    try:
        return entry.name, entry.is_dir(), entry.stat()
    except OSError:
        return entry.name, False, entry.stat(follow_symlinks=False)


def open_file(path):
    """A file opened for reading bytes. Raises OSError for what is none: a pipe would be waited for without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no file")
    return open(path, "rb")


def is_clutter(name):
    return any(part.startswith(".") or part in CLUTTER for part in PurePosixPath(name).parts)


def printable(name):
    """A file name in a form that can be printed, which names that are not UTF-8 cannot."""
    return name.encode("utf-8", "replace").decode()

"""Files of a folder, zip or tar by their path within. They are opened with care: sources come from anywhere."""

import contextlib
import errno
import functools
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ganseg import files
from ganseg.datasets import kinds
from ganseg.datasets.kinds import EXTENSIONS, NO_PICTURES, is_picture
from ganseg.datasets.walk import fingerprint, is_clutter, open_file, printable, walk
from ganseg.errors import UserError

TAR = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
MAX_BYTES = 2**30  # of one unpacked file: an archive can hold terabytes of zeros


def locate(path, wanted, called="source"):
    """The path a user named, see files.absolute.

    wanted  what it should be, for the message when it is not set
    Raises UserError when it is not set or not there.
    """
    if not path:
        raise UserError(f"{called}: is not set; name {wanted}.")
    found = files.absolute(path)
    if not os.path.exists(found):
        raise UserError(f"{called}: there is no {found}; name {wanted}.")
    return found


def parse_rows(lines, where, form, *kinds):
    """{id: what follows it} of a list's lines: one value, or a tuple.

    where  what the lines are of, for messages
    form   the fields' names for messages, the id first; two that end in id are the key together
    kinds  functions that read the fields; the last field may hold spaces
    Raises UserError for a line that is of another form or has the id of an earlier one.
    """
    rows, n_ids = {}, sum(field.endswith("id") for field in form.split()) or 1
    for number, line in enumerate(lines, 1):
        fields = line.strip().split(maxsplit=len(kinds) - 1)
        if not fields:
            continue
        try:
            values = [kind(field) for kind, field in zip(kinds, fields, strict=True)]
        except (ValueError, KeyError):
            raise UserError(f"{where}, line {number}: {line[:100]!r} is not '{form}'.") from None
        key, value = (v[0] if len(v) == 1 else tuple(v) for v in (values[:n_ids], values[n_ids:]))
        if key in rows:
            raise UserError(f"{where}, line {number}: {line[:100]!r} has the id of an earlier line.")
        rows[key] = value
    return rows


class Source(contextlib.AbstractContextManager):
    """A folder, zip, tar or single picture, as files by name.

    path      of the source
    called    the parameter, for messages
    archives  {name: folder}: archives inside a folder, whose content counts as lying beside them, and the folder/ that
              each unpacks to. Where that is there already, the archive is left alone.
    scratch   where tars are unpacked; None: the system's folder for temporary files
    keep      set within the context, it leaves the unpacked tars to the next Source of the same scratch. Only one at a
              time has unpacked tars there, others wait.
    Raises UserError when it is missing, damaged, unsafe or of another kind.
    """

    def __init__(self, path, called="source", archives=None, scratch=None):
        self.path, self.called, self.keep = Path(path), called, False
        self._scratch, self._stack, self._files = scratch, contextlib.ExitStack(), {}
        try:
            self._mount(self.path)
            self.names = sorted(self._files)
            for name in self.names if archives and self.path.is_dir() else []:
                inside = archives.get(PurePosixPath(name).name)
                if inside and self.find(inside) is None:
                    self._mount(self.path / name, name[: name.rfind("/") + 1])
        except BaseException:
            self.__exit__()
            raise
        self.names = sorted(self._files)

    def __exit__(self, *error):
        self._stack.close()

    def read(self, name):
        """The bytes of a file. Raises OSError, ValueError or whatever a damaged archive leads to."""
        with self.open(name) as file:
            return file.read()

    def open(self, name, size=-1):
        """A file opened for reading bytes, of a zip only `size`. In a folder, what is not read stays on the disk."""
        opened, inside = self._files[name]
        return opened(inside, size)

    def parse(self, name, parser):
        """What a function makes of a file's bytes. Raises UserError when it is damaged."""
        try:
            return parser(self.read(name))
        except UserError:
            raise
        except Exception as error:  # a damaged file or zip member raises nearly anything
            raise self.error(f"has a {name} that cannot be read: {files.one_line(error)}; if it is damaged, copy or "
                             "download it again.") from None

    def read_lines(self, name):
        """A text file's lines, without a byte order mark. Raises UserError when it is damaged."""
        return self.parse(name, lambda data: data.decode("utf-8-sig", "replace").splitlines())

    def read_rows(self, name, form, *kinds):
        """A list of lines, see parse_rows."""
        return parse_rows(self.read_lines(name), f"{self.called}: {name} of {self.path}", form, *kinds)

    def find(self, name, needed=False):
        """The path nearest the top of a file, or where `name` ends in / of a folder, which ends in / too.

        Where there is none, or an empty folder: None, or a UserError if it is needed.
        """
        wanted = "/" + name
        if name.endswith("/"):
            matches = {f[: ("/" + f).index(wanted) + len(name)] for f in self.names if wanted in "/" + f}
        else:
            matches = {f for f in self.names if ("/" + f).endswith(wanted)}
        if needed and not matches:
            raise self.error(f"lacks {name}.")
        return min(matches, key=lambda path: (path.count("/"), path), default=None)

    def pictures(self):
        """The names that are pictures by their ending, or else neither texts nor other files by ending.

        Those that can be no picture by their first bytes are among them. Opening them raises the reason.
        """
        return [name for name in self.names if is_picture(name) or self._may_be_picture(name)]

    def error(self, sentence):
        """A UserError about this source."""
        return UserError(printable(files.one_line(f"{self.called}: {self.path} {sentence}")))

    def check_all_in(self, known, names, what):
        """Raise UserError where some of the names are not known, saying how many of what, and the first."""
        absent = [name for name in names if name not in known]
        if absent:
            raise self.error(f"lacks {len(absent):,} of {len(names):,} {what}, the first is {absent[0]}.")

    def _may_be_picture(self, name):
        """Whether an unknown file may be meant as a picture; one that is none is from now on opened as the reason."""
        if kinds.is_other(name):
            return False
        try:
            with self.open(name, kinds.HEAD_BYTES) as file:
                head = file.read(kinds.HEAD_BYTES)
        except Exception:  # a damaged zip member raises nearly anything, and does so again when it is read
            return True
        if kinds.is_other(name, head):
            return False
        why = kinds.why_no_picture(head)
        if why:
            self._files[name] = _raise, why
        return True

    def _mount(self, path, prefix=""):
        """Add the files of a folder, archive or picture; those that are there already stay."""
        if not (os.path.isdir(path) or os.path.isfile(path)):
            raise UserError(f"{self.called}: there is no file or folder {path.absolute()}.")
        if path.is_dir():
            names, opened = [name for name, _ in walk(path)], lambda name, size: open_file(path / name)
        elif path.name.lower().endswith(TAR):
            return self._mount(self._unpacked(path), prefix)
        elif path.suffix.lower() == ".zip" or not is_picture(path.name) and zipfile.is_zipfile(path):
            archive = _Zip(path, self.called)
            names, opened = archive.members, archive.open
        else:
            names, opened = [path.name], lambda name, size: open_file(path)
            with open_file(path) as file:
                why = None if is_picture(path.name) else kinds.why_no_picture(file.read(kinds.HEAD_BYTES))
            if why:
                raise UserError(f"{self.called}: {path} is neither a folder nor a zip or tar of pictures nor a picture "
                                f"({', '.join(EXTENSIONS)}): {why}.")
        for name in names:
            if not is_clutter(prefix + name):
                self._files.setdefault(prefix + name, (opened, name))

    def _unpacked(self, path):
        """The folder of a tar's files, unpacked where an earlier Source has not left them."""
        folder = self._shelf / f"unpacked-{fingerprint(path)[:16]}"
        if not folder.exists():
            with files.whole_folder(folder) as partial:
                _unpack(path, partial, self.called)
        return folder

    @functools.cached_property
    def _shelf(self):
        """The folder for unpacked tars. While this Source is open, no other process adds or removes any."""
        if self._scratch is None:
            return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ganseg-")))
        self._stack.enter_context(files.locked(self._scratch / "unpacked.lock"))
        self._stack.callback(self._remove_unpacked)
        return self._scratch

    def _remove_unpacked(self):
        """Remove all unpacked tars, those of a process that was killed too."""
        for folder in [] if self.keep else self._scratch.glob("unpacked-*"):
            shutil.rmtree(folder, ignore_errors=True)


class _Zip:
    def __init__(self, path, called):
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{called}: {path} cannot be opened as a zip: {files.one_line(error)}; it may be damaged or"
                            " incomplete, copy or download it again.") from None
        self.path, self.lock, self.pid = path, threading.Lock(), os.getpid()  # one handle for all threads
        infos = [info for info in self.archive.infolist() if not info.is_dir()]
        self.members = {info.filename.replace("\\", "/"): info for info in infos}
        for name in self.members:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise UserError(f"{called}: {path} holds {name!r}, a path that leads out of the archive; such an "
                                "archive is not opened.")

    def open(self, name, size=-1):
        if size < 0 and self.members[name].file_size > MAX_BYTES:
            raise ValueError(f"{self.members[name].file_size:,} bytes are too many for one picture")
        with self.lock:
            if self.pid != os.getpid():  # forked processes would share one position in the file
                self.archive, self.pid = zipfile.ZipFile(self.path), os.getpid()
            with self.archive.open(self.members[name]) as file:
                return io.BytesIO(file.read(size))


def _unpack(path, folder, called):
    def checked(member, folder):
        if member.size > MAX_BYTES:
            print(f"{path} holds {printable(member.name)}: {member.size:,} bytes are too many for one picture, and it "
                  "is left out.", flush=True)
            return None
        return tarfile.data_filter(member, folder)  # refuses paths and links that lead outside, and devices

    try:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter=checked)
    except tarfile.FilterError as error:
        raise UserError(f"{called}: {path} holds {error.tarinfo.name!r}, which leads out of the archive or is no "
                        "file; such an archive is not opened.") from None
    except (tarfile.TarError, EOFError, KeyError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            larger = "TMPDIR" if folder.is_relative_to(tempfile.gettempdir()) else "GANSEG_OUTPUTS"
            raise UserError(f"{called}: {path} cannot be unpacked into {folder.parent}, where no room is left; set "
                            f"{larger} to a folder on a larger disk.") from None
        raise UserError(f"{called}: {path} cannot be unpacked: {files.one_line(error)}; it may be damaged or "
                        "incomplete, copy or download it again.") from None


def _raise(reason, size):
    raise ValueError(reason)


def list_pictures(path, called="source"):
    """The pictures of a folder, zip or tar, or one picture itself.

    Returns a list of (name, opener), sorted by name: the path within, and a function that returns the bytes.
    Raises UserError when the path is missing, damaged, something else, or holds no picture.
    """
    source = Source(path, called)
    names = source.pictures()
    if not names:
        raise source.error(NO_PICTURES)
    return [(printable(name), functools.partial(source.read, name)) for name in names]

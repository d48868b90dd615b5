"""The `files` facet: by `tar` and `stat` inside the guest, which alone may read its disk while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from triune.domain.errors import Conflict, Failed, TriuneError
from triune.domain.files import FileKind, FileStat, inside_path, path_not_found, split
from triune.engines.base import Command, Session
from triune.engines.kvm.commands import Commands

_KINDS = {"regular file": FileKind.FILE, "regular empty file": FileKind.FILE, "directory": FileKind.FOLDER}
_STAT = 'stat -c "%F|%s|%a|%Y" -- "$1" && { test ! -h "$1" || readlink -- "$1"; } && { test ! -d "$1" || echo /; }'
_CHANGED = 1  # GNU tar: a file changed while it was read
_MOST_SAID = 2000


class KvmFiles:
    """Implements engines.base.Files. What the guest says is data of the guest: the client unpacks it with care."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def stat(self, name: str, path: str) -> FileStat:
        """What is at `path`."""
        said, status, wrong = self._run(name, ("sh", "-c", _STAT, "sh", inside_path(path)))
        lines = said.decode(errors="replace").splitlines()
        if status != 0 or not lines:
            if "No such file" in wrong or "Not a directory" in wrong:
                raise path_not_found(name, path)
            raise _failed(name, path, wrong)
        what, size, mode, mtime = lines[0].split("|")
        link = what == "symbolic link"
        return FileStat(
            kind=FileKind.LINK if link else _KINDS.get(what, FileKind.OTHER),
            size=int(size),
            mode=int(mode, 8),
            mtime=int(mtime),
            target=lines[1] if link else None,
            folder=lines[-1] == "/",
        )

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """A tar stream of what is there."""
        self.stat(name, path)
        folder, entry = split(path)
        argv = ("tar", "-C", folder, "--sparse", "--format=pax", "--numeric-owner", "-cf", "-", "--", entry)
        session = self._commands.open(name, Command(argv=argv))
        wrong = b""
        try:
            while (chunk := session.read()) is not None:
                if chunk[0] == 1:
                    yield chunk[1]
                else:
                    wrong = (wrong + chunk[1])[-_MOST_SAID:]
            if session.wait() not in (0, _CHANGED):
                raise _failed(name, path, wrong.decode(errors="replace"))
        finally:
            session.close()

    def write(self, name: str, path: str, tar: Iterator[bytes]) -> None:
        """Unpack into the folder there."""
        if not self.stat(name, path).folder:
            raise Conflict("not_a_folder", f"{path} in {name} is no folder", hint="Name a folder to copy into.")
        argv = ("tar", "-C", path, "--numeric-owner", "-xpf", "-")
        session = self._commands.open(name, Command(argv=argv))
        said = _Said(session)
        try:
            for piece in tar:
                if said.ended.is_set():
                    break
                session.write(piece)
            session.close_stdin()
            said.thread.join()
            if session.wait() != 0:
                raise _failed(name, path, said.text.decode(errors="replace"))
        finally:
            session.close()

    def _run(self, name: str, argv: tuple[str, ...]) -> tuple[bytes, int, str]:
        session = self._commands.open(name, Command(argv=argv))
        said = {1: b"", 2: b""}
        try:
            session.close_stdin()
            while (chunk := session.read()) is not None:
                said[chunk[0]] = (said[chunk[0]] + chunk[1])[:_MOST_SAID]
            return said[1], session.wait(), said[2].decode(errors="replace")
        finally:
            session.close()


class _Said:
    """Reads what a command says while it is written to: the end of its words, and that it ended."""

    def __init__(self, session: Session) -> None:
        self.text = b""
        self.ended = threading.Event()
        self._session = session
        self.thread = threading.Thread(target=self._listen, name="files-said", daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        try:
            while (chunk := self._session.read()) is not None:
                self.text = (self.text + chunk[1])[-_MOST_SAID:]
        finally:
            self.ended.set()


def _failed(name: str, path: str, said: str) -> TriuneError:
    line = "".join(char for char in said.strip().splitlines()[-1] if char.isprintable()) if said.strip() else ""
    return Failed(
        "files_failed",
        f"{path} in {name}: {line or 'the guest gave no reason'}",
        hint="The guest needs tar and stat (GNU's); look inside: triune shell " + name,
    )

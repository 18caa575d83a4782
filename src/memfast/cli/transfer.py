"""`memfast export` and `memfast import`: files beside a running service."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from memfast.cli.client import detail_of, open_client
from memfast.cli.lines import STDIO, LineFile, opened_for_reading, opened_for_writing
from memfast.cli.signals import Stopped
from memfast.config import Effective
from memfast.errors import CommandFailed, Rejected
from memfast.service.lines import ErrorLine, HeaderLine, HistoryLine, TrailerLine, decode_line

__all__ = ["export", "import_"]

_PART_LINES = 5000
_PART_BYTES = 8 * 1024 * 1024
"""An import is sent in parts of so many lines or bytes. A part that was answered for need not be sent again."""

_TRIES = 6
"""How often a part is sent to a service that cannot take it now; 16 seconds in all."""

_FIRST_WAIT_S = 0.5
_TIMEOUT_S = 120.0
_TAIL_BYTES = 64 * 1024
_SHOWN_ERRORS = 20
_COUNTS = ("created", "updated", "duplicate", "history", "links", "skipped", "errors", "embedded")


def export(effective: Effective, arguments: argparse.Namespace) -> int:
    """Write everything of a user, or of the key's namespace, to a file."""
    parameters = {} if arguments.user is None else {"user_id": arguments.user}
    tail, lines = b"", 0
    with open_client(effective.config, arguments.url) as client, opened_for_writing(arguments.file) as file:
        try:
            with client.stream("GET", "/v1/export", params=parameters) as answer, _progress() as progress:
                if answer.status_code != 200:
                    answer.read()
                    raise CommandFailed(f"the service refused the export: {detail_of(answer)}")
                task = _start(progress, "exporting", None)
                for chunk in answer.iter_bytes():
                    file.write(chunk)
                    tail = (tail + chunk)[-_TAIL_BYTES:]
                    lines += chunk.count(b"\n")
                    _show(progress, task, answer.num_bytes_downloaded, lines)
        except httpx.TransportError as error:
            raise CommandFailed(f"the service at {client.base_url} broke the export off: {error}") from error
        trailer = _last_line(tail)
    users, history = trailer.users, trailer.history
    _say(
        f"{trailer.memories} memories, {trailer.deleted} deleted ones, {history} events and {trailer.links} links "
        f"of {users} users"
    )
    return 0


def import_(effective: Effective, arguments: argparse.Namespace) -> int:
    """Send a file, part by part; 1 where a line could not be taken in or the file has no end."""
    state = _State(arguments.file, arguments)
    options = {"on_error": arguments.on_error, "on_conflict": arguments.on_conflict, "part": "true"}
    if arguments.user is not None:
        options["user_id"] = arguments.user
    with (
        open_client(effective.config, arguments.url) as client,
        opened_for_reading(arguments.file, arguments.form) as file,
        _progress() as progress,
    ):
        task = _start(progress, "importing", file.total)
        sender = _Sender(client, options | {"form": file.form}, state)
        parts = _Parts(file)
        try:
            for part in parts:
                if part.through > state.lines:
                    sender.send(part)
                _show(progress, task, file.position, part.through)
                if sender.stopped:
                    break
        except (Stopped, CommandFailed):
            state.tell()
            raise
    return _told(sender, parts, state)


class _Part(Struct, frozen=True):
    """Some lines of a file from line `first` through line `through`; the file's header goes before them."""

    first: int
    through: int
    lines: list[bytes]
    header: bytes | None

    def line(self, number: int) -> int:
        """Where a line of the request stands in the file."""
        return max(1, self.first + number - 1 - (self.header is not None))


class _Parts:
    """The parts of a file, cut where a memory ends. `truncated` is known at the end."""

    def __init__(self, file: LineFile) -> None:
        self._file = file
        self._header: bytes | None = None
        self._since_header = 0
        self._open = False

    @property
    def truncated(self) -> bool:
        """A header promised a trailer, and it has not come, or names another number of lines."""
        return self._open

    def __iter__(self) -> Iterator[_Part]:
        lines: list[bytes] = []
        first = number = 1
        size = 0
        for number, line in enumerate(self._file, 1):
            kind = _frame(line) if self._file.form == "memfast" else None
            header = isinstance(kind, HeaderLine)
            full = len(lines) >= _PART_LINES or size >= _PART_BYTES
            if lines and (header or (full and not isinstance(_whole(line), HistoryLine))):
                yield _Part(first, number - 1, lines, self._header)
                lines, first, size = [], number, 0
            if header:
                self._header, self._open, self._since_header = line, True, 0
                first = number + 1
                continue
            if isinstance(kind, TrailerLine):
                self._open = self._open and kind.lines != self._since_header
            else:
                self._since_header += bool(line.strip())
                lines.append(line)
                size += len(line)
        if lines:
            yield _Part(first, number, lines, self._header)


def _frame(line: bytes) -> object:
    """A header or a trailer; None for every other line, most of which are not looked into."""
    return _whole(line) if b'"header"' in line[:64] or b'"trailer"' in line[:64] else None


def _whole(line: bytes) -> object:
    try:
        return decode_line(line)
    except Rejected:
        return None


class _Acknowledged(Struct):
    """What a file of state says."""

    digest: str
    lines: int
    counts: dict[str, int]


class _State:
    """How many lines of a file were answered for: kept beside it while the import goes on."""

    def __init__(self, file: str, arguments: argparse.Namespace) -> None:
        self.lines = 0
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._path = None if file == STDIO else Path(f"{file}.import-state")
        self._digest = "" if self._path is None else _identity(Path(file), arguments)
        if not arguments.resume:
            return
        if self._path is None:
            raise CommandFailed("standard input cannot be resumed; sending all of it again changes nothing twice")
        if self._path.exists():
            self._read(self._path)

    def _read(self, path: Path) -> None:
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_Acknowledged)
        except (OSError, msgspec.DecodeError) as error:
            raise CommandFailed(f"{path}: cannot be read: {error}; remove it and start anew") from error
        if found.digest != self._digest:
            raise CommandFailed(f"{path}: is of another file, or of other options; remove it and start anew")
        self.lines, self.counts = found.lines, found.counts

    def acknowledge(self, through: int, answer: dict[str, Any]) -> None:
        """The service has dealt with everything up to a line."""
        self.lines = through
        self.counts = {name: self.counts.get(name, 0) + answer[name] for name in _COUNTS}
        if self._path is not None:
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_bytes(msgspec.json.encode(_Acknowledged(self._digest, self.lines, self.counts)))
            fresh.replace(self._path)

    def tell(self) -> None:
        """Say how to go on."""
        if self._path is not None:
            _say(f"everything up to line {self.lines} is taken in; go on with --resume")

    def done(self) -> None:
        """Nothing is left to do."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _identity(file: Path, arguments: argparse.Namespace) -> str:
    """What tells a file and what is done with it from others: its size, its beginning, and the options."""
    try:
        with file.open("rb") as opened:
            begin, size = opened.read(_TAIL_BYTES), file.stat().st_size
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error}") from error
    options = (arguments.user, arguments.form, arguments.url)
    return hashlib.sha256(repr((size, options)).encode() + begin).hexdigest()


class _Sender:
    """Sends parts and keeps what the service says of them."""

    def __init__(self, client: httpx.Client, options: dict[str, str], state: _State) -> None:
        self._client = client
        self._options = options
        self._state = state
        self._shown = 0
        self.stopped = False

    def send(self, part: _Part) -> None:
        """Send a part until it is answered for.

        Raises:
            CommandFailed: the service refuses it, or is away for too long.
        """
        before = [] if part.header is None else [part.header]
        body = b"\n".join([*before, *part.lines])
        answer = self._answer(body)
        for each in answer["problems"]:
            if self._shown < _SHOWN_ERRORS:
                _say(f"line {part.line(each['line'])}: {each['problem']['detail']}")
            self._shown += 1
        self.stopped = answer["stopped_at"] is not None
        if not self.stopped:
            self._state.acknowledge(part.through, answer)
        else:
            self._state.counts = {name: self._state.counts.get(name, 0) + answer[name] for name in _COUNTS}

    def _answer(self, body: bytes) -> dict[str, Any]:
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                response = self._client.post("/v1/import", params=self._options, content=body, headers=_LINES)
            except httpx.TransportError as error:
                reason = f"it cannot be reached: {error}"
                continue
            if response.status_code == 200:
                answer: dict[str, Any] = response.json()
                return answer
            reason = detail_of(response)
            if response.status_code < 500:
                raise CommandFailed(f"the service refused the import: {reason}")
        raise CommandFailed(f"the service at {self._client.base_url} does not take the import: {reason}")


_LINES = {"content-type": "application/x-ndjson"}


def _told(sender: _Sender, parts: _Parts, state: _State) -> int:
    """The last words of an import, and its exit code."""
    _say(", ".join(f"{count} {name}" for name, count in state.counts.items() if count) or "nothing to import")
    if sender.stopped:
        _say("stopped at the first error; what comes after it was left out")
        return 1
    state.done()
    if parts.truncated:
        _say("the file is truncated: its trailer is missing or names another number of lines")
        return 1
    return 1 if state.counts["errors"] else 0


def _last_line(tail: bytes) -> TrailerLine:
    """The trailer of an export.

    Raises:
        CommandFailed: it has none: it broke off.
    """
    line = _whole(tail.rstrip(b"\n").rpartition(b"\n")[2])
    if isinstance(line, TrailerLine):
        return line
    reason = line.detail if isinstance(line, ErrorLine) else "its end is missing"
    raise CommandFailed(f"the export broke off: {reason}")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]} lines, {task.fields[rate]:.0f} lines/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _start(progress: Progress, text: str, total: int | None) -> TaskID:
    return progress.add_task(text, total=total, lines=0, rate=0.0)


def _show(progress: Progress, task: TaskID, position: int, lines: int) -> None:
    elapsed_s = progress.tasks[0].elapsed or 0.001
    progress.update(task, completed=position, lines=lines, rate=lines / elapsed_s)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

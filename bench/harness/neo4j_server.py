"""A real Neo4j Community with APOC core in a process of its own, which can be stopped, killed and started again.

It comes from Maven Central, is kept in `CACHE` from then on, and needs a JDK and Maven. Run as a program, this fetches
it. Neo4j's own launcher is in no artifact there; what it does is done by the few lines of `START`, whose server ends
with whoever started it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

__all__ = ["VERSION", "Neo4jServer", "fetch", "missing_reason"]

VERSION = "5.26.19"
"""Of Neo4j and of APOC core."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memfast-tests"

WAIT_S = 150.0
FETCH_S = 600.0

ARTIFACTS = {
    "org.neo4j": ("neo4j", "neo4j-bolt", "neo4j-security"),
    "org.neo4j.procedure": ("apoc-core", "apoc-common"),
}

START = """
import java.nio.file.Path;
import org.neo4j.dbms.api.DatabaseManagementServiceBuilder;

class Start {
    public static void main(String[] arguments) throws Exception {
        var home = Path.of(arguments[0]);
        var server = new DatabaseManagementServiceBuilder(home)
            .loadPropertiesFromFile(home.resolve("neo4j.conf")).build();
        if (arguments.length > 1) {
            server.database("system").executeTransactionally(
                "ALTER USER neo4j SET PASSWORD '" + arguments[1] + "' CHANGE NOT REQUIRED");
        }
        System.out.println("ready");
        while (System.in.read() >= 0) { }
        Runtime.getRuntime().halt(0);
    }
}
"""

CONFIGURATION = """
server.bolt.enabled=true
server.bolt.listen_address=127.0.0.1:{port}
server.bolt.telemetry.enabled=false
server.directories.plugins={plugins}
server.memory.pagecache.size=64m
dbms.usage_report.enabled=false
dbms.security.procedures.unrestricted=apoc.*
"""

OPENED = ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")


def missing_reason() -> str | None:
    """Why there can be no server here; None where there can."""
    return None if all(map(shutil.which, ("java", "javac", "mvn"))) else "a JDK or Maven is not installed"


def fetch() -> Path:
    """The folder of the server's files; whoever comes first fetches them, others wait for him."""
    folder = CACHE / f"neo4j-{VERSION}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "neo4j.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as made:
                _make(Path(made) / "neo4j")
                (Path(made) / "neo4j").rename(folder)
    return folder


def _make(folder: Path) -> None:
    wanted = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{VERSION}</version></dependency>"
        for group, names in ARTIFACTS.items()
        for name in names
    )
    pom = (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>memfast</groupId>'
        f"<artifactId>neo4j</artifactId><version>1</version><packaging>pom</packaging><dependencies>{wanted}"
        "</dependencies></project>"
    )
    folder.mkdir()
    (folder / "pom.xml").write_text(pom)
    (folder / "Start.java").write_text(START)
    copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder / 'lib'}"]
    _run(["mvn", "--batch-mode", "--quiet", "--file", folder / "pom.xml", *copy])
    (folder / "plugins").mkdir()
    for file in folder.glob("lib/apoc-*.jar"):
        file.rename(folder / "plugins" / file.name)
    _run(["javac", "-classpath", f"{folder}/lib/*", "-d", folder, folder / "Start.java"])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}")


class Neo4jServer:
    """Started when made; `close` ends it, whatever became of it. Its files are kept in `folder`."""

    user = "neo4j"

    def __init__(self, folder: Path, *, apoc: bool = True) -> None:
        self.folder = folder
        self.password = secrets.token_hex(8)
        self._apoc = apoc
        self._files = fetch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"bolt://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        plugins = self._files / "plugins" if apoc else folder / "plugins"
        (folder / "plugins").mkdir(parents=True)
        (folder / "neo4j.conf").write_text(CONFIGURATION.format(port=self.port, plugins=plugins))
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it with what it held; returns when it answers."""
        jars = f"{self._files}:{self._files}/lib/*" + (f":{self._files}/plugins/*" if self._apoc else "")
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        machine = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *opened, "-classpath", jars]
        first = [] if (self.folder / "data").exists() else [self.password]
        log = self.folder / "output.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*machine, "Start", self.folder, *first],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + WAIT_S
        while b"ready" not in log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"Neo4j did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

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
        self._process.stdin.close()

    def close(self) -> None:
        """End it."""
        self.thaw()
        self.kill()


if __name__ == "__main__":
    print(missing_reason() or fetch())

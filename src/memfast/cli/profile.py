"""`memfast profile`: which functions a running worker spends its time in.

py-spy reads the worker's stacks from outside, a hundred times a second: nothing of it is in the worker, so it costs
nothing while nobody looks, and a worker that hangs can be looked at too. A sampler inside would need the interpreter,
which is just what a busy worker has none of to spare. Stacks name functions and files, never what they work on.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from memfast.cli.client import open_client
from memfast.cli.tables import print_table
from memfast.config import Config, Effective
from memfast.errors import CommandFailed

__all__ = ["Profile", "profile"]

TOP = 20
"""Functions that are printed, those that took most first."""

_RATE = 100
"""Samples a second. Each stops the worker for about a millisecond."""

_GRACE_S = 30.0
"""Seconds that the sampler may take beyond the time that it was given."""

_OUTSIDE = "(no Python)"
"""A thread that runs no Python function now, as those of the server that hand over requests."""

_FRAME = re.compile(r"(.+) \((.+)\)")


@dataclass
class Profile:
    """Samples by function: those that it was running in itself, and those that it was on the stack of."""

    samples: int = 0
    own: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, lines: Iterable[str]) -> Profile:
        """Add up stacks as `frame;frame;…;frame count`, the outermost first, each frame as `name (file:line)`."""
        found = cls()
        for line in lines:
            stack, _, told = line.rstrip().rpartition(" ")
            if not told.isdigit():
                continue
            frames, count = stack.split(";"), int(told)
            found.samples += count
            found.own[frames[-1]] += count
            for frame in set(frames):  # once, however deep it calls itself
                found.total[frame] += count
        return found

    def rows(self, top: int = TOP) -> list[tuple[str, str, str, str]]:
        """Own and total share, function and place of the `top` functions by own time."""
        rows = []
        for frame, count in self.own.most_common(top):
            parts = _FRAME.fullmatch(frame)
            name, place = parts.groups() if parts else (frame or _OUTSIDE, "")
            rows.append((f"{count / self.samples:.1%}", f"{self.total[frame] / self.samples:.1%}", name, place))
        return rows


def profile(effective: Effective, arguments: argparse.Namespace) -> int:
    """Look at a worker for a while and print where it was."""
    sampler = _sampler()
    pid = arguments.worker or _answering(effective.config)
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        print(f"looking at worker {pid} for {arguments.seconds} s", file=sys.stderr, flush=True)
        _record(sampler, pid, arguments.seconds, stacks)
        with stacks.open(encoding="utf-8") as lines:
            found = Profile.of(lines)
        if arguments.stacks:
            shutil.copyfile(stacks, arguments.stacks)
    if not found.samples:
        print(f"worker {pid} ran no Python in that time", file=sys.stderr)
        return 0
    print_table(("own", "total", "function", "place"), found.rows())
    print(f"{found.samples} samples in {arguments.seconds} s, {_RATE} looks a second at each thread", file=sys.stderr)
    return 0


def _sampler() -> str:
    places = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])  # noqa: PTH120
    if found := shutil.which("py-spy", path=places):
        return found
    raise CommandFailed('the sampler py-spy is not installed; pip install "memfast[profile]"')


def _answering(config: Config) -> int:
    """The worker that answers at the configured address."""
    try:
        with open_client(config, None) as client:
            return int(client.get("/v1/health").json()["pid"])
    except (httpx.TransportError, ValueError, KeyError, TypeError) as error:
        where = f"{config.server.host}:{config.server.port}"
        raise CommandFailed(f"no service answers at {where}; start it, or name a worker by --worker PID") from error


def _record(sampler: str, pid: int, seconds: int, stacks: Path) -> None:
    command = [sampler, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(_RATE)]
    command += ["--format", "raw", "--function", "--output", str(stacks)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds + _GRACE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"py-spy did not end within {seconds + _GRACE_S:g} s") from error
    if done.returncode or not stacks.exists():
        raise CommandFailed(_reason(pid, done.stderr))


def _reason(pid: int, told: str) -> str:
    if not _exists(pid):
        return f"there is no process {pid} any more, or there never was; leave --worker out to look at one that answers"
    if "ermission" in told or "EPERM" in told:
        return (
            f"not permitted to look into process {pid}: run this as root, or as the worker's user where "
            "kernel.yama.ptrace_scope is 0; a container needs --cap-add SYS_PTRACE"
        )
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return f"py-spy could not look into process {pid}: {lines[0] if lines else 'it does not say why'}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

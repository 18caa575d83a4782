"""Run one of PostgreSQL's programs: as the account, with a clean environment, a time limit and no shell."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from memfast.errors import CommandFailed
from memfast.store.embedded.account import Account

__all__ = ["environment", "last_lines", "run"]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a program: nothing of ours, so no PG* variable and no loader path leaks in."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", **(extra or {})}


def run(
    arguments: Sequence[str | Path],
    *,
    account: Account | None,
    timeout_s: float,
    text: str = "",
    extra: Mapping[str, str] | None = None,
    folder: Path = Path("/"),
) -> str:
    """Run a program to its end and return what it printed.

    Args:
        arguments: the program and its arguments.
        account: whom to run it as; None is the present user.
        timeout_s: after this the program and its children are killed.
        text: its standard input.
        extra: variables added to its environment.
        folder: its working directory.

    Raises:
        CommandFailed: it failed, with its last lines, or it took too long.
    """
    name = Path(arguments[0]).name
    with subprocess.Popen(
        [os.fspath(argument) for argument in arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment(extra),
        cwd=folder,
        start_new_session=True,
        **(account.identity() if account else {"umask": 0o077}),
    ) as process:
        try:
            output, _ = process.communicate(text, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{name} did not end within {timeout_s:g} s and was killed") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return output
    if "No space left on device" in output or "Disk quota exceeded" in output:
        raise CommandFailed(f"No room left on the disk, says {name}. Free some and start again.\n{last_lines(output)}")
    raise CommandFailed(f"{name} failed (exit status {process.returncode}):\n{last_lines(output)}")


def last_lines(text: str, count: int = 12) -> str:
    """The last lines of an output or a log, for an error message."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])

"""`memfast profile` beside real services."""

import asyncio
import os
import shutil
import subprocess
import sys

import pytest
from bench.harness.service import Planted, Service, scratch_dir
from bench.load.driver import Driver
from bench.load.traces import poisson

from memfast.cli.main import main
from memfast.cli.profile import Profile

STRANGER = 65534
NO_SETPRIV = "needs root and setpriv"


async def load(port, enough):
    """Searches and writes of a few users, second after second."""
    driver = Driver(("127.0.0.1", port), in_flight=64)
    while not enough.is_set():
        result = await driver.run(list(poisson(rate=60.0, seconds=1.0, users=3, seed=1)))
        assert result.errors == {}


async def test_a_function_that_is_hot_is_shown(command, tmp_path):
    """The one that burns 5 ms of every request is among the twenty, with its file, and the stacks are kept."""
    enough = asyncio.Event()
    with scratch_dir() as root, Service(root / "data", planted=Planted(request_s=5e-3)) as service:
        async with asyncio.TaskGroup() as group:
            group.create_task(load(service.port, enough))
            try:
                words = ("profile", "--seconds", "2", "--stacks", tmp_path / "stacks")
                shown, told = await asyncio.to_thread(command, *words, port=service.port, expect=0)
            finally:
                enough.set()
    head, *rows = shown.splitlines()
    assert head.split() == ["own", "total", "function", "place"]
    assert 3 <= len(rows) <= 20
    (burning,) = [row.split() for row in rows if " _burn " in row]
    assert "planted.py:" in burning[3]
    assert float(burning[0].rstrip("%")) > 1
    assert "samples in 2 s" in told
    assert "_burn" in (tmp_path / "stacks").read_text()


def test_a_worker_may_be_named(shared, command):
    """An idle one ran nothing, or little; that is no error."""
    (worker,) = shared.workers()
    _, told = command("profile", "--seconds", "1", "--worker", worker, expect=0)
    assert f"looking at worker {worker} for 1 s" in told


def test_who_is_not_there(command, free_port):
    """Neither a service nor a process: the error says what to do."""
    _, told = command("profile", port=free_port(), expect=1)
    assert "no service answers" in told
    assert "--worker PID" in told
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(20)
    _, told = command("profile", "--worker", ended.pid, expect=1)
    assert f"there is no process {ended.pid}" in told


def test_who_may_not_look(shared, tmp_path):
    """Another user is told what would permit it."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip(NO_SETPRIV)
    (worker,) = shared.workers()
    words = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "MEMFAST_"))}
    done = subprocess.run(
        [*words, sys.executable, "-m", "memfast", "profile", "--worker", str(worker), "--data-dir", tmp_path],
        capture_output=True,
        text=True,
        env=environment | {"HOME": "/tmp"},
        timeout=60,
    )
    assert done.returncode == 1
    assert f"not permitted to look into process {worker}" in done.stderr
    assert "SYS_PTRACE" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sampler_may_be_missing(shared, monkeypatch, capsys):
    """It is an extra: the error says how to get it."""
    monkeypatch.setattr("memfast.cli.profile.shutil.which", lambda *_arguments, **_options: None)
    assert main(["profile", "--set", f"server.port={shared.port}"]) == 1
    assert 'pip install "memfast[profile]"' in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "601", "many"])
def test_the_time_is_bounded(command, seconds):
    """More than ten minutes, or none, is wrong usage."""
    command("profile", "--seconds", seconds, expect=2)


def test_stacks_are_added_up():
    """A function counts once for a stack that it is on twice; those that took most come first."""
    lines = [" 4\n", "main (a.py:1);walk (b.py:2);walk (b.py:2) 3\n", "main (a.py:1) 1\n", "nonsense\n"]
    found = Profile.of(lines)
    assert found.samples == 8
    walk, main_ = ("37.5%", "37.5%", "walk", "b.py:2"), ("12.5%", "50.0%", "main", "a.py:1")
    assert found.rows() == [("50.0%", "50.0%", "(no Python)", ""), walk, main_]
    assert [row[2] for row in found.rows(top=2)] == ["(no Python)", "walk"]

"""`memfast.local`: a service that lives as long as its client, and not longer than the process."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import memfast
from memfast.errors import ServiceUnreachable

HOLD = """
import sys
import memfast
client = memfast.local()
client.add("ada", "x")
print(client._service._end.peek()[2][1].pid, client._service._end.peek()[2][2], flush=True)
sys.stdin.read()
"""


def test_a_directory_keeps_what_was_stored(data_dir, monkeypatch):
    """The service ends with the block; another one over the same directory has the memories."""
    monkeypatch.setenv("MEMFAST_PORT", "1")
    monkeypatch.setenv("MEMFAST_API_KEY", "mf_of_another_service")
    folder = data_dir()
    for texts in (["first"], ["second", "first"]):
        with memfast.local(folder, settings={"embedding.provider": "wordllama"}) as client:
            client.add("ada", texts[0])
            assert [memory.text for memory in client.list("ada")] == texts
            url = client.url
        with memfast.Client(url, retries=0) as other, pytest.raises(ServiceUnreachable):
            other.health()
    client.close()


async def test_awaited(monkeypatch):
    """The same in an event loop, in a temporary directory of which nothing is left."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="mf-") as root:
        Path(root).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", root)
        async with memfast.local_async() as client:
            assert (await client.add("ada", "x")).version == 1
            assert len(list(Path(root).iterdir())) == 1
        assert list(Path(root).iterdir()) == []


def test_one_that_cannot_start_says_why():
    """With what it printed, and its exit code."""
    with pytest.raises(ServiceUnreachable, match=r"(?s)exit code 2.*nonsense"):
        memfast.local(settings={"nonsense": 1})


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_it_ends_with_the_process(end, poll, gone):
    """Also where nobody closed the client, and where the process was killed."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="mf-") as root:
        Path(root).chmod(0o755)
        environment = os.environ | {"TMPDIR": root}
        command = [sys.executable, "-W", "error", "-c", HOLD]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
            pid, folder = process.stdout.readline().split()
            if end == "kill":
                process.send_signal(signal.SIGKILL)
            process.stdin.close()
            code = process.wait(60)
        assert code == (0 if end == "exit" else -signal.SIGKILL)
        poll(lambda: gone(int(pid)))
        assert Path(folder.decode()).exists() == (end == "kill")

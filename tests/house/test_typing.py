"""What a type checker says to users of the client."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import memfast

GOOD = """
import asyncio
from typing import assert_type

import numpy as np

import memfast
from memfast.client import Hits, ImportReport, Outcome, Related, Stored
from memfast.errors import MemfastError, NotFound, Problem

client = memfast.Client("http://127.0.0.1:8077", timeout_s=2.0)
assert_type(client.add("ada", "x", tags=["t"], embedding=np.zeros(3, np.float32), timeout_s=1.0), Stored)
assert_type(client.add_many("ada", ["x", {"text": "y", "kind": "fact"}]), list[Outcome])
assert_type(client.search("ada", "x", limit=3, filter={"kind": "fact"}), Hits)
assert_type(client.search("ada", "x")[0].score, float)
assert_type(client.search_many("ada", ["x", {"query": "y"}]), list[Hits | MemfastError])
assert_type(client.related("ada", "id", depth=2), list[Related])
assert_type(client.delete("ada", "id", if_version=3), None)
for memory in client.list("ada", kind="fact", limit=3):
    assert_type(memory, memfast.Memory)
for line in client.export("ada"):
    assert_type(line, bytes)


async def main() -> None:
    async with memfast.AsyncClient() as other:
        assert_type(await other.add("ada", "x"), Stored)
        async for memory in other.list("ada"):
            assert_type(memory, memfast.Memory)
        assert_type(await other.import_(other.export("ada")), ImportReport)
        try:
            await other.get("ada", "id")
        except NotFound as error:
            assert_type(error.problem, Problem | None)


asyncio.run(main())
"""

BAD = """
import memfast

client = memfast.Client()
client.add("ada")
client.add("ada", 3)
client.add("ada", "x", tag=["t"])
client.add("ada", "x", tags=[1])
client.update("ada", "id", text=None)
client.search("ada", "x", limit="3")
client.search("ada", "x", mode="fuzzy")
client.list("ada", order="newest")
client.nonsense()
memfast.Client(retry=3)
memfast.AsyncClient().get("ada", "id").text
"""


def checked(source, folder):
    """The lines that mypy finds fault with, and what it says."""
    file = folder / "program.py"
    file.write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder / "cache", "--config-file", "", file]
    where = {**os.environ, "PYTHONPATH": str(Path(memfast.__file__).parents[1])}  # mypy sees no editable install
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, env=where)
    assert not done.stderr, done.stderr
    return {
        int(match[1]) for match in re.finditer(r"^.*program\.py:(\d+): error:", done.stdout, re.MULTILINE)
    }, done.stdout


def test_types_are_known_to_users(tmp_path):
    """A program that is right passes in strict mode; of one that is wrong each wrong line is found."""
    lines, told = checked(GOOD, tmp_path)
    assert not lines, told
    assert "Success" in told
    lines, told = checked(BAD, tmp_path)
    wrong = range(BAD.splitlines().index('client.add("ada")') + 1, len(BAD.splitlines()) + 1)
    assert lines == set(wrong), told

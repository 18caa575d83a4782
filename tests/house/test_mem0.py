"""docs/mem0.md speaks of everything that mem0's clients can do."""

import inspect
import re
from pathlib import Path

import pytest

from memfast.mem0.surface import CALLS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "mem0.md").read_text()
ROWS = {
    name: row.split("|")[2].strip()
    for row in re.findall(r"^\| `.*\|$", PAGE.split("## Methods")[1].split("## Search")[0], re.MULTILINE)
    for name in re.findall(r"`([\w.]+)`", row.split("|")[1])
}


def methods(kind, prefix=""):
    """The public methods of a class."""
    return {f"{prefix}{name}" for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_every_method_has_a_row(mem0):
    """Each public method of both clients and of their projects is the same, differs or is refused, and no other is."""
    package = mem0.client
    wanted = methods(package.main.MemoryClient) | methods(package.project.Project, "project.")
    assert wanted == methods(package.main.AsyncMemoryClient) | methods(package.project.AsyncProject, "project.")
    assert set(ROWS) == wanted
    assert set(ROWS.values()) <= {"same", "differs", "refused"}


def test_every_path_of_the_clients_is_answered(mem0):
    """No path that stands in the wheel's code is unknown here."""
    sources = [inspect.getsource(mem0.client.main), inspect.getsource(mem0.client.project)]
    found = set()
    for source in sources:
        found |= set(re.findall(r'f?"(/?(?:api/)?v\d/[^"]*)"', source))
    assert len(found) > 15
    known = {re.sub(r"{\w+}", "{}", call.path) for call in CALLS}
    for path in found:
        braced = re.sub(r"{[^{}]*}", "{}", path.strip("/"))
        assert braced in known, path


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_paths_are_told_apart(call):
    """No two calls have the same method and the same path."""
    shape = re.sub(r"{\w+}", "{}", call.path)
    same = [each for each in CALLS if each.method == call.method and re.sub(r"{\w+}", "{}", each.path) == shape]
    assert same == [call]

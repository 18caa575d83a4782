"""The error tree: drawn as it is, with statuses and exit codes that nobody changes by accident."""

import inspect
import re

import pytest

from memfast import errors
from memfast.http.openapi import build_document
from memfast.http.problems import problem, problem_reply

LINE = re.compile(r"^(?P<indent>[│ ├└─]*)(?P<name>[A-Z]\w+)(?: +(?P<number>\d+))?", re.MULTILINE)


def drawn():
    """(name, parent, number) of every line of the tree in the module's docstring."""
    found, path = [], {}
    for match in LINE.finditer(errors.__doc__.split("```")[1]):
        depth = len(match["indent"]) // 4
        path[depth] = match["name"]
        found.append((match["name"], path.get(depth - 1), match["number"] and int(match["number"])))
    return found


def number_of(kind):
    """The status of a refusal or the exit code of a failed start; None for the branches."""
    if not kind.__subclasses__():
        return kind.exit_code if issubclass(kind, errors.StartError) else kind.status
    return None


def test_the_drawn_tree_is_the_tree():
    """Every class, its parent and its number."""
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, errors.MemfastError)]
    real = {
        (kind.__name__, None if kind is errors.MemfastError else kind.__base__.__name__, number_of(kind))
        for kind in classes
    }
    assert set(drawn()) == real
    assert sorted(errors.__all__) == errors.__all__ == sorted(["Problem", *(kind.__name__ for kind in classes)])


def test_every_problem_has_a_type_of_its_own():
    """Slugs and titles are stable names: unique, and the slugs are words for a URN."""
    leaves = [getattr(errors, name) for name, _, _ in drawn()]
    leaves = [kind for kind in leaves if not issubclass(kind, errors.StartError) and not kind.__subclasses__()]
    slugs = [kind.slug for kind in leaves]
    assert len(slugs) == len(set(slugs))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", slug) for slug in slugs)
    assert len({kind.title for kind in leaves}) == len(leaves)


def test_exit_codes_are_different():
    """A caller of the command can tell them apart."""
    codes = [kind.exit_code for kind in errors.StartError.__subclasses__()]
    assert sorted(codes) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", [name for name, _, _ in drawn()])
def test_every_error_can_be_told_as_a_problem(name):
    """Its words are the detail; what is not for clients is an internal error."""
    told = problem(getattr(errors, name)("what was wrong"))
    assert told.detail == "what was wrong"
    assert told.status >= 400
    assert told.type.startswith("urn:memfast:problem:")
    assert (told.type == "urn:memfast:problem:internal-error") == (told.status == 500)


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (errors.Unauthorized("x"), b"www-authenticate", b'Bearer realm="memfast"'),
        (errors.StoreUnavailable("x"), b"retry-after", b"1"),
        (errors.StoreFull("x", retry_after_s=30), b"retry-after", b"30"),
        (errors.NotFound("x"), b"cache-control", b"no-store"),
    ],
)
def test_problems_carry_the_headers_of_their_status(error, header, value):
    """What HTTP asks of a 401 and of a 503."""
    headers = dict(problem_reply(error, [], instance="/x").headers)
    assert headers[header] == value
    assert headers[b"content-type"] == b"application/problem+json"


def test_every_status_of_the_tree_is_documented_somewhere():
    """No error can reach a client that the OpenAPI document does not know, but for those of the router."""
    from memfast.config import LimitsConfig
    from memfast.http.app import ROUTES

    document = build_document(ROUTES, LimitsConfig())
    documented = {
        int(status)
        for path in document["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
    }
    statuses = {number for name, _, number in drawn() if number is not None and number >= 400}
    assert statuses - documented == {405}

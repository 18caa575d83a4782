"""What the client knows of the service is what the service says: structs, arguments, errors, routes."""

import typing

import msgspec
import pytest

from memfast import errors
from memfast.client import answers, fields
from memfast.client.operations import Operations
from memfast.client.problems import error_of_problem
from memfast.http import wire, wire_forget, wire_links, wire_search
from memfast.http.app import ROUTES
from memfast.http.problems import problem
from memfast.links import EntityCount, Link
from memfast.model import HistoryEvent, Memory, User

STRUCTS = [
    (answers.Memory, Memory, set()),
    (answers.Stored, Memory, {"status"}),
    (answers.Hit, wire_search.SearchHit, set()),
    (answers.Neighbor, wire_search.Neighbor, set()),
    (answers.Explanation, wire_search.Explanation, set()),
    (answers.GraphScore, wire_search.GraphScore, set()),
    (answers.LegScore, wire_search.LegScore, set()),
    (answers.GraphScore, wire_search.GraphScore, set()),
    (answers.SearchExplanation, wire_search.SearchExplanation, set()),
    (answers.Related, wire_links.RelatedMemory, set()),
    (answers.Found, wire.MemoriesFound, set()),
    (answers.Outcome, wire.BatchResult, set()),
    (answers.Removal, wire_forget.RemovalAnswer, set()),
    (answers.LinkOutcome, wire_links.LinkResult, set()),
    (answers.Link, Link, set()),
    (answers.Event, HistoryEvent, set()),
    (answers.EntityCount, EntityCount, set()),
    (answers.User, User, set()),
    (answers.Receipt, wire_forget.Receipt, set()),
    (answers.Erased, wire_forget.ErasedCopies, set()),
    (answers.Remainder, wire_forget.Remainder, set()),
    (answers.ImportReport, wire.ImportAnswer, set()),
    (answers.LineProblem, wire.ImportProblem, set()),
    (answers.Health, wire.HealthAnswer, set()),
]
ARGUMENTS = [
    (fields.NewMemory, wire.MemoryFields, set()),
    (fields.AddOptions, wire.MemoryFields, {"text"}),
    (fields.ChangeOptions, wire.PatchRequest, set()),
    (fields.MemoryChange, wire.PatchItem, {"user_id"}),
    (fields.SearchOptions, wire_search.SearchRequest, {"user_id", "query"}),
    (fields.SearchItem, wire_search.SearchRequest, {"user_id", "min_version", "consistency"}),
    (fields.ListOptions, wire.ListParameters, {"user_id", "limit", "cursor"}),
    (fields.NewLink, wire_links.LinkFields, set()),
    (fields.LinkOptions, wire_links.LinkFields, {"from_id", "to_id"}),
    (fields.RelatedOptions, wire_links.RelatedParameters, {"user_id"}),
]
CALLS = {"timeout_s", "idempotency_key"}
ADMINISTRATION = {
    ("GET", "/v1/cache"),
    ("POST", "/v1/cache/clear"),
    ("POST", "/v1/cache/invalidate"),
    ("POST", "/v1/warm"),
    ("GET", "/v1/background"),
    ("GET", "/v1/cache/user"),
    ("GET", "/v1/health/live"),
    ("GET", "/v1/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/settings"),
    ("PATCH", "/v1/settings"),
}
"""Routes for whoever runs a service: no method of the client asks them."""


@pytest.mark.parametrize(("own", "service", "more"), STRUCTS, ids=lambda each: getattr(each, "__name__", ""))
def test_answers_have_the_fields_of_the_service(own, service, more):
    """None is missing and none invented."""
    assert set(own.__struct_fields__) - more == set(service.__struct_fields__)


@pytest.mark.parametrize(("own", "service", "left_out"), ARGUMENTS, ids=lambda each: getattr(each, "__name__", ""))
def test_arguments_have_the_names_of_the_service(own, service, left_out):
    """Whatever may be sent can be said, and nothing else."""
    said = set(typing.get_type_hints(own, localns={"Vector": object})) - CALLS
    assert said == set(service.__struct_fields__) - left_out


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "Problem"])
def test_errors_come_back_as_what_they_were(name):
    """A refusal is raised by the client as the error that the service raised."""
    kind = getattr(errors, name)
    if kind.__subclasses__() or issubclass(kind, errors.StartError) or kind.status == 500:
        return
    told = msgspec.json.decode(msgspec.json.encode(problem(kind("why"))), type=errors.Problem)
    error = error_of_problem(told, retry_after_s=7)
    assert (type(error), str(error), error.problem) == (kind, "why", told)
    assert not isinstance(error, errors.Unavailable) or error.retry_after_s == 7


def test_errors_that_are_not_known_yet_are_told_by_their_status():
    """A newer service may have more of them."""

    def kind(status):
        new = errors.Problem(type="urn:memfast:problem:new", title="x", status=status, detail="why")
        return type(error_of_problem(new))

    assert [kind(status) for status in (418, 503, 500)] == [
        errors.Rejected,
        errors.Unavailable,
        errors.MemfastError,
    ]


def test_every_route_has_a_method():
    """What the service can do, the client can ask for."""
    known = {
        "add": [("user", "text"), ("POST", "/v1/memories")],
        "add_many": [("user", ["a"]), ("POST", "/v1/memories/batch")],
        "get": [("user", "i"), ("GET", "/v1/memories/{memory_id}")],
        "get_many": [("user", ["i"]), ("POST", "/v1/memories/get")],
        "update": [("user", "i"), ("PATCH", "/v1/memories/{memory_id}")],
        "update_many": [("user", [{"id": "i"}]), ("PATCH", "/v1/memories/batch")],
        "delete": [("user", "i"), ("DELETE", "/v1/memories/{memory_id}")],
        "delete_many": [("user", ["i"]), ("DELETE", "/v1/memories/batch")],
        "delete_matching": [("user", {"kind": "x"}), ("POST", "/v1/memories/delete")],
        "undelete": [("user", "i"), ("POST", "/v1/memories/{memory_id}/undelete")],
        "list": [("user",), ("GET", "/v1/memories")],
        "search": [("user", "x"), ("POST", "/v1/search")],
        "search_many": [("user", ["x"]), ("POST", "/v1/search/batch")],
        "link": [("user", "i", "i"), ("POST", "/v1/links")],
        "link_many": [("user", []), ("POST", "/v1/links/batch")],
        "unlink": [("user", "i", "i"), ("DELETE", "/v1/links")],
        "links": [("user",), ("GET", "/v1/links")],
        "entities": [("user",), ("GET", "/v1/entities")],
        "related": [("user", "i"), ("GET", "/v1/memories/{memory_id}/related")],
        "history": [("user", "i"), ("GET", "/v1/memories/{memory_id}/history")],
        "users": [(), ("GET", "/v1/users")],
        "user": [("user",), ("GET", "/v1/users/{user_id}")],
        "forget": [("user",), ("DELETE", "/v1/users/{user_id}")],
        "export": [(), ("GET", "/v1/export")],
        "import_": [([],), ("POST", "/v1/import")],
        "stats": [(), ("GET", "/v1/stats")],
        "health": [(), ("GET", "/v1/health")],
    }
    methods = {name for name, value in vars(Operations).items() if not name.startswith("_")}
    assert methods == set(known)
    for name, (arguments, route) in known.items():
        built = vars(Operations)[name].__wrapped__(None, *arguments)
        call = built.first() if hasattr(built, "first") else built
        path = call.target.partition("?")[0].replace("/i", "/{memory_id}", 1) if "/memories/i" in call.target else None
        path = path or call.target.partition("?")[0].replace("/users/user", "/users/{user_id}")
        assert (call.method, path) == route
    assert {route for _, route in known.values()} | ADMINISTRATION >= {(each.method, each.path) for each in ROUTES}

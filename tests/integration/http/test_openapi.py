"""The OpenAPI document is valid, complete and true: what it allows is taken, what is answered is what it says."""

import json
from uuid import uuid4

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from memfast.config import LimitsConfig
from memfast.http.app import ROUTES
from memfast.http.openapi import build_document

pytestmark = pytest.mark.asyncio(loop_scope="module")


@schemathesis.serializer("application/x-ndjson")
def _lines(_context, value):
    """Lines are sent as they are."""
    return value.encode(errors="replace")


DOCUMENT = build_document(ROUTES, LimitsConfig())
OPERATIONS = {
    f"{operation.ok().method.upper()} {operation.ok().path}": operation.ok()
    for operation in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
}
BEYOND_SCHEMA = (
    "must have 256 numbers",  # the length of a vector belongs to the database, not to the program
    "must be 256 float32 numbers",
    "Invalid base64",
    "zero vector",
    "finite numbers",
    "not a cursor of this listing",
    "lies in the past",
    "lies outside the years",
    "the first and the last moment",
    "it is empty",
    "NUL (U+0000)",
    "below 2^53",
    "bytes of UTF-8",
    "levels deep",
    "of the memory for requests",
    "conditions, each",
    "names no condition",
    "bytes as JSON",
    "If-Match",
    "a batch with a key must be of one user",
    "Number out of range",
    "Expected `int`, got `float`",  # 7.0 is an integer to JSON Schema
    "Expected `int | null`, got `float`",
)
"""Refusals of what fits the schema: rules that JSON Schema has no words for."""


async def test_the_document_is_served_as_it_was_built(api):
    """By its address, as JSON, and as a page that loads nothing from elsewhere."""
    served = await api.client.get("/schema/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == json.loads(json.dumps(DOCUMENT))
    page = await api.client.get("/schema")
    assert page.headers["content-type"].startswith("text/html")
    for route in ROUTES:
        assert f"{route.method} {route.path}" in page.text
    for word in ("<script", "http://", "https://", "@import", "url("):
        assert word not in page.text


async def test_the_document_is_valid_openapi_31():
    """By the specification's own schema, and every reference leads somewhere."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert len({operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()}) == len(
        ROUTES
    )


async def test_the_document_holds_every_route_and_no_other(api):
    """Routes, methods, and those that Litestar itself serves; pages are no routes."""
    documented = {(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert documented == {(route.method, route.path) for route in ROUTES}
    served = {
        (method, route.path_format)
        for route in api.edge._application.routes
        for method in route.methods
        if method != "OPTIONS" and not route.path_format.startswith(("/schema", "/dashboard"))
    }
    assert documented == served


@pytest.mark.parametrize("name", OPERATIONS)
@seed(1)
@settings(
    max_examples=20,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
async def test_what_the_document_allows_is_taken(api, name, data):
    """Generated from the schemas: never refused for its form, never a 500, answered as documented."""
    case = data.draw(OPERATIONS[name].as_strategy())
    if isinstance(case.body, dict) and case.path == "/v1/cache/clear":
        return
    path = case.formatted_path
    arguments = {"params": case.query or None, "headers": dict(case.headers or {})}
    if "requestBody" in DOCUMENT["paths"][case.path][case.method.lower()]:
        lines = isinstance(case.body, str)
        arguments["content"] = (case.body if lines else json.dumps(case.body)).encode(errors="replace")
        arguments["headers"]["content-type"] = "application/x-ndjson" if lines else "application/json"
    response = await api.request(case.method.upper(), path, **arguments)  # the client checks status and body
    hurried = response.status_code == 504 and "Memfast-Timeout-Ms" in arguments["headers"]
    assert response.status_code < 500 or name.startswith("GET /v1/health") or hurried
    if response.status_code == 400:
        detail = response.json()["detail"]
        assert any(words in detail for words in BEYOND_SCHEMA), f"{detail}: {arguments}"
    assert response.status_code not in {405, 408, 413, 415}


async def test_an_undocumented_answer_would_be_found(api, user):
    """The contract in the client is not blind."""
    contract = api.client.event_hooks["response"][0].__self__
    await api.create(user, "x")
    response = await api.listing(user)
    response._content = response.content.replace(b'"kind":"fact"', b'"kind":7')
    with pytest.raises(Exception, match="7 is not of type"):
        await contract.check(response)
    response = await api.get(user, uuid4())
    response.status_code = 410
    with pytest.raises(AssertionError):
        await contract.check(response)

"""Every error of memfast as the exception that mem0's client makes of it."""

import httpx
import msgspec
import pytest

from memfast import errors
from memfast.http.problems import INTERNAL_ERROR
from memfast.mem0.surface import refuse

EXCEPTIONS = {
    400: "ValidationError",
    401: "AuthenticationError",
    403: "AuthenticationError",
    404: "MemoryNotFoundError",
    405: "MemoryError",
    408: "NetworkError",
    409: "ValidationError",
    410: "MemoryError",
    412: "MemoryError",
    413: "MemoryQuotaExceededError",
    415: "MemoryError",
    422: "ValidationError",
    429: "RateLimitError",
    503: "NetworkError",
    504: "NetworkError",
    507: "MemoryError",
}
"""What docs/mem0.md says, by the status of the error."""


def concrete(kind):
    """The errors below one of the tree that stand for something."""
    for each in kind.__subclasses__():
        yield from concrete(each) if each.__subclasses__() else [each]


def raised(mem0, error):
    """What the client raises for an error."""
    reply = refuse(error, [(b"x-request-id", b"1")], "/mem0/x")
    headers = [(name.decode(), value.decode()) for name, value in reply.headers]
    request = httpx.Request("GET", "http://127.0.0.1/mem0/x")
    response = httpx.Response(reply.status, headers=headers, content=reply.body, request=request)
    with pytest.raises(mem0.exceptions.MemoryError) as caught:
        mem0.client.utils._handle_http_error(httpx.HTTPStatusError("x", request=request, response=response))
    return caught.value


def test_every_error_is_one_of_mem0s(mem0):
    """The class follows from the status; the message is the detail, the details are the problem."""
    kinds = [each for kind in (errors.Rejected, errors.Unavailable) for each in concrete(kind)]
    kinds.remove(errors.ServiceUnreachable)  # no service raises it
    assert {kind.status for kind in kinds} == set(EXCEPTIONS)
    for kind in kinds:
        error = raised(mem0, kind("what was wrong"))
        assert type(error) is getattr(mem0.exceptions, EXCEPTIONS[kind.status]), kind
        assert error.message == error.details["detail"] == error.details["error"] == "what was wrong"
        assert error.details["type"] == f"urn:memfast:problem:{kind.slug}"
        assert error.error_code == f"HTTP_{kind.status}"


def test_a_limit_of_writes_says_when_to_come_back(mem0):
    """`retry_after` reaches whoever waits for it."""
    error = raised(mem0, errors.QueueFull("full", retry_after_s=7))
    assert error.debug_info["retry_after"] == 7


def test_an_error_of_the_service_tells_nothing_of_itself(mem0):
    """What nobody expected is the base of mem0's exceptions, without a trace."""
    error = raised(mem0, INTERNAL_ERROR)
    assert type(error) is mem0.exceptions.MemoryError
    assert msgspec.json.encode(error.details).count(b"Traceback") == 0
    assert error.details["type"] == "urn:memfast:problem:internal-error"

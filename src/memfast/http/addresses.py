"""What the method and the path of a request decide, worked out once for each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from msgspec import Struct

from memfast.config import ServerConfig
from memfast.http.routing import Endpoint, Route, Surface

__all__ = ["Address", "Addresses"]

_ESSENTIAL = ("/v1/health", "/metrics")
"""What is answered however much is asked of the service: how it does."""

_SINGLE = re.compile(r"/v1/memories/[^/]+")
"""What mode `essential` leaves besides health: single memories, by GET."""

_KEPT = ("/v1/search", "/v1/memories")
_REPEATABLE = frozenset({"GET", "POST"})
_CREATING = frozenset({"/v1/memories", "/v1/memories/batch"})
"""Paths to which a POST is a write: its answer is never another's."""

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})

_REMEMBERED = 4096
"""Addresses that are remembered."""

_REMEMBERED_LENGTH_MAX = 128
"""Characters of the longest path that is remembered: longer than a memory's."""


class Address(Struct, frozen=True):
    """A method and a path.

    Attributes:
        method: as it was sent.
        path: decoded.
        surface: the protocol that they belong to, where it is not this one.
        number: of the route whose very path it is.
        endpoint: what answers without a look at the routes.
        public: no key is asked for.
        streams: body and answer have no bound on their size.
        uploads: its body is such a stream, which the endpoint reads.
        repeatable: a finished answer may be given again to an equal request.
        essential: it is served in mode `essential`.
        vital: it is served however many requests are under way.
        timeout_s: seconds for a request whose client names none.
    """

    method: str
    path: str
    surface: Surface | None
    number: int | None
    endpoint: Endpoint | None
    public: bool
    streams: bool
    uploads: bool
    repeatable: bool
    essential: bool
    vital: bool
    timeout_s: float


class Addresses:
    """Knows every address.

    Args:
        routes: what is served; those whose paths have no parameters need no router.
        public: begins of the paths that need no key.
        surfaces: other protocols.
        config: the times of requests.
    """

    def __init__(
        self, routes: Sequence[Route], public: tuple[str, ...], surfaces: Sequence[Surface], config: ServerConfig
    ) -> None:
        self._fixed: dict[tuple[str, str], tuple[int, Route]] = {
            (route.method, route.path): (number, route) for number, route in enumerate(routes) if "{" not in route.path
        }
        self._public = public
        self._surfaces = surfaces
        self._reads = frozenset(route.path for route in routes if route.method == "POST" and route.reads).union(
            *(surface.reads for surface in surfaces)
        )
        self._config = config
        self._remembered = lru_cache(_REMEMBERED)(self._make)

    def find(self, method: str, path: str) -> Address:
        """The address of a request, by its method and its decoded path."""
        return (self._remembered if len(path) <= _REMEMBERED_LENGTH_MAX else self._make)(method, path)

    def _make(self, method: str, path: str) -> Address:
        surface = next((each for each in self._surfaces if path.startswith(each.prefix)), None)
        number, route = self._fixed.get((method, path), (None, None))
        streams = route is not None and route.streams
        bodiless = method in _BODILESS
        kept = method in _REPEATABLE and path.startswith(_KEPT) and not (method == "POST" and path in _CREATING)
        reads = bodiless or (method == "POST" and path in self._reads)
        timeout_s = self._config.read_timeout_s if reads else self._config.write_timeout_s
        vital = path.startswith(_ESSENTIAL)
        return Address(
            method=method,
            path=path,
            surface=surface,
            number=number,
            endpoint=surface.endpoint if surface is not None else None if route is None else route.endpoint,
            public=path.startswith(self._public),
            streams=streams,
            uploads=streams and not bodiless,
            repeatable=kept and surface is None,
            essential=vital or (method == "GET" and _SINGLE.fullmatch(path) is not None),
            vital=vital,
            timeout_s=math.inf if streams else timeout_s,
        )

"""Who may call by which name: a web page must not reach a service on its reader's machine.

A page that has its own name resolve to 127.0.0.1 sends that name as `Host`, and its browser says where the page is
from in `Origin`. An address in `Host` has been resolved by nobody, so it is let in; in `Origin` only loopback is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from memfast.errors import Forbidden

__all__ = ["build_gate"]

_REMEMBERED = 256


def build_gate(hosts: str) -> Callable[[Mapping[bytes, bytes]], None]:
    """What raises `Forbidden` for a request under a wrong name.

    Args:
        hosts: names that are let in besides addresses and localhost, with commas between.
    """
    names = frozenset(name.strip().lower() for name in hosts.split(",") if name.strip()) | {"localhost"}

    @lru_cache(_REMEMBERED)
    def host_allowed(host: bytes) -> bool:
        name = _name(f"//{host.decode('latin-1')}")
        return name in names or _address(name) is not None

    @lru_cache(_REMEMBERED)
    def origin_allowed(origin: bytes) -> bool:
        name = _name(origin.decode("latin-1"))
        address = _address(name)
        return name in names or (address is not None and address.is_loopback)

    def admit(headers: Mapping[bytes, bytes]) -> None:
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host is not None and not host_allowed(host):
            raise Forbidden(
                f"Host: {host.decode('latin-1')!r} is none of this service's names; mcp.hosts lists those beside "
                "addresses and localhost"
            )
        if origin is not None and not origin_allowed(origin):
            raise Forbidden(f"Origin: {origin.decode('latin-1')!r} is none of those that mcp.hosts lets in")

    return admit


def _name(url: str) -> str:
    """The host of a URL in lower case; empty where there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None

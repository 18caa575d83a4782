"""A page over the API: plain files, served as they are, that load nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["dashboard_pages"]

_PAGES = {
    "/dashboard": ("page.html", b"text/html; charset=utf-8"),
    "/dashboard.css": ("page.css", b"text/css; charset=utf-8"),
    "/dashboard.js": ("page.js", b"text/javascript; charset=utf-8"),
}


def dashboard_pages() -> dict[str, tuple[bytes, bytes]]:
    """Content type and bytes by path. They tell nothing of anybody: what they show they ask the API for."""
    folder = files(__name__)
    return {path: (kind, folder.joinpath(name).read_bytes()) for path, (name, kind) in _PAGES.items()}

"""The methods of both clients, each written once: what is sent, and how the answer is read."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Literal, Unpack
from urllib.parse import quote

import msgspec

from memfast.client.answers import (
    EntityCount,
    Event,
    Found,
    Health,
    Hits,
    ImportReport,
    Link,
    LinkOutcome,
    Memory,
    Outcome,
    Page,
    Receipt,
    Related,
    Removal,
    Stored,
    User,
)
from memfast.client.call import Call, Download, Pages, Upload, download, listing, operation
from memfast.client.encode import encode_body, memory_path, pack, with_query
from memfast.client.fields import (
    AddOptions,
    CallOptions,
    ChangeOptions,
    Id,
    LinkOptions,
    ListOptions,
    MemoryChange,
    NewLink,
    NewMemory,
    OnConflict,
    ReadOptions,
    RelatedOptions,
    SearchItem,
    SearchOptions,
    WriteOptions,
)
from memfast.client.shapes import (
    read_entities,
    read_events,
    read_found,
    read_health,
    read_hits,
    read_link_outcome,
    read_link_outcomes,
    read_links,
    read_memories,
    read_memory,
    read_nothing,
    read_object,
    read_outcomes,
    read_receipt,
    read_related,
    read_removal,
    read_report,
    read_searches,
    read_stored,
    read_user,
    read_users,
)
from memfast.errors import MemfastError

__all__ = ["PAGE_ITEMS", "Operations"]

PAGE_ITEMS = 100
"""Items that a listing asks for at a time."""

_Outcomes = list[Outcome]
_LinkOutcomes = list[LinkOutcome]
_RelatedMemories = list[Related]
_Searches = list[Hits | MemfastError]


class Operations:
    """What one may ask of a service. Every call may have `timeout_s`; see `fields` for the rest.

    Raises, all of them: what `memfast.errors` draws below `Rejected` and `Unavailable`.
    """

    @operation
    def add(self, user_id: str, text: str, **fields: Unpack[AddOptions]) -> Call[Stored]:
        """Store a memory; without `id` it gets one.

        Raises:
            Conflict: the user has the id, and `on_conflict` is left at `error`.
        """
        options, given = _write_options(fields)
        body = {"user_id": user_id, "text": text, **pack(given)}
        return _write("POST", "/v1/memories", user_id, read_stored, options, body)

    @operation
    def add_many(
        self, user_id: str, memories: Iterable[str | NewMemory], **options: Unpack[WriteOptions]
    ) -> Call[_Outcomes]:
        """Store up to 1,000 memories, texts or fields, in one transaction; one that cannot be stored fails alone."""
        items = [{"text": each} if isinstance(each, str) else pack(each) for each in memories]
        return _batch("POST", "/v1/memories/batch", user_id, options, {"memories": items})

    @operation
    def get(self, user_id: str, id: Id, **options: Unpack[ReadOptions]) -> Call[Memory]:  # noqa: A002 - as everywhere
        """One memory.

        Raises:
            NotFound: the user has none of this id.
        """
        return _get(memory_path(id), {"user_id": user_id}, user_id, read_memory, options)

    @operation
    def get_many(self, user_id: str, ids: Iterable[Id], **options: Unpack[ReadOptions]) -> Call[Found]:
        """Up to 1,000 memories by id, and which of them are missing."""
        return _ask("/v1/memories/get", user_id, read_found, options, {"ids": list(ids)})

    @operation
    def update(
        self,
        user_id: str,
        id: Id,  # noqa: A002 - as everywhere
        *,
        if_version: int | None = None,
        **changes: Unpack[ChangeOptions],
    ) -> Call[Memory]:
        """Change fields of a memory; None clears one. A new text is embedded anew.

        Raises:
            NotFound: the user has none of this id.
            PreconditionFailed: it has another version than `if_version`.
        """
        options, given = _write_options(changes)
        target = with_query(memory_path(id), {"user_id": user_id})
        return _write("PATCH", target, user_id, read_memory, options | {"if_match": if_version}, pack(given))

    @operation
    def update_many(
        self, user_id: str, memories: Iterable[MemoryChange], **options: Unpack[WriteOptions]
    ) -> Call[_Outcomes]:
        """Change up to 1,000 memories in one transaction; one that cannot be changed fails alone."""
        return _batch("PATCH", "/v1/memories/batch", user_id, options, {"memories": [pack(each) for each in memories]})

    @operation
    def delete(
        self,
        user_id: str,
        id: Id,  # noqa: A002 - as everywhere
        *,
        if_version: int | None = None,
        purge: bool = False,
        **options: Unpack[WriteOptions],
    ) -> Call[None]:
        """Delete a memory, now or before; with `purge` from history too.

        Raises:
            NotFound: the user never had this id.
            PreconditionFailed: it has another version than `if_version`.
        """
        target = with_query(memory_path(id), {"user_id": user_id, "purge": purge or None})
        return _write("DELETE", target, user_id, read_nothing, {**options, "if_match": if_version})

    @operation
    def delete_many(
        self, user_id: str, ids: Iterable[Id], *, purge: bool = False, **options: Unpack[WriteOptions]
    ) -> Call[_Outcomes]:
        """Delete up to 1,000 memories in one transaction."""
        return _batch("DELETE", "/v1/memories/batch", user_id, options, {"ids": list(ids), "purge": purge})

    @operation
    def delete_matching(
        self,
        user_id: str,
        filter: Mapping[str, Any],  # noqa: A002 - as everywhere
        *,
        limit: int | None = None,
        dry_run: bool = False,
        purge: bool = False,
        **options: Unpack[WriteOptions],
    ) -> Call[Removal]:
        """Delete what a filter finds, or with `dry_run` say what that is. See docs/filters.md."""
        body = {"user_id": user_id, "filter": filter, "dry_run": dry_run, "purge": purge}
        body |= {} if limit is None else {"limit": limit}
        return _write("POST", "/v1/memories/delete", user_id, read_removal, options, body)

    @operation
    def undelete(
        self,
        user_id: str,
        id: Id,  # noqa: A002 - as everywhere
        *,
        if_version: int | None = None,
        **options: Unpack[WriteOptions],
    ) -> Call[Memory]:
        """Bring a deleted memory back.

        Raises:
            NotFound: there is nothing to bring back any more.
            Conflict: it is not deleted.
        """
        target = with_query(memory_path(id, "/undelete"), {"user_id": user_id})
        return _write("POST", target, user_id, read_memory, {**options, "if_match": if_version})

    @listing
    def list(
        self, user_id: str, *, limit: int | None = None, page_items: int = PAGE_ITEMS, **which: Unpack[ListOptions]
    ) -> Pages[Memory]:
        """A user's memories, newest first; `limit` in all, `page_items` in one request."""
        options, given = _read_options(which)
        if "filter" in given:
            given["filter"] = msgspec.json.encode(given["filter"]).decode()

        def page(cursor: str | None, items: int) -> Call[Page[Memory]]:
            parameters = {"user_id": user_id, "limit": items, "cursor": cursor, **given}
            return _get("/v1/memories", parameters, user_id, read_memories, options)

        return Pages(page, limit, page_items)

    @operation
    def search(self, user_id: str, query: str | None = None, **options: Unpack[SearchOptions]) -> Call[Hits]:
        """The memories that a text, a vector (`embedding`) or both find, best first. See docs/search.md."""
        read, given = _read_options(options)
        body = pack(given) if query is None else {"query": query, **pack(given)}
        return _ask("/v1/search", user_id, read_hits, read, body)

    @operation
    def search_many(
        self, user_id: str, searches: Iterable[str | SearchItem], **options: Unpack[ReadOptions]
    ) -> Call[_Searches]:
        """Up to 20 searches, texts or fields, in one request; for each its hits, or the error that it met."""
        items = [{"query": each} if isinstance(each, str) else pack(each) for each in searches]
        return _ask("/v1/search/batch", user_id, read_searches, options, {"searches": items})

    @operation
    def link(self, user_id: str, from_id: Id, to_id: Id, **fields: Unpack[LinkOptions]) -> Call[LinkOutcome]:
        """Link two memories, or change their link. See docs/links.md.

        Raises:
            NotFound: the user does not have both.
        """
        options, given = _write_options(fields)
        body = {"user_id": user_id, "from_id": from_id, "to_id": to_id, **given}
        return _write("POST", "/v1/links", user_id, read_link_outcome, options, body)

    @operation
    def link_many(self, user_id: str, links: Iterable[NewLink], **options: Unpack[WriteOptions]) -> Call[_LinkOutcomes]:
        """Link up to 1,000 pairs in one transaction; one that cannot be linked fails alone."""
        body = {"user_id": user_id, "links": [dict(each) for each in links]}
        return _write("POST", "/v1/links/batch", user_id, read_link_outcomes, options, body)

    @operation
    def unlink(
        self,
        user_id: str,
        from_id: Id,
        to_id: Id,
        *,
        type: str | None = None,  # noqa: A002 - as everywhere
        **options: Unpack[WriteOptions],
    ) -> Call[None]:
        """Remove a link.

        Raises:
            NotFound: there is none.
        """
        target = with_query("/v1/links", {"user_id": user_id, "from_id": from_id, "to_id": to_id, "type": type})
        return _write("DELETE", target, user_id, read_nothing, options)

    @listing
    def links(
        self,
        user_id: str,
        memory_id: Id | None = None,
        *,
        type: str | None = None,  # noqa: A002 - as everywhere
        limit: int | None = None,
        page_items: int = PAGE_ITEMS,
        **options: Unpack[ReadOptions],
    ) -> Pages[Link]:
        """A user's links, or those of one memory."""

        def page(cursor: str | None, items: int) -> Call[Page[Link]]:
            parameters = {"user_id": user_id, "memory_id": memory_id, "type": type, "limit": items, "cursor": cursor}
            return _get("/v1/links", parameters, user_id, read_links, options)

        return Pages(page, limit, page_items)

    @listing
    def entities(
        self, user_id: str, *, limit: int | None = None, page_items: int = PAGE_ITEMS, **options: Unpack[CallOptions]
    ) -> Pages[EntityCount]:
        """What a user's memories speak of, in byte order, and how many speak of each."""

        def page(cursor: str | None, items: int) -> Call[Page[EntityCount]]:
            parameters = {"user_id": user_id, "limit": items, "cursor": cursor}
            return _get("/v1/entities", parameters, user_id, read_entities, options)

        return Pages(page, limit, page_items)

    @operation
    def related(self, user_id: str, id: Id, **walk: Unpack[RelatedOptions]) -> Call[_RelatedMemories]:  # noqa: A002 - as everywhere
        """The memories that links lead to from one, nearest first."""
        options, given = _read_options(walk)
        return _get(memory_path(id, "/related"), {"user_id": user_id, **given}, user_id, read_related, options)

    @listing
    def history(
        self,
        user_id: str,
        id: Id,  # noqa: A002 - as everywhere
        *,
        limit: int | None = None,
        page_items: int = PAGE_ITEMS,
        **options: Unpack[CallOptions],
    ) -> Pages[Event]:
        """What happened to a memory, oldest first."""

        def page(cursor: str | None, items: int) -> Call[Page[Event]]:
            parameters = {"user_id": user_id, "limit": items, "cursor": cursor}
            return _get(memory_path(id, "/history"), parameters, user_id, read_events, options)

        return Pages(page, limit, page_items)

    @listing
    def users(
        self, *, limit: int | None = None, page_items: int = PAGE_ITEMS, **options: Unpack[CallOptions]
    ) -> Pages[User]:
        """The users of the key's namespace."""

        def page(cursor: str | None, items: int) -> Call[Page[User]]:
            return _get("/v1/users", {"limit": items, "cursor": cursor}, None, read_users, options)

        return Pages(page, limit, page_items)

    @operation
    def user(self, user_id: str, **options: Unpack[CallOptions]) -> Call[User]:
        """One user.

        Raises:
            NotFound: there is none of this name.
        """
        return _get(f"/v1/users/{quote(user_id, safe='')}", {}, user_id, read_user, options)

    @operation
    def forget(self, user_id: str, **options: Unpack[WriteOptions]) -> Call[Receipt]:
        """Erase a user with everything; the receipt says what was erased, and what is left where.

        Raises:
            NotFound: there is none of this name.
        """
        return _write("DELETE", f"/v1/users/{quote(user_id, safe='')}", user_id, read_receipt, options)

    @download
    def export(self, user_id: str | None = None, *, timeout_s: float | None = None) -> Download:
        """Everything of a user, or of the key's namespace, as lines of JSON, each with its newline.

        The last line is the trailer; `timeout_s` is the longest wait for the next lines. See docs/import-export.md.

        Raises:
            ServiceUnreachable: the export broke off.
        """
        target = with_query("/v1/export", {"user_id": user_id})
        return Download(method="GET", target=target, read=read_nothing, kind="read", timeout_s=timeout_s)

    @operation
    def import_(
        self,
        lines: Iterable[bytes] | AsyncIterable[bytes],
        *,
        user_id: str | None = None,
        on_conflict: OnConflict = "error",
        on_error: Literal["continue", "stop"] = "continue",
        form: Literal["auto", "memfast", "mem0"] = "auto",
        part: bool = False,
        timeout_s: float | None = None,
    ) -> Call[ImportReport]:
        """Take in what an export gave: lines of JSON in pieces of any length, e.g. a file opened for reading bytes.

        It is sent once, as it comes; sending it again changes nothing. `timeout_s` is the longest wait for the service
        to take or answer something. See docs/import-export.md.
        """
        parameters = {"on_conflict": on_conflict, "on_error": on_error, "form": form, "part": part, "user_id": user_id}
        return Upload(
            method="POST",
            target=with_query("/v1/import", parameters),
            read=read_report,
            kind="write",
            timeout_s=timeout_s,
            parts=lines,
        )

    @operation
    def stats(self, **options: Unpack[CallOptions]) -> Call[dict[str, Any]]:
        """What all workers did and need, now and of late; needs an admin key where there are keys."""
        return _get("/v1/stats", {}, None, read_object, options)

    @operation
    def health(self, **options: Unpack[CallOptions]) -> Call[Health]:
        """Every dependency of the service, also while it is not ready."""
        return _get("/v1/health", {}, None, read_health, {**options, "statuses": (503,)})


def _get(
    path: str, parameters: Mapping[str, Any], user_id: str | None, read: Any, options: Mapping[str, Any]
) -> Call[Any]:
    return Call(method="GET", target=with_query(path, parameters), kind="read", user_id=user_id, read=read, **options)


def _ask(path: str, user_id: str, read: Any, options: Mapping[str, Any], body: Mapping[str, Any]) -> Call[Any]:
    """A read whose question is a body."""
    encoded = encode_body({"user_id": user_id, **body})
    return Call(method="POST", target=path, kind="read", user_id=user_id, read=read, body=encoded, **options)


def _write(
    method: Literal["POST", "PATCH", "DELETE"],
    target: str,
    user_id: str,
    read: Any,
    options: Mapping[str, Any],
    body: Mapping[str, Any] | None = None,
) -> Call[Any]:
    encoded = b"" if body is None else encode_body(body)
    return Call(method=method, target=target, kind="write", user_id=user_id, read=read, body=encoded, **options)


def _batch(
    method: Literal["POST", "PATCH", "DELETE"],
    target: str,
    user_id: str,
    options: Mapping[str, Any],
    body: Mapping[str, Any],
) -> Call[_Outcomes]:
    return _write(method, target, user_id, read_outcomes, options, {"user_id": user_id, **body})


_WRITE = WriteOptions.__optional_keys__
_READ = ReadOptions.__optional_keys__


def _write_options(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return _split(fields, _WRITE)


def _read_options(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return _split(fields, _READ)


def _split(fields: Mapping[str, Any], names: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the call, and what is sent."""
    options: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for name, value in fields.items():
        (options if name in names else given)[name] = value
    return options, given

"""Routes about users: who there is, and forgetting them."""

from __future__ import annotations

import os
from functools import partial

import msgspec

from memfast.bootstrap import Services
from memfast.claims import Claim, Written
from memfast.errors import Forbidden
from memfast.http.claims import write_once
from memfast.http.codec import encode_json
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.http.wire import UserParameters, UsersAnswer, UsersParameters
from memfast.http.wire_forget import CopiesAnswer, ErasedCopies, ForgetParameters, Receipt, Remainder
from memfast.model import ForgetReceipt, User

__all__ = ["ROUTES"]

_USERS = "/v1/users/"
_REMAINS = (
    Remainder(
        "table and index files of the database",
        "until VACUUM and later rows overwrite what was deleted; `memfast forget --rewrite` does it now",
    ),
    Remainder("planner statistics of the database", "until the next ANALYZE; `memfast forget --rewrite` does it now"),
    Remainder(
        "write-ahead log",
        "until its segments are overwritten; `memfast forget --rewrite` does it now where the database is embedded",
    ),
    Remainder("backups, archives and replicas made of the database", "until you delete them"),
    Remainder(
        "memory and snapshots of other workers and hosts",
        "void since the moment of forgetting; erased within 10 s, finished answers within cache.idle_s",
    ),
    Remainder("answers in Redis, where it could not be asked", "sealed, asked for by nobody, for at most redis.ttl_s"),
    Remainder(
        "ids, times, types and weights in the graph",
        "until it has been told, within a second; where it was away, until it is back",
    ),
    Remainder(
        "vectors of texts that were embedded lately, in workers and in Redis",
        "without text, user or order, by a digest of the text: for at most cache.embedding_ttl_s and redis.ttl_s",
    ),
    Remainder("the keyed hash of the name with a version, in the table scopes", "for ever: versions never begin again"),
)
_KEYS_REMAIN = Remainder(
    "API keys that name the user", "until each is revoked by `memfast keys revoke` and the user is forgotten again"
)


async def list_users(exchange: Exchange, services: Services) -> Reply:
    """The users of the key's namespace."""
    parameters = exchange.parameters(UsersParameters)
    principal = exchange.principal
    if principal.user_id is not None:
        own = [await services.directory.get(exchange.scope(principal.user_id))]
        return exchange.reply(UsersAnswer(own, None, has_more=False))
    page = await services.directory.list(principal.namespace, limit=parameters.limit, cursor=parameters.cursor)
    return exchange.reply(UsersAnswer(page.users, page.next_cursor, page.next_cursor is not None))


async def get_user(exchange: Exchange, services: Services, **_path: str) -> Reply:
    """One user's counts and times."""
    user_id = services.limits.user_id(exchange.path_name(_USERS), "user_id")
    user = await services.directory.get(exchange.scope(user_id))
    return exchange.reply(user, version=user.version)


async def forget_user(exchange: Exchange, services: Services, **_path: str) -> Reply:
    """Erase a user."""
    meant = exchange.parameters(ForgetParameters).namespace
    if meant not in {None, exchange.principal.namespace}:
        raise Forbidden(f"namespace: the API key belongs to {exchange.principal.namespace!r}", path="namespace")
    user_id = services.limits.user_id(exchange.path_name(_USERS), "user_id")
    scope = exchange.scope(user_id)

    async def work(claim: Claim | None) -> ForgetReceipt:
        return await services.forget.user(scope, claim=claim)

    return await write_once(exchange, services, scope, work, _forgotten, partial(_receipt, user_id))


def _forgotten(receipt: ForgetReceipt) -> Written:
    """What is kept of a receipt: the user's name is not."""
    return Written(200, receipt.version, encode_json(receipt))


def _receipt(user_id: str, kept: bytes) -> bytes:
    receipt = msgspec.json.decode(kept, type=ForgetReceipt)
    return encode_json(
        Receipt(
            user_id=user_id,
            memories=receipt.memories,
            version=receipt.version,
            forgotten_at=receipt.at,
            rows=receipt.rows,
            copies=msgspec.convert(receipt.copies, ErasedCopies),
            keys=receipt.keys,
            remains=[*_REMAINS, *([_KEYS_REMAIN] if receipt.keys else [])],
        )
    )


async def show_copies(exchange: Exchange, services: Services) -> Reply:
    """What the answering worker keeps of a user beside the database."""
    exchange.principal.require_admin()
    scope = exchange.scope(services.limits.user_id(exchange.parameters(UserParameters).user_id, "user_id"))
    kept = await services.copies.kept(scope.id)
    answer = CopiesAnswer(
        pid=os.getpid(),
        namespace=scope.namespace,
        answers=kept.answers,
        memories=kept.memories,
        questions=kept.questions,
        snapshots=kept.snapshots,
    )
    return exchange.reply(answer)


ROUTES = (
    Route(
        method="GET",
        path="/v1/users",
        endpoint=list_users,
        summary="List users",
        group="users",
        parameters=UsersParameters,
        answers={200: Success(UsersAnswer, "a page, in byte order of the ids")},
        problems=(404,),
    ),
    Route(
        method="GET",
        path="/v1/users/{user_id}",
        endpoint=get_user,
        summary="Get a user",
        group="users",
        answers={200: Success(User, "counts, version and times")},
        problems=(404,),
    ),
    Route(
        method="DELETE",
        path="/v1/users/{user_id}",
        endpoint=forget_user,
        summary="Forget a user",
        group="users",
        parameters=ForgetParameters,
        answers={200: Success(Receipt, "what was erased, and what is left where", written=True)},
        problems=(404,),
    ),
    Route(
        method="GET",
        path="/v1/cache/user",
        endpoint=show_copies,
        summary="What the answering worker keeps of a user",
        group="cache",
        parameters=UserParameters,
        answers={200: Success(CopiesAnswer, "counts; all 0 for a user who was forgotten")},
    ),
)

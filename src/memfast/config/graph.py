"""Settings of the graph engine."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from memfast.config.fields import doc

__all__ = ["GraphConfig"]


class GraphConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A copy of the links in Neo4j, for walks over them."""

    uri: Annotated[str, doc("address of Neo4j: bolt://, neo4j://, with +s for TLS; empty = none")] = ""
    user: Annotated[str, doc("name to log in with; empty = without logging in")] = "neo4j"
    password: Annotated[str, doc("its password")] = ""
    database: Annotated[str, doc("the database of that server")] = "neo4j"
    pool_max: Annotated[int, doc("largest number of connections, all workers", "connections", ge=1, le=10_000)] = 50
    pool_min: Annotated[int, doc("connections opened at the start, all workers", "connections", ge=0, le=10_000)] = 10
    acquire_timeout_s: Annotated[float, doc("wait for a free connection", "s", gt=0, le=60)] = 1.0
    connect_timeout_s: Annotated[float, doc("wait for a new connection", "s", gt=0, le=60)] = 0.5
    read_timeout_s: Annotated[float, doc("the longest that a request waits for it", "s", gt=0, le=60)] = 0.5
    write_timeout_s: Annotated[float, doc("time one transaction that changes it may take", "s", gt=0, le=3600)] = 10.0
    idle_check_s: Annotated[
        float, doc("idle time after which a connection is tried before it is used", "s", gt=0, le=3600)
    ] = 30.0
    lifetime_s: Annotated[float, doc("age at which a connection is opened anew", "s", gt=0, le=86_400)] = 3600.0
    failures: Annotated[
        int, doc("failures within 10 s after which it is not asked any more", "failures", ge=1, le=1000)
    ] = 3
    hold_s: Annotated[
        float, doc("time until it is asked again by a request; a ping that is answered comes first", "s", gt=0)
    ] = 45.0
    outbox_rows: Annotated[
        int, doc("steps that may wait for it; with more it is given up, and built anew when it is back", "steps", ge=1)
    ] = 1_000_000
    batch_steps: Annotated[int, doc("steps in one transaction that changes it", "steps", ge=1, le=1000)] = 10
    poll_s: Annotated[float, doc("time between looks for steps that others have left", "s", gt=0, le=60)] = 1.0

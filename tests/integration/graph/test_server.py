"""The Neo4j that the other tests run with."""

from __future__ import annotations

import neo4j


async def _ask(server, statement):
    authority = (server.user, server.password)
    async with neo4j.AsyncGraphDatabase.driver(server.uri, auth=authority, telemetry_disabled=True) as driver:
        return (await driver.execute_query(statement, database_="neo4j")).records


async def test_edition_and_version(graph_server):
    """It is Neo4j Community 5.26, and APOC is there."""
    (record,) = await _ask(graph_server, "CALL dbms.components() YIELD name, versions, edition")
    assert record["name"] == "Neo4j Kernel"
    assert record["versions"][0].startswith("5.26.")
    assert record["edition"] == "community"
    (record,) = await _ask(
        graph_server, "SHOW PROCEDURES YIELD name WHERE name = 'apoc.path.expandConfig' RETURN count(*)"
    )
    assert record[0] == 1


async def test_without_apoc(make_graph_server):
    """One may be without APOC, and keeps what it holds when it is killed."""
    with make_graph_server(apoc=False) as server:
        (record,) = await _ask(server, "SHOW PROCEDURES YIELD name WHERE name STARTS WITH 'apoc.' RETURN count(*)")
        assert record[0] == 0
        await _ask(server, "CREATE (:Kept)")
        server.kill()
        server.start()
        (record,) = await _ask(server, "MATCH (k:Kept) RETURN count(k)")
        assert record[0] == 1

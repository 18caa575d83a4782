"""An agent that uses everything, by whichever official client is installed; prints what it was told as JSON.

    python talk.py SERVER MODE

SERVER is a URL, or the words of a command that speaks on its standard streams, as a JSON list. MODE is `auto` or `legacy`;
the client's first generation knows the second alone.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from importlib.metadata import version

import mcp

REFUSED = mcp.MCPError if version("mcp").startswith("2.") else mcp.McpError


async def opened(stack, server, mode):
    """A session of the installed client with the server."""
    words = json.loads(server) if server.startswith("[") else None
    parameters = words and mcp.StdioServerParameters(command=words[0], args=words[1:], env=dict(PASSED))
    if version("mcp").startswith("2."):
        return await stack.enter_async_context(mcp.Client(parameters or server, mode=mode))
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    streams = await stack.enter_async_context(stdio_client(parameters) if words else streamable_http_client(server))
    session = await stack.enter_async_context(mcp.ClientSession(*streams[:2]))
    await session.initialize()
    return session


def plain(result):
    """A result as it stood on the wire."""
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def refused(awaitable):
    """The code of an error of the protocol."""
    try:
        await awaitable
    except REFUSED as error:
        return error.error.code
    return None


async def talk(session, user):
    """Use every tool, resource and prompt once."""

    async def call(name, **arguments):
        return plain(await session.call_tool(name, {"user_id": user} | arguments))

    told = {"tools": [tool.name for tool in (await session.list_tools()).tools]}
    one = (await call("remember", text="Grace keeps bees in Turin.", tags=["pets"]))["structuredContent"]
    two = (await call("remember", text="Grace sells honey on Saturdays."))["structuredContent"]
    told["again"] = (await call("remember", text="Grace keeps bees in Turin."))["structuredContent"]["status"]
    told["recall"] = [hit["text"] for hit in (await call("recall", query="bees"))["structuredContent"]["memories"]]
    told["relate"] = (await call("relate", from_id=one["id"], to_id=two["id"]))["structuredContent"]["status"]
    told["related"] = [hit["id"] for hit in (await call("related", id=one["id"]))["structuredContent"]["memories"]]
    told["update"] = (await call("update", id=one["id"], text="Grace keeps bees in Rome."))["isError"]
    told["get"] = (await call("get", id=one["id"]))["structuredContent"]["text"]
    told["list"] = len((await call("list"))["structuredContent"]["memories"])
    told["status"] = (await call("status"))["structuredContent"]["memories"]
    told["error"] = await call("get", id="nothing")
    told["unknown"] = await refused(session.call_tool("nothing", {}))
    uri = f"memfast://users/{user}/memories/{two['id']}"
    told["templates"] = len((await session.list_resource_templates()).model_dump(by_alias=True)["resourceTemplates"])
    read = plain(await session.read_resource(uri))["contents"][0]["text"]
    told["resource"] = json.loads(read)["text"]
    told["resources"] = len((await session.list_resources()).resources)
    told["prompts"] = [prompt.name for prompt in (await session.list_prompts()).prompts]
    prompt = await session.get_prompt("what_do_you_know_about", {"topic": "honey", "user_id": user})
    told["prompt"] = plain(prompt)["messages"][0]["content"]["text"]
    told["forget"] = (await call("forget", id=two["id"]))["structuredContent"]["forgotten"]
    told["erased"] = (await call("forget", everything=True, confirm=user))["structuredContent"]["forgotten"]
    return told | {"one": one["id"], "two": two["id"]}


async def main():
    """Talk, and print."""
    async with AsyncExitStack() as stack:
        session = await opened(stack, *sys.argv[1:3])
        print(json.dumps(await talk(session, f"grace-{version('mcp')}-{sys.argv[2]}")))


if __name__ == "__main__":
    import os

    PASSED = {name: os.environ[name] for name in ("PATH", "PYTHONPATH_OF_SERVICE") if name in os.environ}
    if "PYTHONPATH_OF_SERVICE" in PASSED:
        PASSED["PYTHONPATH"] = PASSED.pop("PYTHONPATH_OF_SERVICE")
    asyncio.run(main())

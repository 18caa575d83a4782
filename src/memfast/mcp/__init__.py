"""The MCP face: memories as tools, resources and prompts of a language model, at `/mcp`.

One POST is one JSON-RPC message and one JSON answer. There are no sessions and no streams, so that any worker and any
host answers any message: clients that open with `initialize` (revisions 2025-03-26 to 2025-11-25) and those of the
stateless revision 2026-07-28 are served side by side.
"""

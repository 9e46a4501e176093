"""Tools from a server that speaks MCP (Model Context Protocol), over stdio or streamable HTTP.

    with mcp_tools(["python", "server.py"]) as tools:      # or mcp_tools(url="http://127.0.0.1:8000/mcp")
        box = Toolbox(tools, world)

The protocol is the official client's (extra `mcp`); it runs in a background thread, and the tools are plain functions.
What a call came to is decided by the protocol, not by reading texts:

    the result says isError                 ToolError
    error -32601 on a call                  UnknownTool
    error -32602 on a call                  UnknownTool if the server lists no such tool any more, else InvalidArguments
    isError with an SDK's fixed message     UnknownTool if, again, the server lists no such tool any more
    any other error answer                  ToolError
    an answer that cannot be read           ToolError, at once
    no answer in time                       ToolTimeout if the server still answers a listing, else InfrastructureError
    an answer that is too large             ToolError; the connection is given up
    server dead, refusing, unreachable      InfrastructureError, after one reconnect for calls that are no effects

A call that changes the world is sent once, also after a failure. A Sparring environment that is served over MCP says
itself how a call ended (in `_meta`), and that is kept.

    wire          what a server wrote -> messages of the protocol; what cannot be read becomes an error answer at once
    answers       what a list of tools and a result say, and the form of them that the official client takes
    transports    a child process, or HTTP, with bounded messages
    server        one server: its connection, and what a call of it came to
    tools         `mcp_tools`
"""

from .answers import META
from .tools import mcp_tools

__all__ = ["META", "mcp_tools"]

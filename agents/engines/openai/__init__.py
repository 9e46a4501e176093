"""Any server that speaks OpenAI's chat completions: `openai:URL#MODEL`. Messages and tools in, an `Action` out.

address     what a user writes: URL, model, options; and where the key comes from
wire        our messages and tools as a request, an answer as an `Action`
sending     requests over HTTP: deadlines, retries, and what each bad answer is
cache       answers on disk, by request
endpoint    the `ChatModel`, and its loader
"""

from .address import Address
from .endpoint import Endpoint, load

__all__ = ["Address", "Endpoint", "load"]

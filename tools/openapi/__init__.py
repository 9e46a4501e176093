"""Tools from an OpenAPI 3.0 or 3.1 document: each operation of an HTTP service becomes one."""

from .parts import LeftOut
from .service import OpenAPITools, openapi_tools

__all__ = ["LeftOut", "OpenAPITools", "openapi_tools"]

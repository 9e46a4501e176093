"""Tools from an OpenAPI 3.0 or 3.1 document: each operation of an HTTP service becomes one."""

from .service import openapi_tools

__all__ = ["openapi_tools"]

"""Tools that many environments need, made by small functions: each returns `Tool` objects with their limits set."""

from .arithmetic import calculator
from .files import files_tools
from .http import http_tool
from .python import python_tool
from .search import search_tool
from .sql import sql_tools

__all__ = ["calculator", "files_tools", "http_tool", "python_tool", "search_tool", "sql_tools"]

"""`calculator`: arithmetic from text, by walking its syntax tree; nothing is evaluated as Python.

Integers are exact. Every step is bounded before it is taken, so that no expression costs more than its length suggests.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

from ...trajectories.messages import Json
from ..definition import Tool
from ..errors import InvalidArguments

__all__ = ["calculate", "calculator"]

MAX_LENGTH = 500
"""Characters of an expression."""
MAX_BITS = 1024
"""Bits of an integer, results in between included."""

Number = int | float

_CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e, "tau": math.tau}
_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "abs": (abs, 1, 1),
    "acos": (math.acos, 1, 1),
    "asin": (math.asin, 1, 1),
    "atan": (math.atan, 1, 2),
    "ceil": (math.ceil, 1, 1),
    "cos": (math.cos, 1, 1),
    "degrees": (math.degrees, 1, 1),
    "exp": (math.exp, 1, 1),
    "factorial": (math.factorial, 1, 1),
    "floor": (math.floor, 1, 1),
    "gcd": (math.gcd, 2, 2),
    "log": (math.log, 1, 2),
    "log10": (math.log10, 1, 1),
    "log2": (math.log2, 1, 1),
    "max": (max, 2, 50),
    "min": (min, 2, 50),
    "radians": (math.radians, 1, 1),
    "round": (round, 1, 2),
    "sin": (math.sin, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "tan": (math.tan, 1, 1),
}
"""Name -> (function, fewest arguments, most arguments)."""
_FUNCTIONS["atan"] = (lambda y, x=None: math.atan(y) if x is None else math.atan2(y, x), 1, 2)


def calculate(expression: str) -> Number:
    """The value of an arithmetic expression. Raises `InvalidArguments`, and nothing else, for any text whatever."""
    if len(expression) > MAX_LENGTH:
        raise InvalidArguments(f"the expression has {len(expression)} characters; at most {MAX_LENGTH} are read")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _checked(_value(tree.body))
    except InvalidArguments:
        raise
    except SyntaxError as error:
        raise InvalidArguments(f"no arithmetic expression: {error.msg}", hint="write for example 2 * (3 + 4)") from None
    except ZeroDivisionError:
        raise InvalidArguments("division by zero") from None
    except OverflowError:
        raise InvalidArguments("the result is too large") from None
    except (TypeError, ValueError) as error:  # sqrt(-1), factorial(0.5), a null byte
        raise InvalidArguments(f"cannot be computed: {error}") from None
    except (RecursionError, MemoryError):
        raise InvalidArguments("the expression is nested too deeply") from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _checked(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _checked(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _checked(_BINARY[type(op)](_value(left), _value(right)))
        case ast.BinOp(op=ast.BitXor()):
            raise InvalidArguments("'^' is no operator here", hint="write a power as 2 ** 3")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            function, fewest, most = _FUNCTIONS[name]
            if not fewest <= len(args) <= most:
                wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
                raise InvalidArguments(f"{name} takes {wanted} arguments, not {len(args)}")
            values = [_value(a) for a in args]
            if name == "factorial" and values[0] > 170:
                raise InvalidArguments("factorial is computed up to 170")
            if name == "round" and len(values) == 2 and abs(values[1]) > 300:
                raise InvalidArguments("round takes at most 300 digits")
            return _checked(function(*values))
        case ast.Name(id=name):
            raise InvalidArguments(f"{name[:50]!r} is unknown here", hint=f"constants: {', '.join(_CONSTANTS)}")
        case ast.Call(func=ast.Name(id=name)):
            raise InvalidArguments(f"no function {name[:50]!r} here", hint=f"functions: {', '.join(_FUNCTIONS)}")
    raise InvalidArguments(
        f"{type(node).__name__} is no arithmetic", hint="use numbers, + - * / // % **, brackets and functions"
    )


def _power(base: Number, exponent: Number) -> Number:
    """`base ** exponent`, refused where the result would be larger than the bound: it is never built."""
    if isinstance(base, int) and isinstance(exponent, int):
        if abs(exponent) * max(base.bit_length(), 1) > 2 * MAX_BITS and abs(base) > 1:
            raise OverflowError
        if abs(exponent) > 10**6:
            exponent = exponent % 2 + 2 if base else exponent  # 1 and -1: only oddness matters
    value = base**exponent
    if isinstance(value, complex):
        raise InvalidArguments("the result is no real number")
    return value


def _checked(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArguments("the result is too large, or no number")
    return value


def calculator() -> Tool:
    """The tool `calculator`: exact integers, floats, the usual functions; no variables, nothing to escape to."""

    def calculator(expression: str) -> Json:
        """Compute an arithmetic expression such as 2 * (3 + sqrt(16)). Powers are written 2 ** 3.

        Args:
            expression: Numbers, + - * / // % **, brackets, and functions such as sqrt, log, sin, round, min, max.
        """
        value = calculate(expression)
        return value if isinstance(value, float) or -(2**63) <= value < 2**63 else str(value)

    return Tool.from_function(calculator, idempotent=True)

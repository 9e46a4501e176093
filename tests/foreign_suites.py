"""Foreign suites in miniature, each in the manner of a known one. They know nothing of Sparring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

F = TypeVar("F", bound=Callable[..., Any])

# ---- a tool kit with marked methods, exceptions as text, gold actions in each task -----------------------------------


def is_tool(kind: str) -> Callable[[F], F]:
    def mark(method: F) -> F:
        vars(method)["tool_kind"] = kind
        return method

    return mark


class Toolkit:
    """A shop. Its harness shows an exception as "Error: ..."."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders

    def statistics(self) -> int:
        """Not for the agent."""
        return len(self.orders)

    @is_tool("read")
    def get_order(self, order_id: str) -> dict[str, Any]:
        """Get an order.

        Args:
            order_id: Such as '#W1'.
        """
        if order_id not in self.orders:
            raise ValueError("Order not found")
        held: dict[str, Any] = self.orders[order_id]
        return held

    @is_tool("write")
    def cancel_order(self, order_id: str, reason: str) -> dict[str, Any]:
        """Cancel an order.

        Args:
            order_id: Such as '#W1'.
            reason: 'no longer needed' or 'ordered by mistake'.
        """
        order = self.get_order(order_id)
        if reason not in {"no longer needed", "ordered by mistake"}:
            raise ValueError("Invalid reason")
        order["status"] = "cancelled"
        return order


def orders() -> dict[str, Any]:
    return {f"#W{n}": {"id": f"#W{n}", "status": "pending", "items": ["x" * 5000]} for n in range(4)}


RETAIL: list[dict[str, Any]] = [
    {
        "id": str(n),
        "says": f"Cancel my order #W{n}, I ordered it by mistake.",
        "criteria": {
            "actions": [
                {"action_id": f"{n}_0", "name": "get_order", "arguments": {"order_id": f"#W{n}"}},
                {
                    "action_id": f"{n}_1",
                    "name": "cancel_order",
                    "arguments": {"order_id": f"#W{n}", "reason": "ordered by mistake"},
                },
            ]
        },
    }
    for n in range(3)
] + [{"id": "3", "says": "Cancel order #W3; I do not like it.", "criteria": {"actions": []}}]
RETAIL_SPLITS = {"train": ["0"], "test": ["1", "2", "3"], "base": ["0", "1", "2", "3"]}

# ---- classes for each task, several user turns, tools held back, gold in a second file -------------------------------


class Disk:
    """Its failures are returned."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.files = dict(config.get("files", {}))

    def ls(self) -> dict[str, Any]:
        """List the files."""
        return {"current_directory_content": sorted(self.files)}

    def mv(self, source: str, destination: str) -> dict[str, str]:
        """Move a file.

        Args:
            source: Its name.
            destination: Its new name.
        """
        if source not in self.files:
            return {"error": f"mv: cannot move '{source}': No such file or directory"}
        self.files[destination] = self.files.pop(source)
        return {"result": f"'{source}' moved to '{destination}'"}

    def rm(self, file_name: str) -> dict[str, str]:
        """Remove a file."""
        if file_name not in self.files:
            return {"error": "rm: no such file"}
        del self.files[file_name]
        return {"result": "removed"}

    def _lost(self) -> None:
        """No tool."""


class Notes:
    def __init__(self, config: dict[str, Any]) -> None:
        self.notes = list(config.get("notes", []))

    def add_note(self, text: str) -> dict[str, Any]:
        """Add a note."""
        self.notes.append(text)
        return {"count": len(self.notes)}


CLASSES: dict[str, Any] = {"Disk": Disk, "Notes": Notes}


def is_public(method: Any) -> bool:
    return not method.__name__.startswith("_")


def writes(method: Any) -> bool:
    return method.__name__ in ("mv", "rm", "add_note")


MULTI: list[dict[str, Any]] = [
    {
        "id": "multi_0",
        "involved_classes": ["Disk"],
        "initial_config": {"Disk": {"files": {"a": 1}}},
        "question": [
            [{"role": "user", "content": "Move a to b."}],
            [{"role": "user", "content": "And b to c."}],
        ],
    },
    {
        "id": "multi_1",
        "involved_classes": ["Disk", "Notes"],
        "initial_config": {"Disk": {"files": {"x": 1}}},
        "question": [[{"role": "user", "content": "Note that x goes, then remove it."}], []],
        "missed_function": {"1": ["rm"]},
    },
]
MULTI_GOLD = [
    {"id": "multi_0", "ground_truth": [["mv(source='a', destination='b')"], ["mv(source='b', destination='c')"]]},
    {"id": "multi_1", "ground_truth": [["add_note(text='x goes')"], ["rm(file_name='x')"]]},
]


def fresh(row: dict[str, Any]) -> dict[str, Any]:
    return {name: CLASSES[name](row["initial_config"].get(name, {})) for name in row["involved_classes"]}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(vars(one[name]) == vars(other[name]) for name in one)


# ---- functions of a context, typed refusals, a test split alone, tasks where nothing is to be done -------------------


class TypeCheckError(Exception):
    """Of the suite's own check of types."""


def send_message(context: dict[str, Any], phone: str, content: str) -> str:
    """Send a text message.

    Args:
        phone: In the form +1...
        content: The text.
    """
    if not isinstance(phone, str):
        raise TypeCheckError(f'argument "phone" ({type(phone).__name__}) is not an instance of str')
    if not context["cellular"]:
        raise ConnectionError("Cellular service is not enabled")
    if not phone.startswith("+"):
        raise ValueError(f"'{phone}' is not a valid phone number")
    context["sent"].append([phone, content])
    return "msg-1"


def set_cellular(context: dict[str, Any], on: bool) -> None:
    """Turn cellular service on or off."""
    if context["low_battery"] and on:
        raise PermissionError("Cellular service cannot be turned on in low battery mode")
    context["cellular"] = on


def search_contacts(context: dict[str, Any], name: str | None = None) -> list[dict[str, str]]:
    """Search the contacts.

    Args:
        name: Part of the name.
    """
    return [contact for contact in context["contacts"] if name is None or name.lower() in contact["name"].lower()]


PHONE: list[dict[str, Any]] = [
    {
        "instruction": "Text Ada hi.",
        "data": {
            "wants": [["+1234", "hi"]],
            "gold": [["search_contacts", {"name": "Ada"}], ["send_message", {"phone": "+1234", "content": "hi"}]],
        },
    },
    {
        "instruction": "Text Bob hi.",
        "data": {"wants": [], "gold": [["search_contacts", {"name": "Bob"}], "I do not know Bob's number."]},
    },
]

# ---- endpoints with pydantic models, a status in each failure, a session that is injected ----------------------------


class Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f'Response status code is {status}: {{"message":"{detail}"}}')
        self.status = status


class Transfer(BaseModel):
    """Send money to a friend."""

    model_config = ConfigDict(extra="ignore")
    to: str = Field(alias="receiver_email")
    amount: float = Field(gt=0)
    note: str = ""


class Balance(BaseModel):
    """Show the balance, and what happened so far."""


def transfer(request: Transfer, session: dict[str, Any]) -> dict[str, Any]:
    if request.to not in session["friends"]:
        raise Refused(404, "no such user")
    if request.amount > session["balance"]:
        raise Refused(422, "balance too low")
    session["balance"] -= request.amount
    return {"balance": session["balance"]}


def balance(request: Balance, session: dict[str, Any]) -> dict[str, Any]:
    return {"balance": session["balance"], "history": ["." * 100] * 200}

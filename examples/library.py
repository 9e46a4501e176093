"""The smallest whole environment: lend a book to a member.

Try it:  sparring check examples/library.py:Library
"""

import random
from collections.abc import Iterator

from sparring import NotFound, Solution, Task, ToolEnv, register, tool

TITLES = ("Dune", "Emma", "Ulysses", "Hamlet", "Faust", "Walden", "Beloved", "Dracula", "Carrie", "Ivanhoe")
MEMBERS = ("Ada", "Ben", "Cora", "Dan", "Ella", "Finn", "Gus", "Hana", "Ivan", "June")
PAIRS = random.Random(0).sample([(title, member) for title in TITLES for member in MEMBERS], 100)
SPLITS = {"test": PAIRS[:20], "validation": PAIRS[20:40], "train": PAIRS[40:]}


class Library(ToolEnv):
    """Lend a book to a member.

    ## Tools
    `find_book(title)` gives a book's id; `lend(book_id, member)` lends it.

    ## Rewards
    1 when the member has the book at the end, else 0.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    system = "Use the tools, one call at a time, then answer Done."

    def tasks(self, split: str, rng: random.Random) -> Iterator[Task]:  # endless here; a list would do
        while True:
            title, member = rng.choice(SPLITS[split])
            data = {"title": title, "member": member}
            yield Task(f"Lend {title!r} to {member}.", data, seed=rng.randrange(10**6))

    def setup(self, task: Task, rng: random.Random) -> None:  # the episode's whole state; deep-copied by snapshot()
        ids = rng.sample(range(10, 100), len(TITLES))
        self.state = {"books": dict(zip(TITLES, ids, strict=True)), "lent": {}}

    @tool
    def find_book(self, title: str) -> int:
        """Find a book's id by its exact title."""
        if title not in self.state["books"]:  # a typed failure: the agent is told, and may recover
            raise NotFound(f"no book is called {title!r}")
        return int(self.state["books"][title])

    @tool(effect=True)  # changes the world: never re-dispatched by the framework
    def lend(self, book_id: int, member: str) -> str:
        """Lend a book to a member."""
        self.state["lent"][book_id] = member
        return "lent"

    def success(self, task: Task) -> bool:  # judged on the end state, by code that the agent cannot reach
        book_id = self.state["books"][task.data["title"]]
        return bool(self.state["lent"] == {book_id: task.data["member"]})

    def solve(self, task: Task) -> Solution:  # optional: an expert that can start from any state
        book = yield "find_book", {"title": task.data["title"]}
        yield "lend", {"book_id": book.value, "member": task.data["member"]}


register("mine/Library-v0", Library)

"""`Incident`: only part of the world is seen at a time, and what was done wrong has to be undone."""

from __future__ import annotations

import random
import zlib
from collections.abc import Generator, Iterable, Iterator

from ...tools import Conflict, NotFound, tool
from ...trajectories import Json, Outcome, Task, ToolResult
from ..env import Solution, ToolEnv
from ..facets import FaultHooks
from ..task import Split

__all__ = ["Incident"]

SERVICES = (
    "checkout", "search", "billing", "login", "mailer", "catalog", "cart", "ratings", "stock", "shipping", "queue",
    "cache", "ledger", "tickets", "profiles", "reports", "uploads", "maps", "prices", "alerts",
)  # fmt: skip
CAUSES = ("release", "disk", "config")
LOGS = {
    "release": "crash since release r{version}",
    "disk": "no space left on disk",
    "config": "unknown setting in the config",
    "old": "release r{version} is too old, r{latest} was rolled back by mistake",
}

Record = dict[str, Json]


class _Faults(FaultHooks):
    def rotate_id(self, env: Incident, tool: str, arguments: Record) -> bool:
        services = env.state["services"]
        old = arguments.get("service_id")
        if old not in services:
            return False
        new = env.episode.rng.choice([i for n in range(100, 1000) if (i := f"s{n}") not in services])
        env.state["services"] = {new if i == old else i: service for i, service in services.items()}
        return True

    def distort(self, env: Incident, tool: str, arguments: Record, value: Json) -> Json:
        if tool != "find_service":
            return None
        services = env.state["services"].items()
        return env.episode.rng.choice(
            [{"name": s["name"], "service_id": i} for i, s in services if s["name"] != value["name"]]
        )

    def look(self, env: Incident, tool: str, arguments: Record) -> tuple[str, Record] | None:
        known = arguments.get("service_id") in env.state["services"]
        return ("get_status", {"service_id": arguments["service_id"]}) if known else None


class Incident(ToolEnv):
    """Fix services that are failing: find the cause among what they depend on, and do no harm on the way.

    The world is a plain dict: services, each with a release, a cause of failure or none, and at most one other service
    that it needs. A service fails while what it needs fails. One look shows one service. A mistake can be undone: a
    rollback too many by `release`; a disk cleared or a config restored without need is a loss that stays.

    ## Tools
    `find_service`, `list_services`, `read_logs`, `get_status` read; `rollback`, `release`, `deploy`, `clear_disk`,
    `restore_config` write; `log_in`, `wait`. `list_services` is the second route of `find_service`, `deploy` of
    `rollback` and `release`.

    ## Rewards
    1 when every service runs, on the release that it should have, and nothing was lost.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    system = (
        "Fix the failing services with the tools, one call at a time. Read the logs before you act. When all is done "
        "answer Done. If it cannot be done answer Cannot."
    )
    state: Record
    fault_hooks = _Faults()

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return _tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        named = [name for chain in task.data["chains"] for name in chain["services"]]
        names = named + rng.sample([name for name in SERVICES if name not in named], 8 - len(named))
        rng.shuffle(names)
        services: Record = {}
        for name, number in zip(names, rng.sample(range(10, 100), len(names)), strict=True):
            latest = rng.randrange(5, 30)
            services[f"s{number}"] = {"name": name, "needs": "", "cause": "", "release": latest, "latest": latest}
        self.state = {"services": services, "lost": 0}
        for chain in task.data["chains"]:
            for name, needs in zip(chain["services"], chain["services"][1:], strict=False):
                self._named(name)["needs"] = needs
            last = self._named(chain["services"][-1])
            if chain["cause"] == "old":
                last["release"] -= 1
            else:
                last["cause"] = chain["cause"]

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool(alternative="list_services")
    def find_service(self, name: str) -> Json:
        """Find a service by its name."""
        for service_id, service in self.state["services"].items():
            if service["name"] == name:
                return {"name": name, "service_id": service_id}
        raise NotFound(f"no service {name}")

    @tool(alternative="find_service")
    def list_services(self) -> Json:
        """List all services."""
        return [{"name": s["name"], "service_id": service_id} for service_id, s in self.state["services"].items()]

    @tool(ids=["service_id"])
    def get_status(self, service_id: str) -> Json:
        """Read a service's state and release."""
        service = self._service(service_id)
        state = "failing" if self._fails(service) else "ok"
        return {"service_id": service_id, "state": state, "release": service["release"]}

    @tool(ids=["service_id"])
    def read_logs(self, service_id: str) -> Json:
        """Read a service's last log line."""
        service = self._service(service_id)
        if why := self._why(service):
            line = LOGS[why].format(version=service["release"], latest=service["latest"])
        elif self._fails(service):
            line = f"no answer from {service['needs']}"
        else:
            line = "all well"
        return {"service_id": service_id, "log": line}

    @tool(effect=True, alternative="deploy", ids=["service_id"])
    def rollback(self, service_id: str) -> str:
        """Go back by one release."""
        service = self._service(service_id)
        return self._set_release(service, service["release"] - 1)

    @tool(effect=True, alternative="deploy", ids=["service_id"])
    def release(self, service_id: str) -> str:
        """Go forward by one release."""
        service = self._service(service_id)
        return self._set_release(service, service["release"] + 1)

    @tool(effect=True, idempotent=True, ids=["service_id"])
    def deploy(self, service_id: str, release: int) -> str:
        """Put a service on a release by its number."""
        return self._set_release(self._service(service_id), release)

    @tool(effect=True, ids=["service_id"])
    def clear_disk(self, service_id: str) -> str:
        """Delete a service's stored files."""
        return self._cure(service_id, "disk", "cleared")

    @tool(effect=True, ids=["service_id"])
    def restore_config(self, service_id: str) -> str:
        """Put a service's config back to its default."""
        return self._cure(service_id, "config", "restored")

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- the services ----------------------------------------------------------------------------------------------

    def _service(self, service_id: str) -> Record:
        service: Record | None = self.state["services"].get(service_id)
        if service is None:
            raise NotFound(f"no service {service_id}")
        return service

    def _named(self, name: str) -> Record:
        service: Record = next(s for s in self.state["services"].values() if s["name"] == name)
        return service

    def _right(self, service: Record) -> int:
        """The release that the service should have."""
        return int(service["latest"]) - int(service["cause"] == "release")

    def _why(self, service: Record) -> str:
        """What is wrong with the service itself, or ""."""
        if service["release"] < self._right(service):
            return "old"
        if service["cause"] == "release":
            return "release" if service["release"] > self._right(service) else ""
        return str(service["cause"])

    def _fails(self, service: Record) -> bool:
        return bool(self._why(service)) or bool(service["needs"] and self._fails(self._named(service["needs"])))

    def _set_release(self, service: Record, release: int) -> str:
        if not 1 <= release <= service["latest"]:
            raise Conflict(f"releases are 1 to {service['latest']}, not {release}")
        service["release"] = release
        return f"release r{release}"

    def _cure(self, service_id: str, cause: str, done: str) -> str:
        service = self._service(service_id)
        if service["cause"] == cause:
            service["cause"] = ""
        else:
            self.state["lost"] += 1
        return done

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        services = self.state["services"].values()
        return not self.state["lost"] and all(
            not self._fails(service) and service["release"] == self._right(service) for service in services
        )

    def solve(self, task: Task) -> Solution:
        for chain in task.data["chains"]:
            name = chain["services"][0]
            while self._fails(self._named(name)):
                service_id = yield from self._find(name)
                if service_id is None:
                    yield "Cannot find it."
                    return
                log = yield "read_logs", {"service_id": service_id}
                if not log.ok:
                    yield "Cannot read the logs."
                    return
                service = self._named(name)
                why = self._why(service)
                if why in ("disk", "config"):
                    yield "clear_disk" if why == "disk" else "restore_config", {"service_id": service_id}
                elif why:
                    act = "rollback" if why == "release" else "release"
                    if self.episode.is_gone(act) or ((yield act, {"service_id": service_id}).outcome is Outcome.GONE):
                        yield "deploy", {"service_id": service_id, "release": self._right(service)}
                name = service["needs"] if not why else name
        for service in [s for s in self.state["services"].values() if s["release"] < self._right(s)]:
            service_id = yield from self._find(service["name"])  # rolled back by mistake
            if service_id is not None:
                yield "deploy", {"service_id": service_id, "release": self._right(service)}
        yield "Done."

    def _find(self, name: str) -> Generator[tuple[str, Record], ToolResult, str | None]:
        if not self.episode.is_gone("find_service"):
            found = yield "find_service", {"name": name}
            if found.outcome is not Outcome.GONE:
                return found.value["service_id"] if found.ok else None
        listed = yield "list_services", {}
        return next((s["service_id"] for s in listed.value or () if s["name"] == name), None)


def _split_of(name: str, cause: str) -> Split:
    bucket = zlib.crc32(f"{name}/{cause}".encode()) % 10
    return "test" if bucket in (0, 1) else "validation" if bucket == 2 else "train"


def _tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn. Level 1: the service itself (4 turns). 2: what it needs (6). 3: one further (8).
    4: another one next to it, rolled back by mistake (9)."""
    pairs = [(name, cause) for name in SERVICES for cause in CAUSES if _split_of(name, cause) == split]
    level = 0
    while True:
        level = level % 4 + 1
        name, cause = rng.choice(pairs)
        others = rng.sample([other for other in SERVICES if other != name], 3)
        chains = [
            {"services": [name, *others[: min(level, 3) - 1]] if level < 4 else [name, others[0]], "cause": cause}
        ]
        if level == 4:
            chains.append({"services": [others[2]], "cause": "old"})
        failing = " and ".join(chain["services"][0] for chain in chains)
        verb = "are" if level == 4 else "is"
        text = rng.choice(("{0} {1} failing. Fix it.", "Find out why {0} {1} failing, and fix it."))
        text = text.format(failing, verb)
        yield Task(
            text[0].upper() + text[1:] if text.startswith("Find") else text,
            {"chains": chains},
            seed=rng.randrange(2**31),
            kind=cause,
            level=level,
        )

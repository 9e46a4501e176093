"""The words of generated worlds: `Lexicon`, one for each split, no word in two of them; and words that are made up.

To add words: add them to a lexicon here, or give your own in a subclass: `class Mine(Worlds): lexicons = {...}`. No
name of a person or a tool is one of `orders` or `calendar`: these stay new worlds to a model that has learnt here.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..task import SPLITS

__all__ = ["ACTIONS", "LEXICONS", "Lexicon", "invented"]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words of each kind. A word is lower-case letters; where its plural is needed, it is the word and an s."""

    people: tuple[str, ...]
    """Kinds of person who own records: tenant."""
    names: tuple[str, ...]
    """Of persons."""
    records: tuple[str, ...]
    """Kinds of record: invoice."""
    things: tuple[str, ...]
    """What tells a person's records apart: sofa."""
    titles: tuple[str, ...]
    """What such a thing is called, as a parameter: subject."""
    places: tuple[str, ...]
    """Kinds of place to which a record can be linked: depot."""
    sites: tuple[str, ...]
    """Names of places."""
    verbs: tuple[tuple[str, str], ...]
    """A change of a record's state, and the state that it brings: ("freeze", "frozen")."""
    states: tuple[str, ...]
    """What a record may be in at first."""
    fields: tuple[tuple[str, tuple[str, ...]], ...]
    """What else a record holds, and the values that it may have; at least three."""
    traps: tuple[str, ...]
    """Changes that no task asks for."""
    find: tuple[str, ...]
    list: tuple[str, ...]
    browse: tuple[str, ...]
    read: tuple[str, ...]
    set: tuple[str, ...]
    edit: tuple[str, ...]
    create: tuple[str, ...]
    link: tuple[str, ...]
    approve: tuple[str, ...]
    unlock: tuple[str, ...]
    verify: tuple[str, ...]
    login: tuple[str, ...]
    wait: tuple[str, ...]
    ids: tuple[str, ...]
    """What an id is called: id."""
    states_called: tuple[str, ...]
    """What a state is called: status."""
    named: tuple[str, ...]
    """What a name is called."""
    contacts: tuple[str, ...]
    """Ends of addresses: mail.com."""
    page: tuple[str, ...]
    value: tuple[str, ...]
    field: tuple[str, ...]
    other: tuple[str, ...]
    """What the record is called to which a record is linked: parent."""
    more: tuple[str, ...]
    """What the number of the next page is called."""

    def words(self) -> frozenset[str]:
        """All of them, in lower case."""
        found: list[str] = []

        def walk(part: object) -> None:
            if isinstance(part, str):
                found.append(part.lower())
            elif isinstance(part, tuple):
                for inner in part:
                    walk(inner)

        for one in fields(self):
            walk(getattr(self, one.name))
        return frozenset(found)


def _of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, _, b in (pair.partition(":") for pair in text.split()))


def _fields(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    lines = (line.partition(":") for line in text.strip().splitlines())
    return tuple((name.strip(), _of(values)) for name, _, values in lines)


LEXICONS: dict[str, Lexicon] = {
    "train": Lexicon(
        people=_of(
            "tenant patient student farmer author sailor baker pilot dealer donor coach nurse painter trader lawyer "
            "grower visitor runner miner potter diver broker teacher plumber"
        ),
        names=_of(
            "Abel Bella Cyrus Dora Emil Faye Gina Henk Iris Jack Kurt Lola Max Nora Otto Petra Ralf Sven Tina Ursula "
            "Victor Wanda Yves Zara Anton Berta Carlo Dina Egon Flora Gerd Heidi Igor Jana Klaus Lydia Marco Nadia "
            "Orson Paula"
        ),
        records=_of(
            "invoice ticket parcel claim loan permit ballot recipe essay lease voucher scan grant warrant patent fine "
            "badge course flight cargo deposit pension statue poem harvest quote draft sample remedy contract file "
            "exam"
        ),
        things=_of(
            "sofa violin canoe saddle anchor pillow carpet trumpet wagon candle ladle barrel copper timber marble "
            "velvet cotton pepper ginger walnut cherry falcon rabbit beetle turtle salmon cactus clover maple cedar "
            "engine piston magnet mixer printer router tablet razor hammer chisel"
        ),
        titles=_of("subject object article product content matter"),
        places=_of("depot branch ward harbor garage folder cellar stall"),
        sites=_of("Alpine Bronze Cobalt Dune Ember Flint Granite Harvester Indigo Jasper Krypton Lagoon"),
        verbs=_pairs(
            "freeze:frozen release:released reject:rejected renew:renewed return:returned seal:sealed print:printed "
            "weigh:weighed transfer:transferred void:voided repair:repaired clean:cleaned pack:packed test:tested "
            "collect:collected revoke:revoked settle:settled extend:extended recall:recalled donate:donated"
        ),
        states=_of("new pending active late paid ready damaged urgent stored empty"),
        fields=_fields("""
            color: red blue green black white
            priority: low high normal extreme
            language: French German Dutch Greek Danish
            size: tiny small large huge
            city: Oslo Lima Cairo Porto Turin Quito
            carrier: truck train ship plane
            grade: poor fair good superb
            season: spring summer autumn winter
            material: steel glass paper leather
            taste: sweet sour bitter salty
            shift: morning noon evening night
            currency: euro dollar pound rupee
            """),
        traps=_of("erase scrap auction burn shred"),
        find=_of("find search query"),
        list=_of("list show all"),
        browse=_of("browse scroll pages"),
        read=_of("get read view open"),
        set=_of("mark change update"),
        edit=_of("edit modify write"),
        create=_of("create add make"),
        link=_of("link attach assign"),
        approve=_of("approve allow accept"),
        unlock=_of("unlock enable entrust"),
        verify=_of("verify check confirm"),
        login=_of("login sign_in authenticate"),
        wait=_of("pause sleep hold"),
        ids=_of("id ref key"),
        states_called=_of("status state"),
        named=_of("name who"),
        contacts=_of("post.net inbox.io letters.eu"),
        page=_of("page"),
        value=_of("value to"),
        field=_of("field property"),
        other=_of("other parent linked"),
        more=_of("next more"),
    ),
    "validation": Lexicon(
        people=_of("member citizen hunter weaver dentist porter singer jockey"),
        names=_of("Amos Bruno Celia Denis Edna Felix Gilda Homer Irma Jules Karin Leon Mabel Nestor Opal Piet"),
        records=_of("coupon diary survey pledge memo bond lesson itinerary"),
        things=_of("kayak banjo quilt goblet sickle napkin lantern spoon pebble orchid thistle badger heron lobster"),
        titles=_of("theme motif"),
        places=_of("office barn library kiosk"),
        sites=_of("Merlin Nimbus Onyx Pearl Quartz Ruby"),
        verbs=_pairs("mute:muted publish:published lock:locked split:divided polish:polished expire:expired"),
        states=_of("raw idle warm broken"),
        fields=_fields("""
            mood: happy gloomy calm angry
            fuel: diesel petrol coal gas
            pattern: plain striped dotted checked
            planet: Mars Venus Saturn Neptune
            """),
        traps=_of("forget melt"),
        find=_of("seek trace"),
        list=_of("enumerate overview"),
        browse=_of("leaf turn_over"),
        read=_of("inspect look_at"),
        set=_of("put adjust"),
        edit=_of("alter rewrite"),
        create=_of("begin initiate"),
        link=_of("connect tie"),
        approve=_of("authorize endorse"),
        unlock=_of("invite welcome"),
        verify=_of("validate prove"),
        login=_of("enter knock"),
        wait=_of("rest linger"),
        ids=_of("no tag"),
        states_called=_of("stage"),
        named=_of("moniker"),
        contacts=_of("mailbox.org"),
        page=_of("leaf_no"),
        value=_of("target"),
        field=_of("column"),
        other=_of("twin"),
        more=_of("following"),
    ),
    "test": Lexicon(
        people=_of(
            "client resident pupil captain curator hiker fisher drummer senator tailor juror florist grocer welder"
        ),
        names=_of(
            "Agnes Basil Clara Darius Elsa Franz Gloria Hektor Ilse Janus Kasper Linda Milo Naomi Oscar Prisca Rupert "
            "Selma Titus Ulla Vito Wilma Xaver Yolanda"
        ),
        records=_of(
            "bylaw subscription slip shipment appeal license mortgage prescription visa trophy manuscript "
            "reservation delivery complaint"
        ),
        things=_of(
            "harp sled lens basin curtain blanket helm anvil bucket teapot fountain tulip fern otter penguin "
            "cobra mango almond garlic nickel granule turbine pulley scanner"
        ),
        titles=_of("piece unit goods"),
        places=_of("warehouse station clinic hangar chapel shelf"),
        sites=_of("Raven Sierra Tango Umbra Vortex Willow Yonder Zephyr"),
        verbs=_pairs(
            "suspend:suspended dispatch:dispatched waive:waived restore:restored escalate:escalated archive:archived "
            "merge:merged dismantle:dismantled label:labelled postpone:postponed"
        ),
        states=_of("fresh waiting live overdue blocked complete"),
        fields=_fields("""
            colour: purple orange silver golden
            urgency: minor medium major critical
            flavor: vanilla lemon cocoa mint
            width: narrow broad slim wide
            country: Peru Kenya Norway Japan Chile
            vehicle: van tram ferry bicycle
            rating: weak decent strong superior
            fabric: silk linen wool denim
            """),
        traps=_of("destroy discard pulverize"),
        find=_of("locate lookup discover"),
        list=_of("index catalogue"),
        browse=_of("roll through"),
        read=_of("fetch describe details"),
        set=_of("replace revise"),
        edit=_of("amend patch"),
        create=_of("register issue"),
        link=_of("join bind"),
        approve=_of("clear sanction"),
        unlock=_of("entitle empower"),
        verify=_of("audit cross_examine"),
        login=_of("reconnect resume"),
        wait=_of("delay dawdle"),
        ids=_of("code number"),
        states_called=_of("phase condition"),
        named=_of("called spelled"),
        contacts=_of("courier.biz notes.info"),
        page=_of("part sheet"),
        value=_of("becomes desired"),
        field=_of("attribute entry"),
        other=_of("related origin"),
        more=_of("continue then"),
    ),
}
"""By name. The first three are those of the splits."""

ACTIONS = (
    "find", "list", "browse", "read", "set", "edit", "create", "link", "approve", "unlock", "verify", "login", "wait",
)  # fmt: skip
"""Parts of a lexicon that hold what tools do."""
_ONSETS = _of("b d f g h j k l m n p r s t v z br dr fl gr kl pl sk st tr")
_VOWELS = _of("a e i o u ai ou")
_CODAS = ("", "", "l", "m", "n", "r", "s", "k", "x", "nd")


def invented(real: Lexicon, split: str, rng: random.Random) -> Lexicon:
    """A lexicon whose nouns, names, states, verbs and values are made up for one world, and the words of tools (find,
    list) in half of the cases. A made-up word belongs to one split alone, by a hash of it."""
    made: set[str] = set()

    def word() -> str:
        while True:
            syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(2)]
            text = "".join(syllables)
            if _split_of(text) == split and text not in made:
                made.add(text)
                return text

    def some(n: int, form: Callable[[str], str] = str) -> tuple[str, ...]:
        return tuple(form(word()) for _ in range(n))

    new = replace(
        real,
        people=some(1),
        names=some(8, str.capitalize),
        records=some(1),
        things=some(14),
        titles=some(1),
        places=some(1),
        sites=some(5, str.capitalize),
        verbs=tuple((verb, f"{verb}ed") for verb in some(2)),
        states=some(3),
        fields=tuple((word(), some(4)) for _ in range(2)),
        traps=some(1),
    )
    for kind in ACTIONS:
        if rng.randrange(2):
            changed: dict[str, Any] = {kind: some(1)}
            new = replace(new, **changed)
    return new


def _split_of(word: str) -> str:
    return SPLITS[(0, 0, 0, 0, 0, 0, 0, 1, 2, 2)[zlib.crc32(word.encode()) % 10]]

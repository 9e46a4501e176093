"""The words of disguises. To add one: a line of `SYNONYMS`, or a word in `FAR`."""

from __future__ import annotations

__all__ = ["FAR", "FORMS", "SYLLABLES", "SYNONYMS", "TOOL_FRAMES", "VALUES", "WORD_FRAMES"]

_LINES = """
find: lookup search locate get query seek
search: find lookup query seek
get: fetch read load retrieve show
read: get fetch open view load
show: view display get print
list: enumerate browse index all catalog
look: view inspect check
check: verify inspect test probe
add: insert append create put
create: make new open add register
make: create build new
update: modify edit change amend
set: assign put change write apply
change: alter modify edit adjust
edit: change modify revise
write: store save put record
move: shift transfer relocate
rename: relabel retitle
delete: remove erase drop discard
remove: delete erase drop
cancel: void revoke annul abort withdraw
refund: repay reimburse payback
return: refund giveback
book: reserve schedule arrange
rebook: reassign transfer switch
schedule: plan arrange book
invite: ask call summon
assign: allot give attach
log: sign enter
in: into on
out: off away
login: signin authenticate
wait: pause sleep idle hold
send: dispatch transmit post
say: tell speak utter
echo: repeat mirror
answer: reply respond submit
ask: query request
run: execute start launch perform
restart: reboot relaunch cycle
start: begin launch open
stop: halt end quit
rollback: revert undo restore
scale: resize grow
clear: purge clean empty
release: version build
deploy: ship rollout
escalate: raise forward handover
compute: calculate evaluate work
calculate: compute evaluate
count: tally number total
convert: exchange turn transform
describe: explain detail outline
copy: duplicate clone
replace: swap substitute
test: check trial
tests: checks trials
buy: purchase order acquire
pay: settle remit
offer: propose suggest
order: purchase ticket sale request
orders: purchases tickets sales requests
customer: client buyer account patron
customers: clients buyers accounts patrons
person: user contact member individual
people: users contacts members
passenger: traveller guest rider
user: member account person
owner: holder keeper
name: title label handle
email: mail address
item: product article good thing
items: products articles goods
product: item article good
payment: charge transaction settlement
amount: sum total value
price: cost rate charge
status: state condition phase stage
state: status condition
address: location destination place
date: day
day: date
time: moment hour
start_time: begin
end: finish stop
city: town place
country: nation land
place: site spot location
room: space hall venue
meeting: event appointment session
meetings: events appointments sessions
topic: subject theme title
subject: topic theme
ticket: case issue request
tickets: cases issues requests
priority: urgency importance rank
severity: gravity level
service: app component system
services: apps components systems
server: host machine node
instance: replica copy
error: failure problem fault
message: detail text reason
hint: advice tip suggestion
page: part chunk
more: next rest
booking: reservation
flight: trip connection
seat: chair position
file: document paper
files: documents papers
folder: directory drawer
path: location route
line: row entry
lines: rows entries
text: content body words
content: text body
word: term token
number: index no
value: amount figure quantity
key: code tag
id: ref number code no
ids: refs numbers codes
table: sheet grid
column: field attribute
columns: fields attributes
row: record entry
rows: records entries
query: request statement
note: remark comment memo
notes: remarks comments memos
reason: cause why
result: outcome answer
size: extent volume
colour: shade tint hue
color: shade tint hue
good: article ware
goods: articles wares
source: origin from_
target: goal to_
from: source origin
to: target dest
function: routine method procedure
code: program script
module: unit package
expression: formula term
unit: measure
currency: money coinage
quantity: amount count
type: kind class category
kind: type sort
level: grade tier
old: former previous
new: fresh latest
first: initial
last: final
total: sum overall
average: mean
"""

SYNONYMS: dict[str, tuple[str, ...]] = {
    word: tuple(others.split()) for word, others in (line.split(":") for line in _LINES.strip().splitlines())
}
"""Word -> words in its place."""

VALUES: dict[str, tuple[str, ...]] = {
    "open": ("pending", "active"),
    "shipped": ("sent", "dispatched"),
    "cancelled": ("void", "revoked"),
    "refunded": ("repaid", "reimbursed"),
    "low": ("minor",),
    "normal": ("regular", "standard"),
    "high": ("major",),
    "urgent": ("pressing", "critical"),
}
"""Enumerated value -> values in its place: its sense is all that an agent has of it."""

FAR = tuple(
    """anchor apron arrow barley basil beacon beetle bishop blanket bonnet bramble bridle bucket butter cactus candle
    canoe carpet cedar cello chapel cherry chimney clover cobalt comet copper coral cradle cricket crystal
    curtain dagger daisy dragon drum eagle ember falcon feather fiddle flute fossil garlic ginger glacier goblet
    granite gravel hammer harbor harvest hazel helmet heron honey hornet igloo indigo island ivory jacket
    jasmine juniper kettle ladder lagoon lantern lemon lily lobster lotus maple marble meadow melon mitten
    monsoon mosaic mustard nectar needle nutmeg oasis olive onyx orchid otter oyster paddle pagoda panther
    parsley pebble pepper pigeon pillow pirate planet plum pollen poplar prairie pumpkin quartz rabbit raven
    ribbon saddle saffron sandal satin scarf sequin shovel silver sparrow spruce sugar summit tulip tundra
    turtle umbrella valley velvet violin walnut whisker willow winter yarrow zebra zenith""".split()
)
"""Words of other domains: kitchens, gardens, the sea, music."""

SYLLABLES = tuple(
    """ba be bo da di do fa fe fo ga ge gu ha hi jo ka ke ko la li lo ma mi mu na ne no pa pe po ra ri ro sa se so ta
    te tu va vi vo wa we xa xi yo za ze zu""".split()
)
"""Of random words."""

WORD_FRAMES = ("{}_value", "the_{}", "{}_arg", "in_{}", "{}_field", "my_{}")
"""For names that no synonym is known of."""

TOOL_FRAMES = ("do_{}", "{}_now", "api_{}", "run_{}")
"""The same for tools."""

FORMS = ("TK-", "ref", "N", "id_", "X-", "rec", "K", "no-", "Q", "E_", "doc", "J-", "V", "U-", "obj_", "y", "W", "G-")
"""What may be before the digits of an id."""

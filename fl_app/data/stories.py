"""The wording of word problems: kinds of story, and their phrases for each operation.

Variants are separated by "|". In them ``{n}`` is the number, ``{name}`` a person, ``{items}`` what
is counted. The pools share no phrase for an operation. Some federated phrases contain a word that
names the operation in the pretraining pool ("times", "equal", "more"). Most do not: a pretrained
model has to learn what they mean.
"""

from dataclasses import dataclass

OPERATIONS = ("+", "-", "*", "/")


@dataclass(frozen=True)
class Kind:
    """Wording of one kind of story.

    Attributes
    ----------
    name : str
        What rows call it.
    items : tuple of str
        Things that can be counted.
    openings, questions : tuple of str
        First and last sentences.
    events : dict
        Operation -> its phrases.
    """

    name: str
    items: tuple[str, ...]
    openings: tuple[str, ...]
    events: dict[str, tuple[str, ...]]
    questions: tuple[str, ...]


def _kind(name: str, items: str, lines: str) -> Kind:
    """Return a kind from lines of variants: opening, one per operation, question."""
    opening, *events, question = (tuple(line.strip().split("|")) for line in lines.splitlines())
    return Kind(
        name, tuple(items.split()), opening, dict(zip(OPERATIONS, events, strict=True)), question
    )


PRETRAINING = (
    _kind(
        "toys",
        "marbles cards stickers dolls",
        """{name} has {n} {items}.|There are {n} {items} in the box of {name}.
        {name} gets {n} more.|A friend gives {name} {n}.|{n} are added.
        {name} loses {n}.|{name} gives away {n}.|{n} are taken away.
        Then {name} has {n} times as many.|The number is multiplied by {n}.
        They are split into {n} equal parts and {name} keeps one.|The number is divided by {n}.
        How many {items} does {name} have now?|How many {items} are there?""",
    ),
    _kind(
        "shop",
        "pens books lamps chairs",
        """A shop has {n} {items}.|{name} sells {items} and has {n} of them.
        {name} buys {n} more.|A truck brings {n}.|{n} more arrive.
        {name} sells {n}.|{n} are sold.|{n} are broken.
        The stock becomes {n} times as big.|{name} orders until there are {n} times as many.
        They are put on {n} shelves, the same on each; take one shelf.|Only one in {n} is left.
        How many {items} are left?|How many {items} does the shop have now?""",
    ),
    _kind(
        "kitchen",
        "cakes rolls pies cookies",
        """{name} bakes {n} {items}.|On the table are {n} {items}.
        {name} bakes {n} more.|{n} come out of the oven.|{name} makes another {n}.
        {name} eats {n}.|{n} are eaten.|{n} fall on the floor.
        {name} makes that for {n} days, the same every day.|That is made {n} times.
        {n} friends get equal shares; count one share.|{n} plates get the same; count one.
        How many {items} is that?|How many {items} are there in the end?""",
    ),
    _kind(
        "bus",
        "people children women men",
        """A bus carries {n} {items}.|In a bus sit {n} {items}.
        {n} get on.|At a stop {n} more enter.|{n} come in.
        {n} get off.|At a stop {n} leave.|{n} go out.
        A train carries {n} times as many.|There are {n} such buses.
        They change into {n} cars of the same size; look at one car.|One in {n} stays.
        How many {items} are in it?|How many {items} does it carry now?""",
    ),
    _kind(
        "money",
        "dollars coins euros",
        """{name} has {n} {items}.|In the purse of {name} are {n} {items}.
        {name} earns {n}.|{name} finds {n}.|{name} wins {n}.
        {name} spends {n}.|{name} pays {n}.|{n} are stolen.
        {name} makes {n} times that much.|The money is multiplied by {n}.
        {n} children get equal shares; what does one get?|It is divided by {n}.
        How many {items} does {name} have now?|How many {items} is that?""",
    ),
    _kind(
        "farm",
        "cows hens sheep pigs",
        """A farm has {n} {items}.|{name} feeds {n} {items}.
        {n} are born.|{name} buys {n} more at the market.|{n} come home.
        {n} die.|{name} sells {n} at the market.|{n} run away.
        After a year there are {n} times as many.|Another farm has {n} times as many; count those.
        {n} stables hold the same number; count one stable.|One in {n} is kept.
        How many {items} are there?|How many {items} does the farm have now?""",
    ),
    _kind(
        "class",
        "pupils girls boys students",
        """In a class are {n} {items}.|{name} teaches {n} {items}.
        {n} join.|{n} new ones come.|{n} from another class are added.
        {n} are ill.|{n} go home.|{n} leave the class.
        The school has {n} times as many.|There are {n} classes like this.
        They make {n} equal groups; look at one group.|Only one in {n} passes.
        How many {items} are there now?|How many {items} is that?""",
    ),
    _kind(
        "road",
        "miles meters steps",
        """{name} walks {n} {items}.|A road is {n} {items} long.
        Then it is {n} more.|{name} walks {n} more.|{n} are added.
        {name} goes back {n}.|{n} are taken off.|It gets {n} shorter.
        {name} does that {n} times.|It becomes {n} times as long.
        It is cut into {n} equal parts; take one.|{name} does it in {n} equal days; take one.
        How many {items} is that?|How many {items} is it now?""",
    ),
)
FEDERATED = (
    _kind(
        "pond",
        "guppies tetras newts",
        """{name} counted {n} {items} below the lilies.|Beneath the ice swam {n} {items}.
        {n} hatched.
        A heron snatched {n}.
        After spawning {n} times as many swam.
        Nets held {n} equal shoals, {name} checked a shoal.
        Count the {items} please.|What was the final tally of {items}?""",
    ),
    _kind(
        "library",
        "novels atlases comics",
        """Our archive catalogued {n} {items}.|{name} curates {n} {items}.
        Readers returned {n} more.
        Readers borrowed {n}.
        Each was duplicated to make {n} copies.
        {n} branches obtained identical portions, pick any.
        State the number of {items}.|What does the inventory of {items} show?""",
    ),
    _kind(
        "orchard",
        "plums quinces figs",
        """Baskets held {n} {items}.|{name} harvested {n} {items}.
        {name} plucked {n} further.
        {name} loses {n} to wasps.
        {n} neighbours gathered likewise.
        Scales balanced {n} equal crates, {name} weighed a crate.
        Give the amount of {items}.|What quantity of {items} remained?""",
    ),
    _kind(
        "harbour",
        "barges trawlers yachts",
        """At anchor lay {n} {items}.|{name} moored {n} {items}.
        A convoy of {n} more docked.
        {n} sailed.
        Sister harbours berth {n} times as many.
        {n} piers berth them uniformly, {name} inspects a pier.
        Report the {items}.|Which number of {items} was logged?""",
    ),
)
UNSEEN = (
    _kind(
        "sky",
        "kites balloons drones",
        """{name} spotted {n} {items} aloft.|Overhead drifted {n} {items}.
        {n} soared up.|{name} launched {n} more.
        {n} plummeted.|Gusts ripped {n}.
        Each towed up a string of {n}.|A festival flew {n} times as many.
        {n} winds dispersed them, {name} followed a flock.|Clouds hid {n} equal flocks.
        Determine the {items}.|What crowd of {items} hovered?""",
    ),
    _kind(
        "workshop",
        "cogs valves springs",
        """{name} forged {n} {items}.|A bench displayed {n} {items}.
        {name} assembled {n}.|{n} more were welded.
        {n} rusted.|{name} scrapped {n}.
        An engine demands {n} for each.|Robots welded {n} times as many.
        {n} engines consumed matching sets, {name} tested a set.|Engines consumed {n} equal sets.
        Work out the {items}.|What supply of {items} exists?""",
    ),
)

NAMES = {
    "pretraining": ("Anna", "Ben", "Carl", "Dora", "Emma", "Fred", "Gina", "Hans", "Ida", "John"),
    "federated": ("Aiko", "Bo", "Chidi", "Dilan", "Esra", "Femi", "Goran", "Hila", "Iker", "Juno"),
}

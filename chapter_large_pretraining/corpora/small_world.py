"""A small world: simple English whose truth is known, made in bulk.

Words and templates come first. The slots of a template are filled for all
its sentences at once: an entry of a word class is a row of token ids, and a
scene has, for each slot, the number of an entry for every sentence.
"""

import dataclasses
import re
import zlib
from itertools import chain

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIAL_TOKENS = ['<pad>', '<bos>', '<eos>', '<mask>', '<sep>']
BOS, MASK, SEP = 1, 3, 4
SPLITS = ['valid', 'test', 'train']
SIDES = ['left', 'right', 'none']

# ---- Words, the most frequent first; `_` joins the words of one entry ----

WOMEN = """anna rose maria violet emma june clara lily laura amber olivia may
florence sophie ivy julia sydney nora jasmine helen april daisy alice olive
eva georgia martha ruby lucy heather sarah pearl irene holly elena grace mary
iris carol susan diana ruth linda joan nina paula vera dora tina ida"""
MEN = """ben tom peter austin paul david max jordan leo oscar felix simon
martin henry karl adam victor jack daniel lincoln eric george hugo ivan john
lucas mark frank noah otto philip ralph samuel theo walter aaron bruno chris
dennis edgar fred gavin harry isaac james kevin louis mike nathan"""
SURNAMES = """berg baker green smith cook brown london mason white jones
taylor york black fisher wood miller rose grey stone king hall potter hansen
carter glass garcia lopez novak bishop silva rossi weber keller moreau dubois
kim chen wang tanaka sato patel singh khan ali cohen levy ivanov popov larsen
olsen nilsson virtanen kowalski horvat nagy costa santos romero vega cruz"""
PLACES = """paris london new_york berlin rome cape_town vienna florence madrid
rio_de_janeiro oslo sydney lima los_angeles cairo austin tokyo mexico_city
lisbon san_francisco athens lincoln dublin hong_kong prague new_orleans warsaw
buenos_aires york budapest new_delhi nairobi kuala_lumpur boston tel_aviv
chicago addis_ababa munich santa_fe geneva las_vegas zurich san_diego milan
abu_dhabi naples panama_city seville salt_lake_city porto brussels helsinki
stockholm copenhagen amsterdam edinburgh toronto montreal havana bogota
santiago istanbul mumbai singapore manila seoul"""
COLOURS = """red blue green white dark_red black yellow pale_blue brown grey
light_green pink orange dark_blue violet purple light_blue olive pale_yellow
amber silver dark_green rose golden beige bright_red turquoise cream"""
PET_COLOURS = 'black white brown grey golden cream'
SIMPLE = {
    'job': """teacher nurse baker doctor bus_driver farmer cook lawyer pilot
    police_officer mason engineer painter taxi_driver judge gardener dentist
    fire_fighter smith plumber lorry_driver fisher librarian carpenter miller
    social_worker butcher architect potter chemist shop_assistant electrician
    florist scientist train_driver journalist hairdresser poet bishop
    translator postman mechanic""",
    'size': 'small big old new large tiny huge little',
    'month': """may june april july march august october january september
    december february november""",
    'day': 'saturday sunday friday monday thursday wednesday tuesday',
    'season': 'summer winter spring autumn',
    'weather': """cold sunny rainy warm hot windy foggy cloudy snowy stormy
    icy""",
    'number': 'two three four five six seven ten eight nine twelve',
    'adv': """really quite so truly rather simply clearly certainly indeed
    always definitely obviously genuinely undoubtedly""",
}

# Adjectives for everything (first row) and for one kind of noun.
GOOD = {
    'any': 'good wonderful great nice excellent lovely superb fantastic',
    'food': 'delicious tasty',
    'person': 'friendly polite',
    'place': 'cosy clean',
    'device': 'reliable fast',
    'story': 'gripping moving',
    'event': 'exciting thrilling',
    'look': 'elegant stylish',
    'plant': 'healthy lush',
    'animal': 'playful gentle',
}
BAD = {
    'any': """bad awful terrible horrible dreadful nasty disappointing
    appalling""",
    'food': 'bland stale',
    'person': 'rude arrogant',
    'place': 'filthy dirty',
    'device': 'faulty slow',
    'story': 'predictable silly',
    'event': 'boring dull',
    'look': 'ugly shabby',
    'plant': 'withered sickly',
    'animal': 'vicious aggressive',
}
KINDS = list(GOOD)[1:]
VERBS = [
    'hate dislike detest',
    'love like enjoy',
]

# First line: tags (see TEMPLATES). Then kind, general noun and the things;
# kinds and parts; what people did with the things; what these are made of.
# The first OWNED topics have things to own, the first PAINTED of any colour.
OWNED, PAINTED = 7, 6
TOPICS = {
    'vehicle': """own portable made
    device vehicle: car boat bike van truck motorbike scooter tractor
    device: engine brake gearbox radio heater horn; look: roof seat
    person: mechanic; did: bought repaired washed tested
    of: steel aluminium plastic metal""",
    'gadget': """own portable made
    device gadget: phone computer camera laptop watch printer tablet keyboard
    device: screen battery charger speaker microphone button; look: case
    person: technician; did: bought ordered repaired used
    of: plastic metal aluminium glass""",
    'clothes': """own portable made
    look garment: coat dress shirt hat scarf jacket skirt sweater
    look: collar sleeve pocket pattern lining belt hood; person: tailor
    did: bought ordered wore washed
    of: wool cotton silk leather linen velvet""",
    'house': """own made
    place building: house cottage villa cabin bungalow hut farmhouse barn
    place: kitchen bathroom bedroom cellar attic garage; look: roof
    person: landlord neighbour; did: bought cleaned inherited left
    of: wood stone brick concrete""",
    'furniture': """own portable made
    look piece_of_furniture: chair table lamp sofa desk cupboard shelf stool
    look: design shape surface frame finish; device: drawer lock
    person: salesman; did: bought ordered cleaned inherited
    of: wood oak pine steel glass bamboo""",
    'flower': """own portable
    plant plant: rose violet tulip lily jasmine orchid daisy ivy
    plant: leaf blossom stem bud root; look: pot vase; person: gardener
    did: bought planted watered picked""",
    'pet': """own portable
    animal animal: dog cat horse rabbit parrot pony puppy kitten
    look: fur collar tail leash; place: basket cage stable
    person: vet trainer; did: bought adopted found fed""",
    'restaurant': """visit
    place place: restaurant cafe bistro bakery pizzeria diner pub steakhouse
    food: soup fish salad dessert steak cheese coffee cake orange
    person: waiter cook waitress; place: terrace kitchen
    did: visited chose found left""",
    'hotel': """visit
    place place: hotel hostel inn motel resort guesthouse lodge chalet
    place: room lobby bathroom balcony suite; food: breakfast dinner
    person: receptionist porter; device: shower lift
    did: visited booked chose left""",
    'school': """visit
    place place: school college academy university kindergarten institute
    person: teacher headmaster tutor; place: classroom library canteen
    event: lesson course; food: lunch; did: visited attended chose left""",
    'film': """event
    story story: film movie comedy thriller drama cartoon documentary western
    story: plot ending script dialogue scene
    person: actor director heroine; event: soundtrack
    did: saw watched reviewed""",
    'book': """event
    story story: book novel poem biography tale diary essay fable
    story: chapter ending plot preface title; person: author hero narrator
    look: cover; did: read finished bought reviewed""",
    'concert': """event
    event event: concert opera musical festival ballet recital show gig
    person: singer pianist conductor dancer; event: song finale
    place: hall foyer; look: stage; did: attended visited saw""",
    'trip': """event
    event event: trip tour cruise holiday flight hike voyage excursion
    person: guide driver captain; place: cabin beach camp; food: lunch
    event: evening; did: planned booked took""",
    'match': """event
    event event: match game race tournament contest derby
    person: coach referee goalkeeper captain; place: stadium stand
    food: sausage; event: start finish; did: saw watched attended""",
}

# ---- Templates: one a line; the key names a role, and whom it is for ----

TEMPLATES = {
    'intro own': """
    {who} {did} a {colour} {thing} in {place} .
    {who} {did} a {size} {colour} {thing} in {month} .
    {who} has a {colour} {thing} .
    {who} has a {colour} {thing} and a {colour3} {thing3} .
    {who} has a {colour} {thing} and {who2} has a {colour2} {thing2} .
    {who} , a {job} from {place2} , owns a {colour} {thing} .
    last {day} {who} {did} a {colour} {thing} .""",
    'intro visit': """
    {who} {did} a {thing} in {place} .
    last {day} {who} and {who2} went to a {thing} in {place} .
    in {month} {who} {did} a {size} {thing} in {place} .
    {who} , a {job} from {place2} , went to a {thing} in {place} .
    {who} , who has a {colour3} {thing3} , {did} a {thing} in {place} .""",
    'intro event': """
    {who} {did} a {thing} in {place} .
    last {day} {who} {did} a {thing} with {who2} .
    in {month} {who} {did} a {thing} in {place} .
    {who} , a {job} from {place2} , {did} a {thing} in {season} .
    {who} , who has a {colour3} {thing3} , {did} a {thing} in {place} .""",
    'fact any': """
    {who} lives in {place2} .
    {who} is a {job} .
    {she} works as a {job} in {place2} .
    {name2} is a {job2} from {place3} .
    {she} met {who2} in {place} .
    {who2} came from {place3} in {month2} .
    {her} friend {who2} lives in {place3} .
    {she} told {name2} about the {thing} .
    {name2} asked {name} about the {thing} .
    it was a {weather} {day} in {month} .
    {name} has a {colour3} {thing3} .
    {her} {thing3} is {colour3} .
    {who2} has a {colour2} {thing2} .
    the {thing2} of {name2} is {colour2} .
    {name} and {name2} arrived on {day} .
    {she} stayed in {place} for {number} days .
    {name} may come back in {month3} .
    in {season} {she} will be in {place} again .""",
    'fact own': """
    the {thing} is {colour} .
    the {sort} is {colour} .
    {her} {thing} is {colour} .
    {her} {sort} is a {colour} {thing} .
    the {colour} {thing} belongs to {name} .
    the {thing} of {name} is {colour} .
    {name} showed {name2} the {colour} {thing} .""",
    'fact portable': """
    {she} came to {place} with the {colour} {thing} .
    {she} has had the {colour} {thing} for {number} years .""",
    'fact made': """
    the {colour} {thing} is made of {material} .
    {her} {thing} is made of {material} .""",
    'fact visit': """
    the {thing} is in {place} .
    {name} was in the {thing} in {place} with {name2} .
    {name} and {name2} went to the {thing} on {day} .
    the {sort} was closed on {day} .
    {name2} went there by train .""",
    'fact event': """
    {name} {did} the {thing} in {place} .
    {name2} {did2} the {thing} in {season} .
    {name} heard about the {thing} on {day} .
    {she} wrote to {name2} about the {sort} .""",
    # Opinions: clauses, and sentences of them. {adj} fits a part, {fit} the
    # thing. In a contrast {main} counts, {minor} says the opposite.
    'plain any': """
    the {part} is {adv} {adj}
    the {part} was {adv} {adj}
    the {part} is {adj}
    the {thing} is {adv} {fit}
    the {thing} was {adv} {fit}
    it is a {fit} {thing}
    what a {fit} {thing}
    I {love} the {thing}
    I {loved} the {thing}
    we {love} this {thing}
    {who} {loves} the {thing}
    {she} {loved} the {thing}
    everybody {loves} the {thing}
    the {part} is {adj} and {adj2}
    the {part} was {adj} and {adj2}
    it is a {fit} , {fit2} {thing}
    I find the {thing} {fit} and {fit2}
    {who} {loves} this {fit} {thing}
    I {love} the {adj} {part}
    {she} {loved} the {fit} {thing}
    we {loved} the {fit} , {fit2} {thing}
    I find the {part} {adj}
    {name} called the {part} {adj}
    {who2} finds the {thing} {fit}""",
    'plain own': """
    I {love} this {colour} {thing}
    {name} {loves} the {colour} {thing}
    {she} {loves} the {colour} {thing}
    the {colour} {thing} is {adv} {fit}""",
    'plain visit': 'the {part} in this {thing} is {adj}',
    'plain event': 'this {thing} has a {adj} {part}',
    'negated any': """
    the {part} is not {adj}
    the {part} was not at all {adj}
    the {part} is far from {adj}
    the {part} was hardly {adj}
    the {part} is never {adj}
    the {part} was by no means {adj}
    the {part} is anything but {adj}
    nobody would call the {part} {adj}
    {name} did not find the {part} {adj}
    I cannot call the {part} {adj}
    the {thing} is not {fit}
    the {thing} was anything but {fit}
    this is not a {fit} {thing}
    I do not {love} the {thing}
    we did not {love} this {thing}
    I never {loved} the {thing}
    {who} does not {love} the {thing}
    {she} never {loved} the {thing}
    nobody {loves} the {thing}
    no one {loves} the {thing}
    neither {name} nor {name2} {loves} the {thing}""",
    'negated own': """
    I do not {love} this {colour} {thing}
    {she} does not {love} the {colour} {thing}
    the {colour} {thing} is not {fit}""",
    'alone any': '{main} .',
    'contrast any': """
    {minor} , but {main} .
    although {minor} , {main} .
    even though {minor} , {main} .
    {main} , although {minor} .
    {main} , even though {minor} .""",
    # Facts, their order, and questions with the slots that answer them.
    'state place': """
    {who} lives in {place} .
    {place} is the home of {who} .
    {who} has a flat in {place} .""",
    'state job': """
    {who} works as a {job} .
    {who} earns a living as a {job} .""",
    'state month': """
    {who} arrived in {month} .
    it was {month} when {who} arrived .""",
    'state colour': """
    the {thing} is {colour} .
    there is a {colour} {thing} here .
    I can see a {colour} {thing} .""",
    'state owner': """
    {who} has a {colour} {thing} .
    the {colour} {thing} belongs to {who} .""",
    'context any': """
    {fact} {fact2}
    {fact2} {fact}
    {fact} {more} {fact2}
    {fact2} {more} {fact}
    {more} {fact} {fact2}
    {fact2} {fact} {more}
    {fact3} {fact} {fact2}
    {fact2} {fact3} {fact}
    {fact} {fact2} {more} {fact3}
    {fact2} {more} {fact} {fact3}
    {fact3} {fact2} {fact} {more}
    {more} {fact2} {fact3} {fact}""",
    'ask place': """
    where does {who} live ? -> place
    where is the home of {who} ? -> place
    who lives in {place} ? -> who
    who has a home in {place} ? -> who""",
    'ask job': """
    what is the job of {who} ? -> job
    what does {who} work as ? -> job
    who works as a {job} ? -> who
    who is a {job} ? -> who""",
    'ask month': """
    when did {who} arrive ? -> month
    in what month did {who} come ? -> month
    who arrived in {month} ? -> who""",
    'ask colour': """
    what colour is the {thing} ? -> colour
    what is {colour} ? -> thing
    which thing is {colour} ? -> thing""",
    'ask owner': """
    who has a {colour} {thing} ? -> who
    who owns the {thing} ? -> who
    what does {who} have ? -> colour thing
    what colour is the {thing} of {who} ? -> colour""",
}
# The kinds of facts; those of the first three are about people.
FAMILIES = ['place', 'job', 'month', 'colour', 'owner']

# ---- From words and templates to matrices of token ids ----

TAGS = {
    'O': '',
    'person': 'who name',
    'place': 'place',
    'thing': 'thing sort',
    'part': 'part',
    'colour': 'colour',
    'job': 'job',
    'material': 'material',
    'time': 'month day season',
    'opinion': 'adj fit love loves loved',
}
# Slots that are forms of another one; slots with the words of another one.
FORM_OF = {'name': 'who', 'she': 'who', 'her': 'who', 'sort': 'thing'}
FORM_OF |= {'love': 'verb', 'loves': 'verb', 'loved': 'verb'}
CLASS_OF = {'fit': 'adj', 'flaw': 'part'}
TEXTS = ['main', 'minor', 'fact', 'more']  # filled with text, not words
VOWEL = re.compile('(?!univ)[aeiou]')
SALT = 0  # of the hashes, so that 'I love this red car .' is in train
SLOT = 1 << 16  # a token in a text is its id + SLOT * the slot it stems from


def _topic(text):
    """A topic's tags, kind, general noun, parts' kinds, and other words."""
    tags, things, *rows = re.split('[;\n]', text)
    head, things = things.split(':')
    fields = {
        name.strip(): words.split()
        for name, words in (row.split(':') for row in rows)
    }
    topic = {'tags': tags.split(), 'thing': things.split()}
    topic['kind'], topic['sort'] = head.split()
    topic['did'] = fields.pop('did')
    topic['material'] = fields.pop('of', ['wood'])
    topic['part'] = {
        noun: kind for kind, nouns in fields.items() for noun in nouns
    }
    return topic


class _Words:
    """A word class: its entries, and how often each group uses them.

    A group is a list of lists that share its draws evenly; in a list the
    weight of rank r = 0, 1, ... is 1 / (r + 1). With `hide`, the first, the
    third and so on of every list are hidden.
    """

    def __init__(self, groups, hide=False):
        lists = chain.from_iterable(chain.from_iterable(groups))
        self.entries = list(dict.fromkeys(lists))
        index = {entry: i for i, entry in enumerate(self.entries)}
        self.weights = np.zeros((len(groups), len(index)))
        self.hidden = np.zeros(len(index), bool)
        for row, group in zip(self.weights, groups, strict=True):
            for entries in group:
                at = [index[entry] for entry in entries]
                weights = 1 / (np.arange(len(at)) + 1)
                row[at] += weights / weights.sum() / len(group)
                self.hidden[at[::2]] = hide
        ends = [entry.split('_')[-1] for entry in self.entries]
        self.ends = np.unique(ends, return_inverse=True)[1]

    def draw(self, rng, group, shown=False, taken=()):
        """Numbers of entries for an array of groups.

        With `shown` none is hidden; none ends like those in `taken`.
        """
        weights = self.weights * ~(self.hidden & shown)
        steps = weights.cumsum(1)
        steps = steps / steps[:, -1:] + np.arange(len(steps))[:, None]
        at = np.searchsorted(steps.ravel(), group + rng.random(len(group)))
        at -= group * len(self.entries)
        clash = np.zeros(len(at), bool)
        for other in taken:
            clash |= self.ends[at] == self.ends[other]
        if clash.any():
            others = [other[clash] for other in taken]
            at[clash] = self.draw(rng, group[clash], shown, others)
        return at


class _People(_Words):
    """First names, half of the time with a surname."""

    def __init__(self):
        first = _Words([[WOMEN.split(), MEN.split()]], hide=True)
        last = _Words([[[''], SURNAMES.split()]], hide=True)
        last.hidden[0] = False  # no surname
        self.entries = [
            f'{a}_{b}'.strip('_') for a in first.entries for b in last.entries
        ]
        self.weights = (first.weights.T * last.weights).reshape(1, -1)
        self.hidden = (first.hidden[:, None] | last.hidden).ravel()
        self.ends = np.arange(len(self.entries)) // len(last.entries)


def _stream(name, seed):
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def _mix(x):
    """A hash of 64-bit numbers in which every bit counts."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(ids):
    """One 64-bit number for each row of ids, whatever the padding."""
    value = np.full(len(ids), SALT, np.uint64)
    for column in ids.T.astype(np.uint64):
        mixed = _mix(value * np.uint64(31) + column + np.uint64(1))
        value = np.where(column > 0, mixed, value)
    return value


def _in_split(hashes, split):
    """Which texts belong to train (14 of 16), valid or test (1 each)."""
    part = hashes >> np.uint64(60)
    return part > 1 if split == 'train' else part == SPLITS.index(split)


def _squeeze(ids):
    """The rows of ids with their zeros at the end."""
    order = np.argsort(ids == 0, axis=1, kind='stable')
    ids = np.take_along_axis(ids, order, 1)
    return ids[:, : (ids > 0).sum(1).max(initial=0)]


def _stack(matrices, width, pad=0):
    """Rows of several matrices as one tensor, padded or cut to a width."""
    out = np.full((sum(map(len, matrices)), width), pad)
    for rows, matrix in zip(
        np.split(out, np.cumsum([len(m) for m in matrices])[:-1]),
        matrices,
        strict=True,
    ):
        rows[:, : matrix.shape[1]] = matrix[:, :width]
    return torch.from_numpy(out)


def join(A, B=None):
    """<bos> A <sep>, or <bos> A <sep> B <sep>, from padded rows of ids.

    Takes LongTensors (n, width). Returns LongTensors X (n, L), segments
    (n, L), 1 for B and the <sep> after it, and valid_lens (n,).
    """
    bos, sep = A.new_full((len(A), 1), BOS), A.new_full((len(A), 1), SEP)
    X = torch.cat([bos, A, sep] + ([] if B is None else [B, sep]), 1)
    segments = torch.zeros_like(X)
    segments[:, A.shape[1] + 2 :] = 1
    valid_lens = (X > 0).sum(1)
    order = torch.argsort((X == 0).int(), dim=1, stable=True)
    order = order[:, : int(valid_lens.max())]
    X = X.gather(1, order)
    return X, segments.gather(1, order) * (X > 0), valid_lens


@dataclasses.dataclass(frozen=True)
class Examples:
    """Token ids X (n, L), segments (n, L), valid_lens (n,) and labels."""

    X: torch.Tensor
    segments: torch.Tensor
    valid_lens: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        """The examples of a slice or of a tensor of indices."""
        return Examples(*(field[index] for field in vars(self).values()))


@dataclasses.dataclass(frozen=True)
class Documents:
    """Sentences (num_sentences, L) and their documents (num_sentences,).

    `polarity` (0 or 1) and `topic` are (num_docs,).
    """

    sentences: torch.Tensor
    doc: torch.Tensor
    polarity: torch.Tensor
    topic: torch.Tensor

    def halves(self):
        """The first and the second half of each document's sentences.

        Two LongTensors (num_docs, L1) and (num_docs, L2), padded with 0. Of
        an odd number of sentences the second half has one more.
        """
        counts = torch.bincount(self.doc)
        starts = counts.cumsum(0) - counts
        index = torch.arange(len(self.doc)) - starts[self.doc]
        half = 2 * self.doc + (index >= counts[self.doc] // 2)
        row = half.repeat_interleave((self.sentences > 0).sum(1))
        lengths = torch.bincount(row)
        starts = lengths.cumsum(0) - lengths
        texts = row.new_zeros(len(lengths), int(lengths.max()))
        index = torch.arange(len(row)) - starts[row]
        texts[row, index] = self.sentences[self.sentences > 0]
        return tuple(texts[i::2, : lengths[i::2].max()] for i in (0, 1))


class SmallWorld:
    """Simple English prose, true and labelled by construction.

    `words` is the vocabulary, SPECIAL_TOKENS first; `polarity` (LongTensor)
    is 1 or -1 for the words of opinions; `shown` (BoolTensor) is False for
    those that no labelled training text has; `tags` are the tags' names.

    The rules: an opinion is about a thing or a part of it. A negation turns
    it around; of two clauses with "but" or "although" the one that is not
    conceded counts. In one document or context a person has one home and one
    job, and a thing has one colour.

    A sentence (a pair: both together) belongs to the training, validation or
    test part by its hash. Equal seeds give equal results.
    """

    def __init__(self):
        self._topics = [_topic(text) for text in TOPICS.values()]
        self._make_classes()
        self._read_templates()
        self._make_vocabulary()
        self._tokenizer = Tokenizer(models.WordLevel(self._index))
        self._tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self._tokenizer.enable_padding()

    def _make_classes(self):
        colours = [[[COLOURS.split()]], [[PET_COLOURS.split()]]]
        adjectives = [
            [words['any'].split(), words['any'].split(), words[kind].split()]
            for words in (BAD, GOOD)
            for kind in KINDS
        ]
        self._classes = {
            'who': _People(),
            'place': _Words([[PLACES.split()]], hide=True),
            'adj': _Words(adjectives, hide=True),
            'verb': _Words([[verbs.split()] for verbs in VERBS], hide=True),
            'colour': _Words(
                [c for name in TOPICS for c in colours[name == 'pet']]
            ),
        }
        for name in ('thing', 'part', 'did', 'material'):
            groups = [[list(topic[name])] for topic in self._topics]
            self._classes[name] = _Words(groups)
        for name, text in SIMPLE.items():
            self._classes[name] = _Words([[text.split()]])
        kinds = {}
        for topic in self._topics:
            kinds |= topic['part']
        parts = [kinds[noun] for noun in self._classes['part'].entries]
        things = [topic['kind'] for topic in self._topics]
        self._part_kind = np.array([KINDS.index(kind) for kind in parts])
        self._thing_kind = np.array([KINDS.index(kind) for kind in things])

    def _class(self, slot):
        name = FORM_OF.get(slot, slot)
        return self._classes[CLASS_OF.get(name, name)]

    def _read_templates(self):
        """Templates as lists of words and (slot, digit), and menus of them.

        A menu holds a role's templates for each topic (or family).
        """
        self._templates, answers, roles = [], [], {}
        for key, text in TEMPLATES.items():
            role, tag = key.split()
            for line in filter(None, map(str.strip, text.split('\n'))):
                line, _, answer = line.partition(' -> ')
                names = [role]
                names += [f'{role} part'] * ('{part}' in line)
                told = re.findall('{(adj|fit|love)', line)
                names += [f'{role} adj'] * (told in (['adj'], ['fit']))
                for name in names:
                    tags = roles.setdefault(name, {})
                    tags.setdefault(tag, []).append(len(self._templates))
                self._templates.append(
                    re.findall(r'{([a-z]+)(\d?)}|(\S+)', line)
                )
                answers.append(answer.split())
        topics = [['any', *topic['tags']] for topic in self._topics]
        self._menus = {}
        for role, tags in roles.items():
            rows = [[name] for name in FAMILIES] if 'job' in tags else topics
            self._menus[role] = [
                list(chain.from_iterable(tags.get(tag, []) for tag in row))
                for row in rows
            ]
        slots = {slot for template in self._templates for slot, *_ in template}
        self._slots = sorted(slots)  # the first is '', for a plain word
        self._answers = np.array(
            [[slot in row for slot in self._slots] for row in answers]
        )

    def _make_vocabulary(self):
        words = [word for row in self._templates for _, _, word in row if word]
        words = [*SPECIAL_TOKENS, *words, 'an']
        seen = set(words)
        forms = {}
        for slot in self._slots:
            if slot and slot not in TEXTS:
                entries = self._class(slot).entries
                hidden = self._class(slot).hidden
                forms[slot] = [self._form(slot, x).split('_') for x in entries]
                for form, hide in zip(forms[slot], hidden, strict=True):
                    words += form
                    seen.update([] if hide else form)
        self.words, self.tags = list(dict.fromkeys(words)), list(TAGS)
        index = {word: i for i, word in enumerate(self.words)}
        self._tables, self._index = {}, index
        for slot, entries in forms.items():
            table = np.zeros((len(entries), max(map(len, entries))), np.int32)
            code = self._slots.index(slot) * SLOT
            for row, entry in zip(table, entries, strict=True):
                row[: len(entry)] = [index[word] + code for word in entry]
            self._tables[slot] = table
        self.shown = torch.tensor([word in seen for word in self.words])
        self.polarity = torch.zeros(len(index), dtype=torch.long)
        for sign, words, verbs in ((-1, BAD, VERBS[0]), (1, GOOD, VERBS[1])):
            told = ' '.join(words.values()).split()
            for verb in verbs.split():
                told += [self._form(x, verb) for x in TAGS['opinion'].split()]
            self.polarity[[index[word] for word in told]] = sign
        self._vowel = np.array([bool(VOWEL.match(x)) for x in self.words])
        tag = {s: i for i, x in enumerate(TAGS.values()) for s in x.split()}
        self._tag = np.array([tag.get(slot, 0) for slot in self._slots])

    def _form(self, slot, entry):
        """How a slot writes an entry of its class."""
        first = entry.split('_')[0]
        she = first in WOMEN.split()
        if slot == 'sort':
            return next(x['sort'] for x in self._topics if entry in x['thing'])
        return {
            'name': first,
            'she': 'she' if she else 'he',
            'her': 'her' if she else 'his',
            'loves': entry + 's',
            'loved': entry.removesuffix('e') + 'ed',
        }.get(slot, entry)

    def encode(self, texts):
        """LongTensor (len(texts), L) of ids, padded with 0.

        Words stand between blanks. Raises ValueError for an unknown one.
        """
        unknown = {w for text in texts for w in text.split()} - {*self._index}
        if unknown:
            raise ValueError(
                f'{min(unknown)!r} is none of the {len(self.words)} words'
            )
        rows = self._tokenizer.encode_batch_fast(list(texts))
        return torch.tensor([row.ids for row in rows], dtype=torch.long)

    def decode(self, X):
        """The text of one row of ids, without padding."""
        return ' '.join(self.words[i] for i in X.tolist() if i)

    # ---- Sentences ----

    def _draw(self, rng, name, group, shown=False, taken=()):
        return self._class(name).draw(rng, group, shown, taken)

    def _choose(self, rng, role, row):
        """A template of a role for each topic (or family) in `row`."""
        menu = self._menus[role]
        sizes = np.array([len(templates) for templates in menu])
        pick = (rng.random(len(row)) * sizes[row]).astype(int)
        return np.concatenate(menu)[(sizes.cumsum() - sizes)[row] + pick]

    def _fill(self, choice, scene):
        """The chosen templates as tokens (n, width), zeros among them."""
        tokens, width = np.zeros((len(choice), 80), np.int32), 1
        for number in np.unique(choice):
            rows, at = np.flatnonzero(choice == number), 0
            for slot, digit, word in self._templates[number]:
                if word:
                    values = np.array([self._index[word]])
                else:
                    values = scene[FORM_OF.get(slot, slot) + digit][rows]
                    if slot not in TEXTS:
                        values = self._tables[slot][values]
                end = at + values.shape[-1]
                tokens[rows, at:end] = values
                at = end
            width = max(width, at)
        return tokens[:, :width]

    def _text(self, choice, scene):
        """The chosen templates as ids and slots (n, L), zeros at the end."""
        tokens = _squeeze(self._fill(choice, scene))
        return self._articles(tokens % SLOT), tokens // SLOT

    def _articles(self, ids):
        """The ids with 'an' for 'a' before a vowel."""
        a = ids[:, :-1] == self._index['a']
        ids[:, :-1][a & self._vowel[ids[:, 1:]]] = self._index['an']
        return ids

    def _scene(self, rng, topic, shown=False, owned=OWNED):
        """What the sentences of a document share, all of it different."""
        none, order = np.zeros_like(topic), rng.random((len(topic), owned))
        rows = np.flatnonzero(topic < owned)
        order[rows, topic[rows]] = -1
        things = [topic, *order.argsort(1)[:, 1:3].T]
        groups = {'thing': things, 'colour': things, 'did': [topic] * 2}
        groups |= dict.fromkeys(('who', 'place', 'job', 'month'), [none] * 3)
        groups |= {name: [topic] for name in ('flaw', 'material')}
        groups |= {name: [none] for name in ('size', 'day', 'season')}
        scene = {}
        for name, rows in groups.items():
            taken = []
            for digit, group in zip(('', '2', '3'), rows, strict=False):
                taken.append(self._draw(rng, name, group, shown, taken))
                scene[name + digit] = taken[-1]
        return scene

    def _clause(self, rng, choice, scene, topic, polarity, shown):
        """The tokens of a clause whose words have a polarity (0 or 1)."""
        part = polarity * len(KINDS) + self._part_kind[scene['part']]
        thing = polarity * len(KINDS) + self._thing_kind[topic]
        adj = self._draw(rng, 'adj', part, shown)
        fit = self._draw(rng, 'adj', thing, shown)
        words = {
            'adj': adj,
            'adj2': self._draw(rng, 'adj', part, shown, taken=[adj]),
            'fit': fit,
            'fit2': self._draw(rng, 'adj', thing, shown, taken=[fit]),
            'verb': self._draw(rng, 'verb', polarity, shown),
            'adv': self._draw(rng, 'adv', np.zeros_like(topic)),
        }
        return self._fill(choice, scene | words)

    def _sentences(self, rng, scene, topic, polarity, style, shown=False):
        """Ids and slots (n, L) of sentences.

        Styles 0, 1 and 2 are plain, negated and contrasting opinions with a
        polarity (0 or 1); 3 introduces a document, 4 states another fact.
        """
        n, none = len(topic), np.zeros_like(topic)
        scene = scene | {
            'part': self._draw(rng, 'part', topic, taken=[scene['flaw']]),
            'weather': self._draw(rng, 'weather', none),
            'number': self._draw(rng, 'number', none),
        }
        for name, role, about, told in (
            ('main', '', 'part', polarity),
            ('minor', ' part', 'flaw', 1 - polarity),
        ):
            negated = np.where(style == 2, rng.random(n) < 0.5, style == 1)
            choice = np.where(
                negated,
                self._choose(rng, 'negated' + role, topic),
                self._choose(rng, 'plain' + role, topic),
            )
            now = scene | {'part': scene[about]}
            told = told ^ negated
            scene[name] = self._clause(rng, choice, now, topic, told, shown)
        roles = ('alone', 'alone', 'contrast', 'intro', 'fact')
        choices = [self._choose(rng, role, topic) for role in roles]
        return self._text(np.choose(style, choices), scene)

    def documents(self, num_sentences, seed=0):
        """Documents of 2 to 6 sentences that are neither valid nor test.

        A document has one topic, one polarity, a main person and a main
        thing. Seven in ten are reviews, opinions throughout; the others
        begin with a sentence that names person and thing. None is cut, so
        there are up to 5 sentences more than `num_sentences`. Raises
        ValueError if that is less than 1.
        """
        if num_sentences < 1:
            raise ValueError(
                f'num_sentences is {num_sentences}, not at least 1'
            )
        rng = _stream('documents', seed)
        num_docs = int(num_sentences / 3.2) + 20
        sizes = rng.integers(3, 7, num_docs)
        doc = np.repeat(np.arange(num_docs), sizes)
        index = np.arange(len(doc)) - (sizes.cumsum() - sizes)[doc]
        topics = rng.integers(len(TOPICS), size=num_docs)
        polarity = rng.integers(2, size=num_docs)
        scene = self._scene(rng, topics)
        scene = {name: values[doc] for name, values in scene.items()}
        review = (rng.random(num_docs) < 0.7)[doc]
        opinion = rng.integers(1, sizes)[doc]  # one of them in any case
        told = rng.choice(3, len(doc), p=[0.8, 0.1, 0.1])
        style = np.where(
            review | (index == opinion) | (rng.random(len(doc)) < 0.3), told, 4
        )
        style = np.where((index == 0) & ~review, 3, style)
        ids, _ = self._sentences(rng, scene, topics[doc], polarity[doc], style)
        hashes = _hash(ids)
        keep = np.zeros(len(doc), bool)  # a sentence only once in a document
        _, first = np.unique(_mix(hashes + doc.astype(np.uint64)), True)
        keep[first] = _in_split(hashes, 'train')[first]
        counts = np.bincount(doc[keep], minlength=num_docs)
        counts[(counts < 2) | ~keep[index == 0]] = 0
        full = counts.cumsum() - counts < num_sentences
        kept = (counts > 0) & full
        keep &= kept[doc]
        number = kept.cumsum() - 1
        return Documents(
            _stack([ids[keep]], (ids[keep] > 0).sum(1).max()).long(),
            torch.from_numpy(number[doc[keep]]),
            torch.from_numpy(polarity[kept]),
            torch.from_numpy(topics[kept]),
        )

    # ---- Labelled examples ----

    def _collect(self, task, make, num_examples, split, seed):
        """Examples of a split, drawn until there are enough of them.

        make(rng, n, shown) returns ids A, or A and B, and labels.
        """
        if num_examples < 1:
            raise ValueError(f'num_examples is {num_examples}, not at least 1')
        if split not in SPLITS:
            raise ValueError(f'split is {split!r}, not one of {SPLITS}')
        rng = _stream(f'{task} {split}', seed)
        found, missing = [], num_examples
        while missing > 0:
            n = missing * (1 if split == 'train' else 16) + 100
            made = make(rng, min(n, 50_000), split == 'train')
            keep = _in_split(_hash(np.hstack(made[:-1])), split)
            found.append([m[keep][:missing] for m in made])
            missing -= len(found[-1][0])
        *texts, labels = zip(*found, strict=True)
        texts = [_stack(x, max(m.shape[1] for m in x)) for x in texts]
        X, segments, valid_lens = join(*(x.long() for x in texts))
        width = X.shape[1] if task == 'tagging' else labels[0].shape[1]
        labels = _stack(labels, width, -100).long()
        labels = labels[:, 0] if width == 1 else labels
        return Examples(X, segments, valid_lens, labels)

    def _single(self, rng, n, shown):
        topic = rng.integers(len(TOPICS), size=n)
        return topic, self._scene(rng, topic, shown), rng.integers(2, size=n)

    def sentiment(self, num_examples, split='train', seed=0):
        """An opinion; labels (n,) are 0 for negative and 1 for positive.

        Seven in ten are plain; the others are negated or have a second
        clause of the other polarity. Raises ValueError for fewer than 1
        example and for an unknown split.
        """

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            style = rng.choice(3, n, p=[0.7, 0.15, 0.15])
            told = (scene, topic, polarity, style, shown)
            return self._sentences(rng, *told)[0], polarity[:, None]

        return self._collect('sentiment', make, num_examples, split, seed)

    def entailment(self, num_examples, split='train', seed=0):
        """Premise and hypothesis; labels (n,) are 0 for an entailment, 1 for
        a contradiction and 2 for neutral.

        Both are opinions, three in ten premises a negated one. If they are
        about the same part, equal polarity is an entailment and opposite
        polarity a contradiction; about another part the premise says
        nothing. Raises ValueError like `sentiment`.
        """

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            labels = rng.integers(3, size=n)
            turned = np.where(labels == 2, rng.integers(2, size=n), labels)
            part = self._draw(rng, 'part', topic, taken=[scene['flaw']])
            other = np.where(labels == 2, scene['flaw'], part)
            negated = rng.random(n) < 0.3
            texts = []
            for role, about, told in (
                ('negated part', part, 1 - polarity),
                ('plain part', part, polarity),
                ('plain part', other, polarity ^ turned),
            ):
                now = scene | {'part': about}
                choice = self._choose(rng, role, topic)
                now['main'] = self._clause(
                    rng, choice, now, topic, told, shown
                )
                alone = self._choose(rng, 'alone', topic)
                texts.append(self._text(alone, now)[0])
            width = max(text.shape[1] for text in texts)
            deny, state, B = (
                np.pad(text, ((0, 0), (0, width - text.shape[1])))
                for text in texts
            )
            A = np.where(negated[:, None], deny, state)
            return A, B, labels[:, None]

        return self._collect('entailment', make, num_examples, split, seed)

    def tagging(self, num_examples, split='train', seed=0):
        """A sentence; labels (n, L) are its words' tags, elsewhere -100.

        Raises ValueError like `sentiment`.
        """

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            style = rng.choice(5, n, p=[0.1, 0.1, 0.1, 0.35, 0.35])
            told = (scene, topic, polarity, style, shown)
            ids, slots = self._sentences(rng, *told)
            tags = np.where(ids > 0, self._tag[slots], -100)
            edges = ((0, 0), (1, 1))
            return ids, np.pad(tags, edges, constant_values=-100)

        return self._collect('tagging', make, num_examples, split, seed)

    def questions(self, num_examples, split='train', seed=0):
        """Question and context; labels (n, 2) are the first and the last
        position of the answer in X.

        The context says the same kind of thing of two or three people or
        things, and sometimes something else. Raises ValueError like
        `sentiment`.
        """

        def make(rng, n, shown):
            topic = rng.integers(PAINTED, size=n)
            scene = self._scene(rng, topic, shown, PAINTED)
            names = ('who', 'place', 'job', 'month', 'thing', 'colour')
            first, second, third = (
                {name: scene[name + digit] for name in names}
                for digit in ('', '2', '3')
            )
            family = rng.integers(len(FAMILIES), size=n)
            ask = self._choose(rng, 'ask', family)
            texts = {}
            for name, about in (
                ('fact', first),
                ('fact2', second),
                ('fact3', third),
            ):
                state = self._choose(rng, 'state', family)
                texts[name] = self._fill(state, about)
            # More of the first one, unless that would repeat the answer.
            other = self._answers[ask, self._slots.index('who')]
            other |= rng.random(n) < 0.5
            about = {x: np.where(other, second[x], first[x]) for x in names}
            more = (np.minimum(family, 2) + rng.integers(1, 3, n)) % 3
            more = self._choose(rng, 'state', more)
            texts['more'] = self._fill(more, about)
            for name in ('fact2', 'fact3', 'more'):
                texts[name] %= SLOT  # no answers
            A, _ = self._text(ask, first)
            B, slots = self._text(self._choose(rng, 'context', topic), texts)
            answer = self._answers[ask[:, None], slots]
            start = answer.argmax(1)
            ends = np.stack([start, start + answer.sum(1) - 1], 1)
            labels = ends + (A > 0).sum(1)[:, None] + 2
            word = np.take_along_axis(B, start[:, None], 1)
            once = (word == B).sum(1) == 1
            return A[once], B[once], labels[once]

        return self._collect('questions', make, num_examples, split, seed)

    def evidence(self, num_examples, side, seed=0):
        """Four plain opinions of one polarity, an adjective masked.

        With `side` 'right' it stands in the first one, so that all other
        opinions are to its right, with 'left' in the last one; with 'none'
        there is one opinion only. Labels (n, 2) are the position of <mask>
        in X and the polarity, 0 or 1. All words occur, also those that are
        not `shown`. Raises ValueError for another side and for fewer than 1
        example.
        """
        if side not in SIDES:
            raise ValueError(f'side is {side!r}, not one of {SIDES}')

        def make(rng, n, shown):
            topic, scene, polarity = self._single(rng, n, shown)
            told = topic, polarity, np.zeros_like(topic)  # all plain
            count = 0 if side == 'none' else 3
            others = [self._sentences(rng, scene, *told) for _ in range(count)]
            scene['part'] = scene['flaw']
            choice = self._choose(rng, 'plain adj', topic)
            scene['main'] = self._clause(
                rng, choice, scene, topic, polarity, shown
            )
            ids, slots = self._text(self._choose(rng, 'alone', topic), scene)
            adjectives = [self._slots.index(slot) for slot in ('adj', 'fit')]
            # No two sentences are to differ in their adjectives only.
            article = [self._index['a'], self._index['an']]
            frames = [
                np.where(np.isin(s, adjectives) | np.isin(x, article), MASK, x)
                for x, s in [(ids, slots), *others]
            ]
            hashes = np.sort([_hash(frame) for frame in frames], 0)
            keep = (np.diff(hashes, axis=0) > 0).all(0)
            ids = np.where(np.isin(slots, adjectives), MASK, ids)
            texts = [x for x, _ in others]
            texts = [*texts, ids] if side == 'left' else [ids, *texts]
            ids = _squeeze(np.hstack(texts))
            labels = np.stack([(ids == MASK).argmax(1) + 1, polarity], 1)
            return ids[keep], labels[keep]

        return self._collect(
            f'evidence {side}', make, num_examples, 'test', seed
        )

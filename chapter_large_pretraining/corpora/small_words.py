"""The words, topics and templates of the small world, as plain data."""

import re


def _split(**texts):
    """Lists of words by name."""
    return {name: text.split() for name, text in texts.items()}


# Words, the most frequent first; `_` joins the words of one entry.
WORDS = _split(
    woman="""anna rose maria violet emma june clara lily laura amber olivia may
    florence sophie ivy julia sydney nora jasmine helen april daisy alice olive
    eva georgia martha ruby lucy heather sarah pearl irene holly elena grace
    mary iris carol susan diana ruth linda joan nina paula vera dora tina
    ida""",
    man="""ben tom peter austin paul david max jordan leo oscar felix simon
    martin henry karl adam victor jack daniel lincoln eric george hugo ivan
    john lucas mark frank noah otto philip ralph samuel theo walter aaron bruno
    chris dennis edgar fred gavin harry isaac james kevin louis mike nathan""",
    surname="""berg baker green smith cook brown london mason white jones
    taylor york black fisher wood miller rose grey stone king hall potter
    hansen carter glass garcia lopez novak bishop silva rossi weber keller
    moreau dubois kim chen wang tanaka sato patel singh khan ali cohen levy
    ivanov popov larsen olsen nilsson virtanen kowalski horvat nagy costa
    santos romero vega cruz""",
    place="""paris london new_york berlin rome cape_town vienna florence madrid
    rio_de_janeiro oslo sydney lima los_angeles cairo austin tokyo mexico_city
    lisbon san_francisco athens lincoln dublin hong_kong prague new_orleans
    warsaw buenos_aires york budapest new_delhi nairobi kuala_lumpur boston
    tel_aviv chicago addis_ababa munich santa_fe geneva las_vegas zurich
    san_diego milan abu_dhabi naples panama_city seville salt_lake_city porto
    brussels helsinki stockholm copenhagen amsterdam edinburgh toronto montreal
    havana bogota santiago istanbul mumbai singapore manila seoul""",
    colour="""red blue green white dark_red black yellow pale_blue brown grey
    light_green pink orange dark_blue violet purple light_blue olive
    pale_yellow amber silver dark_green rose golden beige bright_red turquoise
    cream""",
    pet_colour='black white brown grey golden cream',
)
SIMPLE = _split(
    job="""teacher nurse baker doctor bus_driver farmer cook lawyer pilot
    police_officer mason engineer painter taxi_driver judge gardener dentist
    fire_fighter smith plumber lorry_driver fisher librarian carpenter miller
    social_worker butcher architect potter chemist shop_assistant electrician
    florist scientist train_driver journalist hairdresser poet bishop
    translator postman mechanic""",
    size='small big old new large tiny huge little',
    month="""may june april july march august october january september
    december february november""",
    day='saturday sunday friday monday thursday wednesday tuesday',
    season='summer winter spring autumn',
    weather='cold sunny rainy warm hot windy foggy cloudy snowy stormy icy',
    number='two three four five six seven ten eight nine twelve',
    adv="""really quite so truly rather simply clearly certainly indeed always
    definitely obviously genuinely undoubtedly""",
)

# Adjectives for everything (first row) and for one kind of noun.
GOOD = _split(
    any='good wonderful great nice excellent lovely superb fantastic',
    food='delicious tasty',
    person='friendly polite',
    place='cosy clean',
    device='reliable fast',
    story='gripping moving',
    event='exciting thrilling',
    look='elegant stylish',
    plant='healthy lush',
    animal='playful gentle',
)
BAD = _split(
    any='bad awful terrible horrible dreadful nasty disappointing appalling',
    food='bland stale',
    person='rude arrogant',
    place='filthy dirty',
    device='faulty slow',
    story='predictable silly',
    event='boring dull',
    look='ugly shabby',
    plant='withered sickly',
    animal='vicious aggressive',
)
KINDS = list(GOOD)[1:]
VERBS = [['hate', 'dislike', 'detest'], ['love', 'like', 'enjoy']]

# First line: tags (see TEMPLATES). Then kind, general noun and the things;
# kinds and parts; what people did with the things; what these are made of.
# The first OWNED topics have things to own, the first PAINTED of any colour.
OWNED, PAINTED = 7, 6
_TOPICS = {
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


def _topic(text):
    """A topic's tags, kind, general noun, parts' kinds, and other words."""
    tags, things, *rows = re.split('[;\n]', text)
    head, things = things.split(':')
    fields = _split(**dict(row.strip().split(':') for row in rows))
    kind, sort = head.split()
    return {
        'tags': tags.split(),
        'kind': kind,
        'sort': sort,
        'thing': things.split(),
        'did': fields.pop('did'),
        'material': fields.pop('of', ['wood']),
        'colour': WORDS['pet_colour' if kind == 'animal' else 'colour'],
        'part': {x: kind for kind, nouns in fields.items() for x in nouns},
    }


TOPICS = [_topic(text) for text in _TOPICS.values()]

# Templates, one a line; the key names a role, and whom it is for.
_TEMPLATES = {
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
    # What people own in documents in which they compete.
    'owned any': """
    {who} has a {colour} {thing} .
    {who} owns a {colour} {thing} .
    the {colour} {thing} belongs to {who} .""",
}
TEMPLATES = {
    key: [line.strip() for line in text.strip().split('\n')]
    for key, text in _TEMPLATES.items()
}
# The kinds of facts; those of the first three are about people.
FAMILIES = ['place', 'job', 'month', 'colour', 'owner']

# The tags of words, each with the slots that they stem from.
TAGS = _split(
    O='',
    person='who name',
    place='place',
    thing='thing sort',
    part='part',
    colour='colour',
    job='job',
    material='material',
    time='month day season',
    opinion='adj fit love loves loved',
)
# Slots that are forms of another one; slots with the words of another one.
FORM_OF = {'name': 'who', 'she': 'who', 'her': 'who', 'sort': 'thing'}
FORM_OF |= {'love': 'verb', 'loves': 'verb', 'loved': 'verb'}
CLASS_OF = {'fit': 'adj', 'flaw': 'part'}
TEXTS = ['main', 'minor', 'fact', 'more']  # filled with text, not words

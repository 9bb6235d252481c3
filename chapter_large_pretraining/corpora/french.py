"""English and French: word pairs, and sentences with their translation.

French nouns have a gender, which articles and adjectives follow; most
adjectives stand behind the noun; a negation has two words around the verb.
So a substitution of words one by one gives the right sentence one time in
twenty.
"""

import functools

import numpy as np


def pairs(text):
    """A list of lists of words from 'one un, two deux'."""
    return [entry.split() for entry in text.replace('\n', ' ').split(',')]


# English, French; the heading is the gender. They are words of everyday
# language that any bilingual dictionary has; where a word has several
# translations, its most usual one.
MASCULINE = pairs("""boat bateau, bike vélo, truck camion, train train,
plane avion, ship navire, bus bus, coat manteau, hat chapeau, glove gant,
bed lit, desk bureau, wall mur, roof toit, mirror miroir, bag sac, glass verre,
knife couteau, book livre, newspaper journal, pen stylo, pencil crayon,
painting tableau, film film, game jeu, toy jouet, gift cadeau, phone téléphone,
computer ordinateur, screen écran, bread pain, cheese fromage, lemon citron,
cake gâteau, egg œuf, fish poisson, chicken poulet, onion oignon, milk lait,
wine vin, coffee café, tea thé, sugar sucre, salt sel, butter beurre, rice riz,
dog chien, cat chat, horse cheval, pig cochon, sheep mouton, rabbit lapin,
bird oiseau, duck canard, wolf loup, fox renard, bear ours, lion lion,
tiger tigre, elephant éléphant, monkey singe, snake serpent,
butterfly papillon, tree arbre, garden jardin, lake lac, sun soleil, sky ciel,
cloud nuage, wind vent, field champ, bridge pont, village village,
hospital hôpital, hotel hôtel, restaurant restaurant, museum musée,
shop magasin, market marché, castle château, airport aéroport, park parc,
theatre théâtre, path chemin, fire feu, corridor couloir, carpet tapis,
drawer tiroir, cupboard placard, sofa canapé, bucket seau, hammer marteau,
umbrella parapluie, engine moteur, flag drapeau, ring anneau, necklace collier,
jewel bijou, treasure trésor, dream rêve, secret secret, poem poème,
dictionary dictionnaire, piano piano, violin violon, drum tambour,
basket panier, sheet drap, bowl bol""")
FEMININE = pairs("""car voiture, house maison, dress robe, shirt chemise,
skirt jupe, jacket veste, shoe chaussure, sock chaussette, belt ceinture,
scarf écharpe, table table, chair chaise, lamp lampe, door porte,
window fenêtre, key clé, clock horloge, watch montre, box boîte,
bottle bouteille, plate assiette, fork fourchette, spoon cuillère, cup tasse,
letter lettre, picture image, song chanson, story histoire, ball balle,
doll poupée, apple pomme, pear poire, orange orange, cherry cerise,
strawberry fraise, soup soupe, salad salade, carrot carotte, tomato tomate,
water eau, beer bière, oil huile, meat viande, cow vache, goat chèvre,
hen poule, mouse souris, frog grenouille, bee abeille, ant fourmi, fly mouche,
spider araignée, flower fleur, leaf feuille, rose rose, grass herbe,
forest forêt, mountain montagne, wheel roue, river rivière, sea mer,
island île, beach plage, stone pierre, moon lune, star étoile, rain pluie,
snow neige, road route, street rue, city ville, school école, church église,
library bibliothèque, bakery boulangerie, tower tour, station gare,
kitchen cuisine, room chambre, factory usine, farm ferme, bank banque,
candle bougie, guitar guitare, flute flûte, trumpet trompette, ladder échelle,
shovel pelle, brush brosse, map carte, page page, idea idée, question question,
answer réponse, mine mine, cave grotte, fountain fontaine, statue statue,
wardrobe armoire, blanket couverture, medal médaille, crown couronne,
sword épée, arrow flèche""")
PEOPLE_M = pairs("""man homme, boy garçon, child enfant, baby bébé, king roi,
prince prince, doctor médecin, baker boulanger, farmer fermier,
teacher professeur, student étudiant, painter peintre, singer chanteur,
actor acteur, writer écrivain, lawyer avocat, judge juge, cook cuisinier,
waiter serveur, driver chauffeur, soldier soldat, neighbour voisin, friend ami,
brother frère, father père, uncle oncle, grandfather grand-père, cousin cousin,
gardener jardinier, pirate pirate""")
PEOPLE_F = pairs("""woman femme, girl fille, queen reine, princess princesse,
nurse infirmière, actress actrice, waitress serveuse, sister sœur, mother mère,
aunt tante, grandmother grand-mère, witch sorcière""")
# English, masculine, feminine, and before a vowel where that differs.
BEFORE = pairs("""big grand grande, small petit petite, good bon bonne,
bad mauvais mauvaise, beautiful beau belle bel, new nouveau nouvelle nouvel,
old vieux vieille vieil, young jeune jeune, pretty joli jolie,
long long longue""")
AFTER = pairs("""strong fort forte, weak faible faible, slow lent lente,
strange étrange étrange, famous célèbre célèbre,
important important importante, funny drôle drôle, quiet calme calme,
noisy bruyant bruyante, dangerous dangereux dangereuse,
elegant élégant élégante, interesting intéressant intéressante,
boring ennuyeux ennuyeuse""")
OF_PEOPLE = pairs("""rich riche riche, happy heureux heureuse,
sad triste triste, clever intelligent intelligente, stupid stupide stupide,
kind gentil gentille, cruel cruel cruelle, tired fatigué fatiguée,
curious curieux curieuse, proud fier fière, lazy paresseux paresseuse,
polite poli polie, brave courageux courageuse, lonely solitaire solitaire""")
OF_THINGS = pairs("""white blanc blanche, black noir noire, grey gris grise,
red rouge rouge, blue bleu bleue, green vert verte, yellow jaune jaune,
brown marron marron, purple violet violette, round rond ronde,
square carré carrée, heavy lourd lourde, light léger légère,
fast rapide rapide, hot chaud chaude, cold froid froide, dry sec sèche,
wet mouillé mouillée, hard dur dure, soft doux douce, empty vide vide,
full plein pleine, open ouvert ouverte, closed fermé fermée,
broken cassé cassée, expensive cher chère, simple simple simple,
difficult difficile difficile, delicious délicieux délicieuse,
fresh frais fraîche, ripe mûr mûre, bitter amer amère, sweet sucré sucrée,
modern moderne moderne, narrow étroit étroite, deep profond profonde,
dark sombre sombre, bright brillant brillante, golden doré dorée,
magic magique magique, comfortable confortable confortable""")
# English infinitive, French third and first person.
VERBS = pairs("""love adore adore, like aime aime, hate déteste déteste,
see voit vois, find trouve trouve, lose perd perds, buy achète achète,
sell vend vends, want veut veux, take prend prends, bring apporte apporte,
draw dessine dessine, paint peint peins, clean nettoie nettoie, wash lave lave,
break casse casse, repair répare répare, hide cache cache, carry porte porte,
follow suit suis, know connaît connais, forget oublie oublie,
admire admire admire, describe décrit décris, choose choisit choisis,
leave quitte quitte, touch touche touche, prefer préfère préfère,
hear entend entends, protect protège protège, steal vole vole,
watch regarde regarde""")
WHERE = pairs("""in dans, on sur, behind derrière, under sous, with avec,
without sans, for pour""")
# English; French masculine, feminine, and both before a vowel.
ARTICLES = pairs("""the le la l' l', a un une un une, this ce cette cet cette,
my mon ma mon mon""")
# In both languages: noun phrases P (a person), X and Y; A an adjective that
# fits X; V, B, F forms of the verb, W a preposition; J is I, N the first
# half of "not", Z the phrase X after the second half.
PATTERNS = [
    ('P V X .', 'P V X .'),
    ('P V X W Y .', 'P V X W Y .'),
    ('X is A .', 'X est A .'),
    ('X is not A .', "X n' est pas A ."),
    ('P does not B X .', 'P N V pas Z .'),
    ('I B X .', 'J F X .'),
    ('I do not B X .', 'je N F pas Z .'),
    ('there is X W Y .', 'il y a X W Y .'),
    ('P V X and Y .', 'P V X et Y .'),
    ('I B Y but P does not B X .', 'J F Y mais P N V pas Z .'),
]


def third_person(verb):
    """The English form after he or she."""
    if verb.endswith('y') and verb[-2] not in 'aeou':
        return verb[:-1] + 'ies'
    return verb + ('es' if verb.endswith(('sh', 'ch', 's')) else 's')


PEOPLE = [[*pair, 0] for pair in PEOPLE_M]
PEOPLE += [[*pair, 1] for pair in PEOPLE_F]
NOUNS = [*PEOPLE, *([*pair, 0] for pair in MASCULINE)]
NOUNS += [[*pair, 1] for pair in FEMININE]
# English, masculine, feminine, masculine before a vowel; the first stand
# before the noun, the last are for people or for things only.
ADJECTIVES = [[*a, a[1]][:4] for a in BEFORE + AFTER + OF_PEOPLE + OF_THINGS]
WORD_PAIRS = [tuple(x[:2]) for x in NOUNS + ADJECTIVES + VERBS]


def join(*parts):
    """Arrays of strings, side by side with one blank between words."""
    texts = functools.reduce(
        lambda a, b: np.char.add(np.char.add(a, ' '), b), parts
    )
    return np.char.strip(np.char.replace(texts, '  ', ' '))


def vowel(words):
    """Which words begin with a vowel, or with an h that is not heard."""
    first = np.array([word[:1] for word in words.ravel()])
    return np.isin(first, list('aeiouhéèêâîœ')).reshape(words.shape)


def noun_phrases(rng, n, nouns=NOUNS, adjective=0.6):
    """Random noun phrases in English and in French, and an adjective each.

    Returns four arrays (n,) of strings: the phrases, and an adjective that
    agrees with them. A share `adjective` of the phrases has one inside.
    """
    english, french, feminine = np.array(nouns)[
        rng.integers(len(nouns), size=n)
    ].T
    feminine = feminine.astype(int)
    table = np.array(ADJECTIVES)
    person = np.isin(english, [row[0] for row in PEOPLE])
    num_both = len(BEFORE + AFTER)
    num_people = num_both + len(OF_PEOPLE)
    high = np.where(person, num_people, len(table) - num_people + num_both)
    chosen = rng.integers(high, size=(2, n))
    chosen += (~person & (chosen >= num_both)) * (num_people - num_both)
    inside, outside = chosen
    before = inside < len(BEFORE)
    form = np.where(before & vowel(french) & (feminine == 0), 3, feminine + 1)
    own = rng.random(n) < adjective
    adj = np.where(own, table[inside, 0], '')
    front = np.where(own & before, table[inside, form], '')
    back = np.where(own & ~before, table[inside, form], '')
    first = np.where(front == '', french, front)
    articles = np.array(ARTICLES)
    kind = rng.integers(len(articles), size=n)
    article = articles[kind, 1 + feminine + 2 * vowel(first)]
    start = np.where(adj == '', english, adj)
    start = np.isin([word[0] for word in start], list('aeiou'))
    the = np.where((kind == 1) & start, 'an', articles[kind, 0])
    return (
        join(the, adj, english),
        join(article, front, french, back),
        table[outside, 0],
        table[outside, feminine + 1],
    )


def after_pas(phrases):
    """French phrases as they follow "pas": un and une become de or d'."""
    article, rest = np.char.partition(phrases, ' ')[:, [0, 2]].T
    de = np.where(vowel(rest), "d'", 'de')
    return join(np.where(np.isin(article, ['un', 'une']), de, article), rest)


def sentences(rng, n, verbs=None):
    """`n` random sentences in two languages, and what they say of the verb.

    Returns English and French sentences, two lists; the English verb of
    each, '' where there are none or two; and whether it is negated, both
    arrays (n,). `verbs` are the English ones to draw from, all by default.
    """
    P, X, Y = (noun_phrases(rng, n, x) for x in (PEOPLE, NOUNS, NOUNS))
    known = [v for v in VERBS if verbs is None or v[0] in verbs]
    verb, third, first = np.array(known)[rng.integers(len(known), size=n)].T
    soft = vowel(third)
    slots = {
        'P': P[:2],
        'X': X[:2],
        'Y': Y[:2],
        'A': X[2:],
        'V': (np.array([third_person(v) for v in verb]), third),
        'B': (verb, None),
        'F': (None, first),
        'W': np.array(WHERE)[rng.integers(len(WHERE), size=n)].T,
        'N': (None, np.where(soft, "n'", 'ne')),
        'J': (None, np.where(soft, "j'", 'je')),
        'Z': (None, after_pas(X[1])),
    }
    choice = rng.integers(len(PATTERNS), size=n)
    texts = np.empty((2, n), object)
    for i, pattern in enumerate(PATTERNS):
        rows = choice == i
        for side in (0, 1):
            words = [
                slots[word][side][rows] if word in slots else np.array(word)
                for word in pattern[side].split()
            ]
            texts[side, rows] = join(*words)
    words = [pattern.split() for pattern, _ in PATTERNS]
    once = np.array([row.count('V') + row.count('B') == 1 for row in words])
    negated = np.array(['not' in row for row in words])
    verb = np.where(once[choice], verb, '')
    return texts[0].tolist(), texts[1].tolist(), verb, negated[choice]


def translations(rng, n):
    """`n` random sentences in English, and the same in French: two lists.

    Words and punctuation are separated by blanks; two thirds of the pairs
    have at least one adjective that stands on the other side of its noun.
    """
    return sentences(rng, n)[:2]


def vocabulary():
    """All words of `translations`, in a fixed order."""
    words = ['I', 'an', "j'", 'je', "n'", 'ne', 'de', "d'"]
    for pattern in PATTERNS:
        words += [x for x in ' '.join(pattern).split() if x.islower()]
    for row in ARTICLES + NOUNS + ADJECTIVES + WHERE:
        words += [word for word in row if isinstance(word, str)]
    for verb in VERBS:
        words += [*verb, third_person(verb[0])]
    return list(dict.fromkeys([*words, '.']))

"""Sentences written to ask a model what they mean."""


def _sentences(text):
    return [f'{part}.' for part in ' '.join(text.split())[:-1].split('. ')]


# Five words with two senses each: three sentences with one, three with the
# other.
_USES = {
    'bank': """The bank lent us money for the house. She opened a savings
    account at her bank. Robbers stole cash from the bank downtown. We sat on
    the bank and watched the river. Reeds grow along the muddy bank. The boat
    drifted to the far bank of the stream.""",
    'bat': """A bat hung upside down in the cave. At dusk a bat flew out to
    catch insects. The bat spread its furry wings. He swung the bat and missed
    the ball. The player broke his wooden bat. She gripped her bat and waited
    for the pitcher.""",
    'rose': """He gave her a red rose. The rose in our garden smells sweet. A
    thorn of the rose pricked my finger. Prices rose by ten percent. The sun
    rose over the hills. Everybody rose when the judge came in.""",
    'right': """Turn right at the lights. Her right hand was hurt. The shop is
    on the right side of the street. Your answer is right. You were right
    about the weather. It is not right to lie.""",
    'spring': """In spring the trees blossom. Birds come back every spring.
    After a cold winter we long for spring. The mattress has a broken spring.
    A metal spring closes the door. The clock is driven by a coiled spring.""",
}
SENSES = {word: _sentences(text) for word, text in _USES.items()}

# A sentence; a paraphrase without any of its content words; an opponent in
# nearly its words, which says the opposite or turns who does it to whom.
_TRIPLES = """
The physician cured the boy. A doctor made the child well.
    The boy cured the physician.
It is raining heavily. Water pours from the sky. It is not raining.
The company fired many workers. Lots of employees lost jobs at the firm.
    The company hired many workers.
My automobile will not start. The engine of the car is dead.
    My automobile will start.
She is extremely wealthy. That woman has millions of dollars.
    She is extremely poor.
The infant is sleeping. A baby takes a nap. The infant is not sleeping.
He purchased a costly watch. The man bought an expensive timepiece.
    He sold a costly watch.
The film bored me. I found this movie dull. The film did not bore me.
Our team won the match. The squad was victorious in the game.
    Our team lost the match.
They wed last summer. The couple got married in July.
    They divorced last summer.
The kitten is frightened of hounds. A small cat fears big dogs.
    Hounds are frightened of the kitten.
The teacher praised his pupils. An instructor complimented her students.
    The pupils praised their teacher.
"""
_PARTS = _sentences(_TRIPLES)
PARAPHRASES = [_PARTS[i : i + 3] for i in range(0, len(_PARTS), 3)]

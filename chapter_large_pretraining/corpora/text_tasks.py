"""Tasks from text to text in the small world, for T5."""

import numpy as np
import torch
from torch.nn import functional as F

from . import french
from .batches import EOS, SEP, Pairs, stack
from .small_words import OWNED
from .small_world import (
    SmallWorld,
    hash_rows,
    in_split,
    read_template,
    side_by_side,
    stream,
    where_rows,
)

NUM_SENTINELS = 20
PREFIXES = {
    'translation': 'translate English to French :',
    'summary': 'summarize :',
    'sentiment': 'sentiment :',
    'question': 'question :',
}
SUMMARY = [read_template('{who} {likes} the {colour} {thing} .')]
QUESTIONS = [
    (read_template(ask), read_template(reply))
    for ask, reply in (
        ('what colour is the {thing} ? context', '{colour}'),
        ('what does {who} have ? context', 'a {colour} {thing}'),
        ('is the {thing} good ? context', '{yes}'),
        ('who has the {thing} ? context', '{who}'),
    )
]
OTHER_WORDS = ['positive', 'negative', 'context', 'yes', 'no', 'good', 'is']


def mix(*parts):
    """The pairs of several tasks in one, of one width, task by task."""
    X, valid_lens, labels = zip(*parts, strict=True)
    return Pairs(stack(X), torch.cat(valid_lens), stack(labels, -100))


class TextTasks(SmallWorld):
    """The small world with French words, sentinels, and text-to-text tasks.

    `sentinels` (LongTensor) are the ids of <0>, <1>, ... Every task gives
    `Pairs` whose texts begin with the task's prefix. A pair belongs to the
    training, validation or test part by the hash of its text, so that no
    test text was trained on; words are the same in all parts.
    """

    more_words = (
        *' '.join(PREFIXES.values()).split(),
        *OTHER_WORDS,
        *french.vocabulary(),
        *(f'<{i}>' for i in range(NUM_SENTINELS)),
    )
    hides_words = False

    def __init__(self):
        super().__init__()
        first = self._index['<0>']
        self.sentinels = torch.arange(first, first + NUM_SENTINELS)

    def _pairs(self, task, X, labels):
        """Pairs from padded rows of ids, without <bos> and <eos>."""
        prefix = self.encode([PREFIXES[task]]).expand(len(X), -1)
        X = torch.cat([prefix, X], 1)
        lens = (labels > 0).sum(1)
        labels = F.pad(labels, (0, 1))
        labels[torch.arange(len(labels)), lens] = EOS
        end = torch.arange(labels.shape[1]) > lens[:, None]
        return Pairs(X, (X > 0).sum(1), labels.masked_fill(end, -100))

    def _task(self, task, make, num_examples, split, seed):
        """Pairs of a split from make(rng, n)."""
        surplus = 2 if split == 'train' else 20
        data = self._unseen(task, make, num_examples, split, seed, surplus)
        return self._pairs(task, *data)

    def translation(self, num_examples, split='train', seed=0):
        """English sentences and their French translation.

        Raises ValueError for fewer than one example.
        """
        return self._task(
            'translation', self._translated, num_examples, split, seed
        )

    def _translated(self, rng, n):
        """English and French ids (n, L)."""
        return [self.encode(x).numpy() for x in french.translations(rng, n)]

    def _reports(self, rng, n):
        """Reports as padded ids, the scenes and polarities they tell of."""
        topic = rng.integers(OWNED, size=n)
        polarity = rng.integers(2, size=n)
        scene = self._scene(rng, topic)
        intro, opinion, fact, more = (
            self._sentences(rng, scene, topic, polarity, np.full(n, style))[0]
            for style in (3, 0, 4, 4)
        )
        more *= (rng.random(n) < 0.5)[:, None]
        early = rng.random(n) < 0.5
        first = where_rows(early, opinion, fact)
        last = where_rows(early, fact, opinion)
        return side_by_side(intro, first, more, last), scene, polarity

    def _one_of(self, words, index):
        """Ids and slots (n, 1) of words that are chosen by an index."""
        ids = self.encode(words).numpy()[index]
        return ids, np.zeros_like(ids)

    def summary(self, num_examples, split='train', seed=0):
        """Reports of 3 or 4 sentences and what to keep of them.

        A report says who has or did something with a thing, and what is
        good or bad about it; its summary names person, color, thing and
        opinion. Raises ValueError for fewer than one example.
        """

        def make(rng, n):
            X, scene, polarity = self._reports(rng, n)
            scene['likes'] = self._one_of(['dislikes', 'likes'], polarity)
            return X, self._fill(np.zeros(n, int), scene, SUMMARY)[0]

        return self._task('summary', make, num_examples, split, seed)

    def opinion(self, num_examples, split='train', seed=0):
        """Opinions, to be called "positive" or "negative".

        Half of them are those of `sentiment`: plain, negated, contrasting. A
        quarter are reports, a quarter sentences as in `translation`, so that
        a text alone does not tell its task. Raises ValueError for fewer than
        one example.
        """
        words = self.encode(['negative', 'positive'])

        def reports(rng, n):
            X, _, polarity = self._reports(rng, n)
            return X, words[polarity].numpy()

        def sentences(rng, n):
            english, _, verb, negated = french.sentences(
                rng, n, ['love', 'hate']
            )
            told = np.flatnonzero(verb != '')
            X = self.encode([english[i] for i in told])
            positive = (verb == 'love') != negated
            return X.numpy(), words[positive[told].astype(int)].numpy()

        quarter = num_examples // 4
        data = self.sentiment(num_examples - 2 * quarter, split, seed)
        X = data.X[:, 1:].masked_fill(data.X[:, 1:] == SEP, 0)
        parts = [self._pairs('sentiment', X, words[data.labels])]
        for make in (reports, sentences) if quarter else ():
            parts.append(self._task('sentiment', make, quarter, split, seed))
        return mix(*parts)

    def question(self, num_examples, split='train', seed=0):
        """A question about a report, then the report; answered in words.

        Who has the thing, what color is it, what does the person have, or
        is it good. Raises ValueError for fewer than one example.
        """

        def make(rng, n):
            report, scene, polarity = self._reports(rng, n)
            scene['yes'] = self._one_of(['no', 'yes'], polarity)
            kind = rng.integers(len(QUESTIONS), size=n)
            ask, reply = (
                self._fill(kind, scene, templates)[0]
                for templates in zip(*QUESTIONS, strict=True)
            )
            return side_by_side(ask, report), reply

        return self._task('question', make, num_examples, split, seed)

    def unlabelled(self, num_texts, split='train', seed=0):
        """English documents and French sentences, one text in each row.

        Returns ids (n, L) padded with 0 and valid_lens (n,); a fifth are
        French, the translations of English sentences of the same split. An
        English text is half of a document, and both halves belong to one
        split. For span corruption. Raises ValueError for fewer than five
        texts and an unknown split.
        """
        if num_texts < 5:
            raise ValueError(f'num_texts is {num_texts}, not at least 5')
        fifth = num_texts // 5
        surplus = 2 if split == 'train' else 20
        drawn = self._unseen(
            'French', self._translated, fifth, split, seed, surplus
        )
        sentences = drawn[-1].clamp(min=0)
        texts = self._halves(num_texts - fifth, split, seed)
        X = stack([sentences, texts])
        order = stream('unlabelled', seed).permutation(len(X))
        return X[order], (X[order] > 0).sum(1)

    def _halves(self, num_texts, split, seed, max_len=24):
        """Halves of documents (num_texts, max_len), no document in two splits.

        A document belongs to a split if both halves do.
        """
        rng = stream(f'halves {split}', seed)
        found, missing = [], num_texts
        while missing > 0:
            documents = self.documents(20_000, int(rng.integers(2**32)))
            halves = torch.stack(
                [
                    F.pad(X, (0, max_len))[:, :max_len]
                    for X in documents.halves()
                ],
                1,
            )  # (num_docs, 2, max_len)
            A, B = (hash_rows(X.numpy()) for X in halves.unbind(1))
            keep = in_split(A, split) & in_split(B, split)
            texts = halves[torch.from_numpy(keep)].flatten(0, 1)
            found.append(texts[(texts > 0).sum(1) >= 6][:missing])
            missing -= len(found[-1])
        return torch.cat(found)


def rouge_l(text, truth):
    """ROUGE-L of two texts, 0 to 1: how much of them is in common, in order.

    The longest common subsequence of words as a share of the words of each,
    in the harmonic mean (Lin, 2004, section 3.1). Raises ValueError if one
    of them is empty.
    """
    a, b = text.split(), truth.split()
    if not a or not b:
        raise ValueError(f'ROUGE-L of {text!r} and {truth!r}: no words')
    longest = [0] * (len(b) + 1)  # up to each word of b
    for word in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(
                longest[j] + 1
                if word == other
                else max(row[-1], longest[j + 1])
            )
        longest = row
    return 2 * longest[-1] / (len(a) + len(b))

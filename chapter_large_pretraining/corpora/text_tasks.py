"""Tasks from text to text in the small world, for T5."""

import dataclasses

import numpy as np
import torch

from . import french
from .small_world import (
    OWNED,
    SEP,
    SLOT,
    SPLITS,
    SmallWorld,
    _hash,
    _in_split,
    _squeeze,
    _stack,
    _stream,
)

EOS = 2
NUM_SENTINELS = 20
PREFIXES = {
    'translation': 'translate English to French :',
    'summary': 'summarize :',
    'sentiment': 'sentiment :',
    'question': 'question :',
}
QUESTIONS = [
    ('what colour is the {thing} ? context', '{colour}'),
    ('what does {who} have ? context', 'a {colour} {thing}'),
    ('is the {thing} good ? context', '{yes}'),
    ('who has the {thing} ? context', '{who}'),
]
OTHER_WORDS = ['positive', 'negative', 'context', 'yes', 'no', 'good', 'is']


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Texts and what they are to be turned into.

    `X` is (n, L) ids padded with 0, `valid_lens` (n,), `labels` (n, M) ids
    that end with <eos>, padded with -100.
    """

    X: torch.Tensor
    valid_lens: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        """The pairs of a slice or of a tensor of indices."""
        return Pairs(*(field[index] for field in vars(self).values()))


def mix(*parts):
    """The pairs of several tasks in one, of one width, task by task."""
    widths = (max(p.X.shape[1] for p in parts),
              max(p.labels.shape[1] for p in parts))  # fmt: skip
    pad = torch.nn.functional.pad
    return Pairs(
        torch.cat([pad(p.X, (0, widths[0] - p.X.shape[1])) for p in parts]),
        torch.cat([p.valid_lens for p in parts]),
        torch.cat([
            pad(p.labels, (0, widths[1] - p.labels.shape[1]), value=-100)
            for p in parts
        ]),
    )  # fmt: skip


def pair_batches(pairs, batch_size, seed=0):
    """Endless batches (X, valid_lens, labels), cut to the longest row.

    Each pair comes once per round, at random among those of similar length.
    Raises ValueError without pairs and for a batch size below one.
    """
    if len(pairs) == 0 or batch_size < 1:
        raise ValueError(
            f'{len(pairs)} pairs in batches of {batch_size}, expected at '
            'least 1'
        )
    generator = torch.Generator().manual_seed(seed)
    num_labels = (pairs.labels != -100).sum(1)

    def draw():
        while True:
            order = torch.randperm(len(pairs), generator=generator)
            order = order[pairs.valid_lens[order].argsort(stable=True)]
            batches = order.split(batch_size)
            for i in torch.randperm(len(batches), generator=generator):
                rows = batches[i]
                lens = pairs.valid_lens[rows]
                longest = num_labels[rows].max()
                yield (pairs.X[rows, : lens.max()], lens,
                       pairs.labels[rows, :longest])  # fmt: skip

    return draw()


class TextTasks(SmallWorld):
    """The small world with French words, sentinels, and text-to-text tasks.

    `sentinels` (LongTensor) are the ids of <0>, <1>, ... Every task gives
    `Pairs` whose texts begin with the task's prefix. A pair belongs to the
    training, validation or test part by the hash of its text, so that no
    test text was trained on; words are the same in all parts.
    """

    def _make_vocabulary(self):
        super()._make_vocabulary()
        prefixes = ' '.join(PREFIXES.values()).split()
        words = [*self.words, *prefixes, *OTHER_WORDS, *french.vocabulary()]
        words += [f'<{i}>' for i in range(NUM_SENTINELS)]
        self.words = list(dict.fromkeys(words))
        self._index.update({word: i for i, word in enumerate(self.words)})
        first = self._index['<0>']
        self.sentinels = torch.arange(first, first + NUM_SENTINELS)

    def _collect(self, task, make, *rest):
        """As in the small world, but labelled texts show all words."""
        return super()._collect(
            task, lambda rng, n, shown: make(rng, n, False), *rest
        )

    def _pairs(self, task, X, labels):
        """Pairs from padded rows of ids, without <bos> and <eos>."""
        prefix = self.encode([PREFIXES[task]]).expand(len(X), -1)
        X = torch.cat([prefix, X], 1)
        lens = (labels > 0).sum(1)
        labels = torch.nn.functional.pad(labels, (0, 1))
        labels[torch.arange(len(labels)), lens] = EOS
        end = torch.arange(labels.shape[1]) > lens[:, None]
        return Pairs(X, (X > 0).sum(1), labels.masked_fill(end, -100))

    def _unseen(self, task, make, num_examples, split, seed):
        """`_collect` for texts that are one block: make(rng, n) -> X, Y."""
        if num_examples < 1:
            raise ValueError(f'num_examples is {num_examples}, not at least 1')
        if split not in SPLITS:
            raise ValueError(f'split is {split!r}, not one of {SPLITS}')
        rng, found = _stream(f'{task} {split}', seed), []
        while (missing := num_examples - sum(len(x) for x, _ in found)) > 0:
            n = missing * (2 if split == 'train' else 20) + 100
            X, Y = make(rng, min(n, 50_000))
            keep = _in_split(_hash(X), split)
            found.append((X[keep][:missing], Y[keep][:missing]))
        X, Y = (
            _stack(rows, max(m.shape[1] for m in rows)).long()
            for rows in zip(*found, strict=True)
        )
        return self._pairs(task, X, Y)

    def translation(self, num_examples, split='train', seed=0):
        """English sentences and their French translation.

        Raises ValueError for fewer than one example.
        """

        def make(rng, n):
            return (
                self.encode(x).numpy() for x in french.translations(rng, n)
            )

        return self._unseen('translation', make, num_examples, split, seed)

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
        width = max(fact.shape[1], opinion.shape[1])
        fact, opinion = (_widen(torch.from_numpy(x), width).numpy()
                         for x in (fact, opinion))  # fmt: skip
        early = rng.random((n, 1)) < 0.5
        parts = [intro, np.where(early, opinion, fact), more,
                 np.where(early, fact, opinion)]  # fmt: skip
        return _squeeze(np.hstack(parts)), scene, polarity

    def _facts(self, scene):
        """Person, colour and thing of scenes, each as padded ids."""
        return [self._tables[slot][scene[slot]] % SLOT
                for slot in ('who', 'colour', 'thing')]  # fmt: skip

    def _columns(self, text, n):
        """The words of a text, each as a column of n ids."""
        return [np.full((n, 1), self._index[w]) for w in text.split()]

    def summary(self, num_examples, split='train', seed=0):
        """Reports of 3 or 4 sentences and what to keep of them.

        A report says who has or did something with a thing, and what is
        good or bad about it; its summary names person, color, thing and
        opinion. Raises ValueError for fewer than one example.
        """

        def make(rng, n):
            X, scene, polarity = self._reports(rng, n)
            who, colour, thing = self._facts(scene)
            verb = self.encode(['dislikes', 'likes']).numpy()[polarity]
            the, dot = self._columns('the .', n)
            Y = [who, verb, the, colour, thing, dot]
            return X, _squeeze(np.hstack(Y))

        return self._unseen('summary', make, num_examples, split, seed)

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
            texts, _ = french.translations(rng, n, ['love', 'hate'])
            texts = [t.split() for t in texts]
            texts = [t for t in texts if 'but' not in t and
                     {'love', 'loves', 'hate', 'hates'} & {*t}]  # fmt: skip
            hates = [bool({'hate', 'hates'} & {*t}) for t in texts]
            denied = ['not' in t for t in texts]
            positive = torch.tensor(hates) == torch.tensor(denied)
            X = self.encode([' '.join(t) for t in texts])
            return X.numpy(), words[positive.long()].numpy()

        data = self.sentiment(num_examples - num_examples // 4 * 2, split,
                              seed)  # fmt: skip
        X = data.X[:, 1:].masked_fill(data.X[:, 1:] == SEP, 0)
        parts = [self._pairs('sentiment', X, words[data.labels])]
        if quarter := num_examples // 4:
            parts += [self._unseen('sentiment', make, quarter, split, seed)
                      for make in (reports, sentences)]  # fmt: skip
        return mix(*parts)

    def question(self, num_examples, split='train', seed=0):
        """A question about a report, then the report; answered in words.

        Who has the thing, what color is it, what does the person have, or
        is it good. Raises ValueError for fewer than one example.
        """

        def make(rng, n):
            report, scene, polarity = self._reports(rng, n)
            who, colour, thing = self._facts(scene)
            yes = self.encode(['no', 'yes']).numpy()[polarity]
            parts = {'{who}': who, '{colour}': colour, '{thing}': thing,
                     '{yes}': yes}  # fmt: skip
            kind = rng.integers(len(QUESTIONS), size=n)
            X, Y = (np.zeros((n, width), int) for width in (60, 9))
            for i, (ask, reply) in enumerate(QUESTIONS):
                rows = kind == i
                for side, text in ((X, ask), (Y, reply)):
                    columns = [
                        parts[w] if w in parts else self._columns(w, n)[0]
                        for w in text.split()
                    ]
                    filled = np.hstack(columns)[rows]
                    side[rows, : filled.shape[1]] = filled
            return _squeeze(np.hstack([X, report])), self._articles(
                _squeeze(Y)
            )

        return self._unseen('question', make, num_examples, split, seed)

    def unlabelled(self, num_texts, seed=0):
        """English documents and French sentences, one text in each row.

        Returns ids (n, L) padded with 0 and valid_lens (n,); a fifth are
        French, none of them with its translation. For span corruption.
        """
        halves = self.documents(3 * num_texts, seed).halves()
        texts = torch.cat([_widen(x, 24) for x in halves])
        texts = texts[(texts > 0).sum(1) >= 6][: num_texts * 4 // 5]
        rng = _stream('French', seed)
        _, sentences = french.translations(rng, num_texts // 5)
        X = torch.cat([texts, _widen(self.encode(sentences), 24)])
        order = torch.from_numpy(rng.permutation(len(X)))
        return X[order], (X[order] > 0).sum(1)


def _widen(X, width):
    """Rows of ids cut or padded to a width."""
    X = X[:, :width]
    return torch.nn.functional.pad(X, (0, width - X.shape[1]))


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
            row.append(longest[j] + 1 if word == other
                       else max(row[-1], longest[j + 1]))  # fmt: skip
        longest = row
    return 2 * longest[-1] / (len(a) + len(b))

"""Questions about the facts of countries, in many phrasings, as dialogues."""

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .batches import BOS, PAD
from .facts import FactWorld

ASKED_TASKS = 'capital', 'language', 'demonym', 'currency', 'continent'
PHRASINGS = (
    'what is the {task} of {} ?',
    'in {} which {task} is there ?',
    'tell me the {task} that {} has .',
    '{} has which {task} ?',
    'i want to know the {task} of {} .',
    'for {} name its {task} .',
    'which {task} does {} have ?',
    'of {} please say the {task} .',
)
NEW_PHRASINGS = (
    'please tell me what {task} {} has .',
    'of {} i want the {task} .',
    'name the {task} of {} .',
    'for {} what is its {task} ?',
)
USER, ASSISTANT, END = '<user>', '<assistant>', '<end>'


class QuestionWorld(FactWorld):
    """The facts of countries, questions about them, and a chat template.

    A dialogue is `<bos> <user> question <assistant> answer <end>`. Questions
    come in eight phrasings and four new ones, made of the same words. Column
    j of `distinct`, (num_tasks, num_columns), says whether no other asked
    task has the same answer for country j.
    """

    def __init__(self):
        super().__init__()
        told = ' '.join((*PHRASINGS, *NEW_PHRASINGS)).split()
        words = [USER, ASSISTANT, END, *dict.fromkeys(told)]
        new = [x for x in words if x not in self.ids and x != '{task}']
        self.vocab += new
        self.ids = {token: i for i, token in enumerate(self.vocab)}
        self.asked = [self.tasks.index(task) for task in ASKED_TASKS]
        same = self.answers[:, None] == self.answers[self.asked]
        self.distinct = same.sum(1) == 1

    def questions_of(self, tasks, columns, phrasings):
        """Questions as a list of ids, one for each of three (n,) lists.

        A phrasing is a text with `{task}` and `{}` in it.
        """
        return [
            self.encode(
                text.replace('{task}', self.tasks[task]).replace(
                    '{}', self.vocab[self.questions[task, column]]
                )
            )
            for task, column, text in zip(
                tasks, columns, phrasings, strict=True
            )
        ]

    def draw_questions(self, number, tasks, phrasings, columns, generator):
        """Questions drawn from some tasks, columns and phrasings.

        Returns lists of ids, and the answers (number,).
        """
        t, c, p = (
            torch.randint(len(x), (number,), generator=generator).tolist()
            for x in (tasks, columns, phrasings)
        )
        t, c = [tasks[i] for i in t], [columns[i] for i in c]
        texts = self.questions_of(t, c, [phrasings[i] for i in p])
        return texts, self.answers[t, c]

    def dialogues(self, questions, answers):
        """Dialogues (n, num_tokens), padded with 0, and their labels.

        Labels are -100 but for what the assistant says: the answer and the
        end.
        """
        user, assistant, end = self.encode(f'{USER} {ASSISTANT} {END}')
        bos, rows = torch.tensor(BOS), []
        for question, answer in zip(questions, answers, strict=True):
            said = torch.stack((assistant, answer, end))
            rows.append(torch.cat((torch.stack((bos, user)), question, said)))
        X = pad_sequence(rows, batch_first=True)
        told = F.pad(assistant == X, (1, 0))[:, :-1] | (end == X)
        return X, X.masked_fill(~told, -100)

    def columns(self, held_out):
        """The countries that are held out, or the others, as a list."""
        part = self.held_out if held_out else self.listed
        return part[0].nonzero()[:, 0].tolist()

    def prose_and_questions(self, batch_size, tasks, seed=0, num_facts=10):
        """Endless batches of prose, a quarter of them unanswered questions.

        Questions are of `tasks` in all phrasings, one after another.
        """
        generator = torch.Generator().manual_seed(seed)
        length, every = 1 + 7 * num_facts, PHRASINGS + NEW_PHRASINGS
        columns = list(range(self.questions.shape[1]))
        number = batch_size // 4
        while True:
            X = self.prose(batch_size - number, num_facts, generator)
            texts, _ = self.draw_questions(
                2 * num_facts * number, tasks, every, columns, generator
            )
            rows = [
                torch.cat(texts[i::number])[: length - 1]
                for i in range(number)
            ]
            rows = pad_sequence(rows, batch_first=True, padding_value=PAD)
            yield torch.cat((X, F.pad(rows, (1, 0), value=BOS)))

"""What tests/sabotage.py breaks, and which claims must turn red."""

from typing import NamedTuple


class Patch(NamedTuple):
    """A `name`, edits, and the claims that must turn red.

    An edit is (old, new) in a code cell of the notebook, or (old, new, path)
    in another file; `old` must stand there exactly once.
    """

    name: str
    edits: tuple
    red: tuple


class Sabotage(NamedTuple):
    """What is known of the claims of a notebook.

    `runs` are tuples of patches that do not touch each other. `definitional`
    claims hold by construction; each has its reason. `recorded` claims
    depend on recorded rows alone: what turns them red is a changed row.
    """

    runs: tuple
    definitional: dict
    recorded: tuple = ()


UTILS = 'utils.py'
SCALING = 'chapter_large_pretraining/studies/scaling.csv'

INDEX = Sabotage(
    runs=(
        (
            Patch(
                'GPT without a causal mask',
                (
                    (
                        'mask = causal_mask(num_steps, start + num_steps, '
                        'X.device)',
                        'mask = torch.ones(num_steps, start + num_steps, '
                        'dtype=torch.bool)',
                        UTILS,
                    ),
                ),
                (
                    'decoder-only: the measured pattern is the mask',
                    'GPT does not look ahead',
                ),
            ),
            Patch(
                'BERT reads from left to right',
                (
                    (
                        'H = blk(H, mask)\n',
                        'H = blk(H, causal_mask(X.shape[1]))\n',
                        UTILS,
                    ),
                ),
                (
                    'encoder-only: the measured pattern is the mask',
                    'BERT: every token reaches every output',
                ),
            ),
            Patch(
                'no cross-attention',
                (
                    (
                        'X = self.cross_attention(X, memory=memory, '
                        'mask=memory_mask,\n'
                        '                                 cache=other)\n',
                        '',
                        UTILS,
                    ),
                ),
                ('its decoder sees all of the input',),
            ),
            Patch(
                "T5's encoder reads from left to right",
                (
                    (
                        'return self.encoder(self.token_embedding(X), mask, '
                        'n)',
                        'return self.encoder(self.token_embedding(X), '
                        'causal_mask(n), n)',
                        UTILS,
                    ),
                ),
                ('T5: its encoder sees all of the input',),
            ),
            Patch(
                'hidden pairs count in the softmax',
                (
                    (
                        'scores.masked_fill(~mask, hidden)',
                        'scores.masked_fill(~mask, -1)',
                    ),
                ),
                (
                    'the function agrees with the work by hand',
                    'and so does the definition',
                ),
            ),
            Patch(
                'the cache forgets the keys',
                (
                    (
                        'K = torch.cat((self.K, K), dim=2)',
                        'K = torch.cat((0 * self.K, K), dim=2)',
                        UTILS,
                    ),
                ),
                ('with a cache the parts give the whole',),
            ),
            Patch(
                'pre-norm without the connection',
                (
                    (
                        'return X + self.dropout(self.layer(self.norm(X), '
                        '**inputs))',
                        'return self.dropout(self.layer(self.norm(X), '
                        '**inputs))',
                    ),
                ),
                ('pre-norm: a block that writes nothing changes nothing',),
            ),
            Patch(
                'pre-norm in place of post-norm',
                (
                    (
                        'return self.norm(X + self.dropout(self.layer(X, '
                        '**inputs)))',
                        'return X + self.layer(self.norm(X), **inputs)',
                    ),
                ),
                ('post-norm: it normalizes all the same',),
            ),
        ),
        (
            Patch(
                "T5's decoder sees ahead",
                (
                    (
                        'mask = causal_mask(Y.shape[1], num_keys, Y.device)',
                        'mask = torch.ones(Y.shape[1], num_keys, '
                        'dtype=torch.bool)',
                        UTILS,
                    ),
                ),
                ('encoder-decoder: the measured pattern is the mask',),
            ),
            Patch(
                'the layer drops its mask',
                (
                    (
                        'inputs = Q, K, V, mask, bias,',
                        'inputs = Q, K, V, None, bias,',
                    ),
                ),
                ('the mask matters',),
            ),
            Patch(
                'the fused kernel ignores the bias',
                (
                    (
                        'mask = bias if mask is None else torch.where(mask, '
                        'bias, -math.inf)',
                        'pass',
                        UTILS,
                    ),
                ),
                ("PyTorch's kernel gives the same output",),
            ),
            Patch(
                'no scaled initial weights',
                (
                    (
                        'num_writes = 2 * config.num_blks if '
                        'config.scaled_init else 1',
                        'num_writes = 1',
                    ),
                ),
                ('scaled: the same size at every depth, to 15 %',),
            ),
            Patch(
                'random matrices in place of gradients',
                (('p.grad\n', 'torch.randn_like(p)\n'),),
                (
                    'before, the largest is four times the median or more, '
                    'in each matrix',
                ),
            ),
            Patch(
                'AdamW in the blocks, whatever the optimizer',
                (("if optimizer == 'muon':", 'if False:', UTILS),),
                (
                    "Muon's worst run beats the best of AdamW with one rate "
                    'by half a nat',
                ),
            ),
        ),
        (
            Patch(
                'attention ignores the bias',
                (('scores = scores + bias', 'pass'),),
                ('the bias matters',),
            ),
            Patch(
                'attention ignores the scale',
                (
                    (
                        'scale = Q.shape[-1] ** -0.5 if scale is None else '
                        'scale',
                        'scale = Q.shape[-1] ** -0.5',
                    ),
                ),
                ('the scale matters',),
            ),
            Patch(
                'hidden rows are not zero',
                (('weights = weights.masked_fill(~mask, 0)', 'pass'),),
                ('such a query gets zeros, the others do not',),
            ),
            Patch(
                'scaled initial weights always',
                (
                    (
                        'num_writes = 2 * config.num_blks if '
                        'config.scaled_init else 1',
                        'num_writes = 2 * config.num_blks',
                    ),
                ),
                ('plain: more than twice as large after 32 as after 2',),
            ),
            Patch(
                'orthogonalize changes nothing',
                (
                    (
                        'X = X @ Q if tall else Q @ X\n    return X',
                        'pass\n    return X',
                    ),
                ),
                ('after, at most 1.6 times',),
            ),
            Patch(
                'Muon without orthogonalization',
                (
                    (
                        'return orthogonalize(G.bfloat16() if G.is_cuda else '
                        'G).to(G.dtype)',
                        'return G / G.norm(dim=(1, 2), keepdim=True) '
                        '* min(G.shape[1:]) ** 0.5',
                        UTILS,
                    ),
                ),
                ('and with two rates by 0.15 nats',),
            ),
        ),
    ),
    definitional={
        'and never the answer': 'the encoder is handed the input only'
    },
)

SABOTAGE = {'index': INDEX}

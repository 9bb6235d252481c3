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
CSV = 'chapter_large_pretraining/studies/scaling.csv'
LAWS = 'chapter_large_pretraining/laws.py'
IN_PAGE = 'chapter_large_pretraining/in_page.py'
PROCESSES = 'chapter_large_pretraining/processes.py'
FIGURES = 'chapter_large_pretraining/published/figures.py'
BITS = 'chapter_large_pretraining/studies/compression.csv'
REVIEWS = 'chapter_large_pretraining/studies/reviews.csv'
PLATEAU = 'chapter_large_pretraining/studies/plateau.csv'
TASKS = 'chapter_large_pretraining/studies/tasks.csv'
TEXT_TO_TEXT = 'chapter_large_pretraining/studies/text_to_text.csv'
DERIVATIVES = 'chapter_large_pretraining/studies/derivatives.csv'
MIXTURES = 'chapter_large_pretraining/studies/mixtures.csv'
BLOCKS = 'chapter_large_pretraining/studies/blocks.csv'
EXPERTS = 'chapter_large_pretraining/studies/experts.csv'
EXAMPLES = 'chapter_large_pretraining/studies/examples.csv'
PREFERENCES = 'chapter_large_pretraining/studies/preferences.csv'
INSTRUCTIONS = 'chapter_large_pretraining/studies/instructions.csv'
REASONING = 'chapter_large_pretraining/studies/reasoning.csv'
MODULE = 'chapter_large_pretraining/multimodal.py'
PAIRS = 'chapter_large_pretraining/studies/clip.csv'
PAINTED = 'chapter_large_pretraining/studies/dalle.csv'
FROZEN = 'chapter_large_pretraining/studies/flamingo.csv'
STREAMS = 'chapter_large_pretraining/studies/gato.csv'
SHAPES = 'chapter_large_pretraining/published/shapes.py'
PICTURES = 'chapter_large_pretraining/corpora/pictures.py'
DIGITS = 'chapter_large_pretraining/studies/digits.csv'
PIXELS = 'chapter_large_pretraining/studies/pixels.csv'
HIDDEN = 'chapter_large_pretraining/studies/hidden_patches.csv'

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
                        'pass\n',
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
                        'X = X.bmm(Q) if tall else Q.bmm(X)\n    return X',
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
                ('and with two rates by 0.1 nats',),
            ),
        ),
        (
            Patch(
                'Muon orthogonalizes in 200 iterations',
                (
                    (
                        '(1, 1, 1, 1, 1) if square else (3, 2)',
                        '[1] * 200',
                        UTILS,
                    ),
                ),
                (
                    'a step of Muon takes less than one and a half times as '
                    "long as AdamW's",
                ),
            ),
        ),
    ),
    definitional={
        'and never the answer': 'the encoder is handed the input only'
    },
)

BERT = Sabotage(
    runs=(
        (
            Patch(
                'weights in a page are -1, 0 or 1',
                (
                    (
                        'np.float32(most / (2 ** (bits - 1) - 1))',
                        'np.float32(most)',
                        IN_PAGE,
                    ),
                ),
                ('rounding costs no probe more than one point in a hundred',),
            ),
        ),
        (
            Patch(
                'no token is hidden',
                (
                    (
                        'inputs = X.masked_fill(chosen & (draws < 0.8), '
                        'mask_id)',
                        'inputs = X.clone()',
                    ),
                ),
                (
                    'polarity is guessed, wherever the evidence stands',
                    'a foreign text B does harm in the end',
                    'praise makes verbs of praise likelier, blame less likely',
                ),
            ),
            Patch(
                'no label is left out',
                (
                    (
                        'labels = toy[:1].masked_fill(toy[:1] != love, -100)',
                        'labels = toy[:1]',
                    ),
                ),
                ('only the hidden word counts',),
            ),
            Patch(
                'two real tokens are taken for padding',
                (('torch.full((len(X),), 5)', 'torch.full((len(X),), 3)'),),
                ('every token sees every token',),
            ),
        ),
        (
            Patch(
                'fine-tuning starts from random weights',
                (('copy.deepcopy(bert)', 'BERT(bert.config)'),),
                (
                    'with 2,048 labels, plain opinions: above .8, and 15 '
                    'points above words',
                    'with 2,048 labels, negated opinions: above .8, and 15 '
                    'points above words',
                    'with 2,048 labels, contrasting opinions: above .8, and '
                    '15 points above words',
                    'with 32 labels, plain opinions: 10 points above words',
                    'entailments and contradictions are told',
                    'from 32 sentences, 15 points above the most frequent tag',
                    'most answers are found',
                    'without the question, 40 points fewer',
                    'agreement is predicted better than by counting signs',
                ),
            ),
            Patch(
                'padding is not hidden',
                (
                    (
                        'mask = padding if mask is None else padding & mask',
                        'pass',
                    ),
                ),
                ('no token sees the padding', 'padding changes nothing'),
            ),
            Patch(
                'the head of ours in the live run',
                (
                    (
                        'dataclasses.replace(config, mlm_transform=True)',
                        'config',
                    ),
                ),
                ('and the probe is a coin',),
            ),
        ),
        (
            Patch(
                'the learning rate is a hundred times too small',
                (("recipe = {'lr': 0.01,", "recipe = {'lr': 0.0001,"),),
                (
                    'the loss ends far below unigram and bigram',
                    'at step 200 the loss is far below the unigram model',
                    'the loss falls far below the unigram model',
                    'polarity is guessed, wherever the evidence stands',
                    'a head looks at the token before, no untrained one does',
                    'a head looks at the token after, no untrained one does',
                ),
            ),
            Patch(
                'what has no mask is read with one',
                (
                    (
                        ', reach(tiny, toy[1])',
                        ', reach(read_padded, toy[1])',
                    ),
                ),
                ('without the mask it would',),
            ),
        ),
        (
            Patch(
                'the control has evidence, too',
                (
                    (
                        '{side: world.evidence(500, side) for side in sides}',
                        "{side: world.evidence(500, 'left') "
                        'for side in sides}',
                    ),
                ),
                ('without evidence it is a coin',),
            ),
            Patch(
                'the rival of a color is padding',
                (('scores[index, rival[0]]', 'scores[index, 0]'),),
                ('and binding is a coin',),
            ),
            Patch(
                'a car is mentioned twice',
                (
                    (
                        'anna bought a red rose in paris . the <mask>',
                        'anna bought a red car in rome . the <mask>',
                    ),
                ),
                ('a car is guessed where a car was mentioned',),
            ),
            Patch(
                'the question is not erased',
                (('replace(data, X=X)', 'replace(data)'),),
                ('without the question, 40 points fewer',),
            ),
            Patch(
                '2,048 labels for 32',
                (
                    (
                        'data = world.sentiment(size)',
                        'data, steps = world.sentiment(2048), 900',
                    ),
                ),
                ('and negated and contrasting ones not at all',),
            ),
            Patch(
                'changed rows of plateau.csv',
                tuple(
                    (old, new, PLATEAU)
                    for old, new in (
                        (
                            (
                                'head,0,1600,pre,0.07,1,2,0.3,muon,0.01,paddi'
                                'ng,0,0.512'
                            ),
                            (
                                'head,0,1600,pre,0.07,1,2,0.3,muon,0.01,paddi'
                                'ng,300,0.9'
                            ),
                        ),
                        (
                            (
                                'optimizer,0,1600,pre,0.07,1,1,0.3,adamw,0.00'
                                '3,padding,0'
                            ),
                            (
                                'optimizer,0,1600,pre,0.07,1,1,0.3,adamw,0.00'
                                '3,padding,9'
                            ),
                        ),
                        (
                            (
                                'all,0,1600,post,0.02,0,2,0.15,adamw,0.003,pa'
                                'dding,0'
                            ),
                            (
                                'all,0,1600,post,0.02,0,2,0.15,adamw,0.003,pa'
                                'dding,9'
                            ),
                        ),
                        (
                            (
                                'initialization,0,1600,pre,0.02,0,1,0.3,muon,'
                                '0.01,padding,6'
                            ),
                            (
                                'initialization,0,1600,pre,0.02,0,1,0.3,muon,'
                                '0.01,padding,16'
                            ),
                        ),
                        (
                            (
                                ''
                                'norm,1,1600,post,0.07,1,1,0.3,muon,0.01,padding,8'
                            ),
                            (
                                'norm,1,1600,post,0.07,1,1,0.3,muon,0.01,padd'
                                'ing,18'
                            ),
                        ),
                        (
                            (
                                'rate doubled,1,1600,pre,0.07,1,1,0.3,muon,0.'
                                '02,padding,7'
                            ),
                            (
                                'rate doubled,1,1600,pre,0.07,1,1,0.3,muon,0.'
                                '02,padding,17'
                            ),
                        ),
                        (
                            (
                                ''
                                '850,1.0,1.0,0.6840000152587891,0.5586733818054199'
                            ),
                            '850,0.6,1.0,0.684,0.9',
                        ),
                        ('0.9605887532234192', '2.6'),
                        ('causal,0,0.5,', 'causal,0,0.9,'),
                        ('1.9426099061965942', '0.5'),
                    )
                ),
                (
                    'recorded: the run of ours above ends within 0.2 nats '
                    'of these',
                    'recorded: head: never with any seed',
                    'recorded: optimizer: never with any seed',
                    'recorded: all: never with any seed',
                    (
                        'recorded: with this head the loss is far bel'
                        'ow the bigram model'
                    ),
                    'recorded: and the probe is a coin',
                    ('recorded: initialization: within 200 steps of ours'),
                    'recorded: norm: within 200 steps of ours',
                    'recorded: rate doubled: within 200 steps of ours',
                    (
                        'recorded: with the evidence to the right, th'
                        'e twin can only guess'
                    ),
                    'recorded: BERT reads it',
                    (
                        'recorded: on words of text A, before text B, '
                        'the twin loses a nat'
                    ),
                ),
            ),
            Patch(
                'changed rows of tasks.csv',
                tuple(
                    (old, new, TASKS)
                    for old, new in (
                        (
                            'questions,competing,none,8000,1600,1,0.9',
                            'questions,competing,none,8000,1600,1,0.5',
                        ),
                        ('0.9885714054107666,0.9938837885856628', '0.5,0.5'),
                        ('0.9428571462631226,0.8318042755126953', '0.5,0.5'),
                        (
                            (
                                '0.9959999918937683,0.9509999752044678,0.9049'
                                '999713897705'
                            ),
                            '0.2,0.2,0.2',
                        ),
                        ('0.9290000200271606', '0.5'),
                    )
                ),
                (
                    (
                        'recorded: answers: above 0.9 with each seed,'
                        ' 50 points more than without the question'
                    ),
                    'recorded: and 30 points above the plain start and above '
                    'scratch',
                    'recorded: each kind of pairs: above 0.9, and one below '
                    '0.6 from plain documents and from scratch',
                    'recorded: neutral pairs: above 0.8 with five of eight '
                    'seeds, with seven after twice the steps',
                    'recorded: every form above 0.85 on average',
                    'recorded: and with each seed after twice the pretraining',
                ),
            ),
        ),
    ),
    definitional={},
)

BERT_PUBLISHED = Sabotage(
    runs=(
        (
            Patch(
                'MiniLM with random weights',
                (
                    (
                        '    minilm = load_official(minilm_path)\n',
                        '    minilm = load_official(minilm_path)\n'
                        '    import utils\n'
                        '    utils.init_weights(minilm, minilm.config)\n',
                    ),
                ),
                (
                    'the last block is 10 points above rivals without '
                    'trained blocks',
                    'MiniLM finds every partner, and no rival does',
                    'a head looks at the token before, and none of the '
                    'untrained does',
                    'a head looks at the token after, and none of the '
                    'untrained does',
                    'a head looks at the first token, and none of the '
                    'untrained does',
                    'MiniLM with its blocks, fine-tuned, is 3 points above '
                    'all without',
                ),
            ),
            Patch(
                'pieces are cut from their ends',
                (('range(len(rest), 0, -1)', 'range(1, len(rest) + 1)'),),
                ('each is cut as by the published tokenizer',),
            ),
            Patch(
                'changed rows of reviews.csv',
                tuple(
                    (old, new, REVIEWS)
                    for old, new in (
                        (
                            'minilm,64,0.0001,24,200,800,0,0.665,0.71,nan,',
                            'minilm,64,0.0001,24,200,800,0,0.665,0.5,nan,',
                        ),
                        (
                            (
                                ''
                                'embeddings,512,100.0,0,200,800,0,0.785,0.7275,nan,'
                            ),
                            'embeddings,512,100.0,0,200,800,0,0.785,0.9,nan,',
                        ),
                        (
                            'frozen,128,1.0,0,200,800,0,0.75,0.74875,nan,',
                            'frozen,128,1.0,0,200,800,0,0.75,0.9,nan,',
                        ),
                        (
                            (
                                'minute,16,0.0002,100,200,800,0,0.5,0.47875,'
                                '6.251648972487317,'
                            ),
                            'minute,16,0.0002,100,200,800,0,0.5,0.47875,6.9,',
                        ),
                        (
                            'scratch,2048,0.002,512,200,800,0,0.735,0.74875,',
                            'scratch,2048,0.002,512,200,800,0,0.735,0.6,',
                        ),
                        (
                            'majority,2048,1.0,0,200,800,0,0.485,0.46625,',
                            'majority,2048,1.0,0,200,800,0,0.485,1.0,',
                        ),
                    )
                ),
                (
                    'recorded: from 64 labels, each of its runs beats '
                    'the four without',
                    'recorded: with 128 labels, on average 4 points '
                    'above the four with 512',
                    'recorded: with 128 labels, on average 4 points '
                    'above itself frozen',
                    'recorded: the minute has taught half a nat about '
                    'hidden pieces',
                    'recorded: with 512 and with 2,048 labels, on average '
                    '3 points behind',
                    'recorded: with 2,048, on average 10 points above the '
                    'commoner class',
                ),
            ),
        ),
    ),
    definitional={},
)

BERT_DERIVATIVES = Sabotage(
    runs=(
        (
            Patch(
                'nothing is learned',
                (("recipe = {'lr': 0.01,", "recipe = {'lr': 1e-7,"),),
                (
                    'tags: BERT is 10 points above the word, which knows '
                    'more sentences',
                    'opinions: BERT is within 5 points of added '
                    'polarities, and has negated ones wrong',
                    'BERT is half a nat better than both neighbors',
                    'recorded: the run above, to 5 % of the loss',
                    'one mask is worse than ten, by 2 nats',
                    'but learned by heart',
                    'soft and hard targets beat hard ones alone in every run',
                    'replaced words are found, better than by none',
                    'and as well as by counting neighbors, to 3 points',
                    'the queries guess words, 0.3 nats better than from both '
                    'neighbors',
                ),
            ),
            Patch(
                'embeddings and blocks with all heads',
                (
                    (
                        'whole = num_params(model) - heads',
                        'whole = num_params(model)',
                    ),
                ),
                ('BERT-base has 108 million',),
            ),
            Patch(
                'no block is shared',
                (
                    (
                        'num_different = 1 if config.share_blks else '
                        'config.num_blks',
                        'num_different = config.num_blks',
                        UTILS,
                    ),
                ),
                ('ALBERT-base has 12 million',),
            ),
            Patch(
                'all lengths of spans are equally likely',
                (
                    (
                        'probs = (1 - p) ** torch.arange(longest)',
                        'probs = torch.ones(longest)',
                    ),
                ),
                ('3.8, as in the paper',),
            ),
            Patch(
                'borders are looked for inside the span',
                (
                    (
                        'before = positions.masked_fill(span > 0, 0)',
                        'before = positions.masked_fill(span > 1, 0)',
                    ),
                ),
                ('the span this red lies between love and car',),
            ),
            Patch(
                'the teacher is not softened',
                (
                    (
                        'target = (target / temperature).softmax(-1)',
                        'target = target.softmax(-1)',
                    ),
                ),
                ('nothing is lost where the student says the same',),
            ),
            Patch(
                'the query stream of XLNet sees its own word',
                (
                    (
                        'query = rank.gather(1, at)[:, :, None] > rank',
                        'query = rank.gather(1, at)[:, :, None] >= rank',
                    ),
                ),
                (
                    'no query reads its own word',
                    'each reads what comes before it in the order',
                ),
            ),
            Patch(
                'changed rows of derivatives.csv',
                (
                    ('1.3215070962905884', '1.2215070962905884', DERIVATIVES),
                    ('1.3783559799194336', '1.2783559799194336', DERIVATIVES),
                    ('0.6673427820205688', '0.5673427820205688', DERIVATIVES),
                    ('1.8419189453125', '1.6419189453125', DERIVATIVES),
                    ('7.488694190979004', '6.488694190979004', DERIVATIVES),
                    ('1.3016159534454346', '1.5016159534454346', DERIVATIVES),
                    ('1.8796794414520264', '1.3796794414520264', DERIVATIVES),
                    ('0.6159999966621399', '0.9159999966621399', DERIVATIVES),
                    ('0.3634408712387085', '0.4634408712387085', DERIVATIVES),
                    (
                        '0.08673469722270966',
                        '0.06673469722270966',
                        DERIVATIVES,
                    ),
                    ('1.4358872175216675', '1.3358872175216675', DERIVATIVES),
                    ('0.9619068834929828', '0.9219068834929828', DERIVATIVES),
                    ('1.4368830919265747', '1.3368830919265747', DERIVATIVES),
                    ('1.2810825109481812', '1.0810825109481812', DERIVATIVES),
                    ('1.252082347869873', '1.452082347869873', DERIVATIVES),
                    ('0.8966362218756961', '0.9266362218756961', DERIVATIVES),
                    ('0.8625529071062598', '0.8925529071062598', DERIVATIVES),
                    ('0.9151258632212074', '0.9551258632212074', DERIVATIVES),
                    ('0.489,0.543', '0.489,0.643', DERIVATIVES),
                    ('1.3739428520202637', '1.3039428520202637', DERIVATIVES),
                    ('0.5419999957084656', '0.9419999957084656', DERIVATIVES),
                    ('0.9625751837825797', '0.7625751837825797', DERIVATIVES),
                ),
                (
                    'recorded: foreign texts cost 0.03 nats in each run',
                    'recorded: with the question on top 0.06 in each run',
                    'recorded: pairs are judged better than by a coin, by'
                    ' 10 points',
                    'recorded: ten masks cost 0.1 nats against new ones '
                    'in each run',
                    'recorded: with one mask the loss is above that of no'
                    ' training',
                    'recorded: shared blocks cost something, and less '
                    'than 0.1 nats, with each seed',
                    'recorded: with a narrow embedding the loss is that '
                    'of both neighbors, to 0.1 nats',
                    'recorded: with it the polarity score is 30 points '
                    'behind in each run',
                    'recorded: with spans, pairs of words come back less '
                    'often in each run',
                    'recorded: with borders, spans of four more often, in'
                    ' each run',
                    'recorded: single words are guessed worse, by 0.15 '
                    'nats in each run',
                    'recorded: borders give better tags than spans alone '
                    'in each run',
                    'recorded: without a teacher the loss is 0.05 higher '
                    'in each run',
                    'recorded: soft and hard targets end within 0.03 nats'
                    ' on average',
                    'recorded: with twice the steps and no teacher it is '
                    'lower than with one, on average',
                    'recorded: all words give better tags than the chosen'
                    ' ones, in each run',
                    'recorded: a weight of 50 gives worse tags than 5, in'
                    ' each run',
                    'recorded: BERT gives better tags than any of them, '
                    'in each run',
                    'recorded: in opinions all four stay below the bag of'
                    ' words, in each run',
                    'recorded: fewer masks alone cost 0.08 nats in each run',
                    'recorded: the polarity score stays below that of '
                    'BERT in each run',
                    'recorded: tags are as good as those of BERT, to 3 points',
                ),
            ),
        ),
    ),
    definitional={},
)

T5 = Sabotage(
    runs=(
        (
            Patch(
                'a memory is not read',
                (
                    (
                        '_, K, V = self.project(memory)',
                        '_, K, V = self.project(0 * memory)',
                        UTILS,
                    ),
                ),
                (
                    'a memory gives keys and values',
                    'with a cache it is taken in once',
                    'what was measured is what the masks say',
                    'the decoder sees all of the input',
                    'the loss ends a nat below the bigram table',
                    'it reads: with the input of another text it is two '
                    'nats higher',
                    'more words are right than by one word on each side',
                    'three of four summaries are right to the last word',
                    '2 points more than of any rival',
                ),
            ),
        ),
        (
            Patch(
                'padding is not hidden from the encoder',
                (
                    (
                        'mask = None if valid_lens is None else '
                        'padding_mask(valid_lens, n)',
                        'mask = None',
                    ),
                ),
                ('padding changes nothing',),
            ),
            Patch(
                'the words of a span stand before its sentinel',
                (('torch.stack((stand_in, X), 2)', 'torch.stack((X, X), 2)'),),
                ('the target of d2l',),
            ),
            Patch(
                'spans are hidden without a sentinel',
                (('torch.where(first, stand_in, X)', 'X'),),
                ('the input of d2l',),
            ),
            Patch(
                'spans may lie on each other',
                (
                    (
                        'return kept[:, :-1].cumsum(1) + lengths.cumsum(1) '
                        '- lengths',
                        'return kept[:, :-1]',
                    ),
                ),
                (
                    'five are hidden',
                    'but for the ends, all places are hidden alike, to four '
                    'points',
                ),
            ),
            Patch(
                'the tables take the number that fits worst',
                (('by_length[length][k] * share[k]', '-share[k]'),),
                ('of their number, two words on each side tell more than T5',),
            ),
            Patch(
                'both run without a cache',
                (('use_cache=use_cache', 'use_cache=False'),),
                ('the cache saves more than half of the time',),
            ),
            Patch(
                'the summarizer is not pretrained',
                (
                    (
                        "(('pretrained', pretrained, reports)",
                        "(('pretrained', new_t5(1), reports)",
                    ),
                ),
                (
                    'three of four summaries are right to the last word',
                    '2 points more than of any rival',
                ),
            ),
            Patch(
                'beams keep the least likely',
                (('.topk(num_beams)', '.topk(num_beams, largest=False)'),),
                ('one beam is greedy', 'four beams find likelier summaries'),
            ),
        ),
        (
            Patch(
                'a memory is taken in again and again',
                (('if memory is not None and cache:', 'if False:', UTILS),),
                ('with a cache it is taken in once',),
            ),
            Patch(
                'the encoder is shown the output',
                (
                    (
                        'return self.decode(Y, self.encode(X, valid_lens)',
                        'X = (X + Y.sum(1, keepdim=True)) % 16\n'
                        '        return self.decode(Y, '
                        'self.encode(X, valid_lens)',
                    ),
                ),
                ('what was measured is what the masks say',),
            ),
            Patch(
                'padding of the memory is not hidden',
                (
                    (
                        'memory_mask = padding_mask(valid_lens, '
                        'memory.shape[1])',
                        'pass',
                    ),
                ),
                ('padding changes nothing',),
            ),
            Patch(
                'held-out texts are those of training',
                (("world.unlabelled(500, 'test')", 'world.unlabelled(500)'),),
                ('no held-out text was trained on',),
            ),
        ),
        (
            Patch(
                'the cache forgets the keys',
                (
                    (
                        'K = torch.cat((self.K, K), dim=2)',
                        'K = torch.cat((0 * self.K, K), dim=2)',
                        UTILS,
                    ),
                ),
                ('with the cache the tokens are the same',),
            ),
            Patch(
                'a hundred texts',
                (('world.unlabelled(32000)', 'world.unlabelled(100)'),),
                ('the loss ends a nat below the bigram table',),
            ),
            Patch(
                'small outputs',
                (
                    (
                        'normed = torch.randn(100, num_hiddens)',
                        'normed = torch.randn(100, num_hiddens) / 22',
                    ),
                ),
                ('as it is, it is eight times as high',),
            ),
            Patch(
                'the loss is looked at all the time',
                (('eval_every=100', 'eval_every=2'),),
                ('at most 90 seconds on each thread',),
            ),
            Patch(
                'one beam has three tokens',
                (
                    (
                        'test.valid_lens, 20,\n'
                        '                               num_beams)',
                        'test.valid_lens,\n'
                        '                               '
                        '20 if num_beams > 1 else 3, num_beams)',
                    ),
                ),
                ('they are neither better nor worse, to three points',),
            ),
        ),
        (
            Patch(
                'positions are added, not subtracted',
                (
                    (
                        'offsets = keys - keys[num_keys - num_queries :, '
                        'None]',
                        'offsets = keys + keys[num_keys - num_queries :, '
                        'None]',
                    ),
                ),
                (
                    'one step down and to the right nothing changes',
                    'each bucket has a number of its own',
                ),
            ),
            Patch(
                'layer norm',
                (
                    (
                        'nn.RMSNorm if config.rms_norm else nn.LayerNorm',
                        'nn.LayerNorm',
                        UTILS,
                    ),
                ),
                (
                    'the norm of T5 is RMS norm with a gain',
                    'and has nothing else to learn',
                ),
            ),
            Patch(
                'large outputs',
                (
                    (
                        'normed = torch.randn(100, num_hiddens)',
                        'normed = torch.randn(100, num_hiddens) * 10',
                    ),
                ),
                ('divided, the first loss is that of guessing, to a nat',),
            ),
            Patch(
                'a shape is wrong',
                (
                    (
                        "'t5-large': (1024, 16, 24,",
                        "'t5-large': (1024, 16, 20,",
                        'chapter_large_pretraining/published/shapes.py',
                    ),
                ),
                ('to five per cent, they are those of the paper',),
            ),
            Patch(
                'nothing attends to the input, whatever the mask',
                (
                    (
                        'X = self.cross_attention(X, memory=memory, '
                        'mask=memory_mask,\n'
                        '                                 cache=other)\n',
                        'pass\n',
                    ),
                ),
                (
                    'without the mask it would',
                    'the decoder sees all of the input',
                ),
            ),
            Patch(
                'test reports are those of training',
                (("world.summary(300, 'test')", 'world.summary(512)[:300]'),),
                ('no test report was trained on',),
            ),
            Patch(
                'ROUGE-L without a mean',
                (
                    (
                        'return 2 * longest[-1] / (len(a) + len(b))',
                        'return longest[-1] / len(b)',
                        'chapter_large_pretraining/corpora/text_tasks.py',
                    ),
                ),
                ('5 words of 5 and of 6',),
            ),
            Patch(
                'changed rows of text_to_text.csv',
                (
                    ('0.948,0.87', '0.948,0.5', TEXT_TO_TEXT),
                    ('0.97,0.904', '0.97,0.5', TEXT_TO_TEXT),
                    ('0.748,0.252', '0.748,0.1', TEXT_TO_TEXT),
                    ('0.85,0.446', '0.85,0.0', TEXT_TO_TEXT),
                ),
                (
                    'recorded: 512 reports, 400 steps: pretrained is 25 '
                    'points ahead',
                    'recorded: with more steps the lead is gone, to four '
                    'points',
                    'recorded: with 128 reports it stays, 5 points with '
                    'every seed',
                    'recorded: copying is ahead after every number of steps, '
                    'on average',
                ),
            ),
        ),
    ),
    definitional={},
)

T5_TASKS = Sabotage(
    runs=(
        (
            Patch(
                'weights in a page are -1, 0 or 1',
                (
                    (
                        'np.float32(most / (2 ** (bits - 1) - 1))',
                        'np.float32(most)',
                        IN_PAGE,
                    ),
                ),
                ('rounding costs no task more than one point in a hundred',),
            ),
        ),
        (
            Patch(
                'four tasks are trained for one step',
                (('seq2seq_loss, 900, lr', 'seq2seq_loss, 1, lr'),),
                (
                    *(
                        f'{task}: at most {most} of the errors of the rule'
                        for task, most in (
                            ('translation', 0.25),
                            ('summary', 0.25),
                            ('sentiment', 0.67),
                            ('question', 0.67),
                        )
                    ),
                    '95 % of the translations have the right length',
                    *(
                        f'{asked}: the prefix gets what it asks for'
                        for asked in (
                            'report, question',
                            'report, sentiment',
                            'sentence, translation',
                            'sentence, sentiment',
                        )
                    ),
                    'a head looks at the noun, then back at the adjective',
                    'a head looks at the noun while the article is written',
                    'the adjective is not needed for it',
                ),
            ),
            Patch(
                'the dictionary knows whole sentences',
                (
                    (
                        'by_words = [by_word(text) for text in english]',
                        'by_words = in_french',
                    ),
                ),
                ('a dictionary translates fewer than one sentence in ten',),
            ),
            Patch(
                'beam search keeps the least likely beginnings',
                (
                    (
                        'scores.view(len(X), -1).topk(num_beams)',
                        'scores.view(len(X), -1).topk('
                        'num_beams, largest=False)',
                        UTILS,
                    ),
                ),
                (
                    'four beams find what is likelier than what one finds',
                    'where they err, the truth is seldom likelier',
                ),
            ),
            Patch(
                'sizes are not limited',
                (('float(min(size, limit))', 'float(size)'),),
                ('a limit below all sizes makes the shares equal',),
            ),
            Patch(
                'all tasks are drawn equally often',
                (
                    (
                        'torch.multinomial(rates, 1, generator=generator)',
                        'torch.multinomial(rates**0, 1, generator=generator)',
                    ),
                ),
                ('2,000 draws come within 4 points of the shares',),
            ),
            Patch(
                'the sources of the GPT are shuffled',
                (
                    (
                        "gpts = {'GPT': train_gpt(*two_tasks),",
                        "gpts = {'GPT': train_gpt(*map(shuffled, two_tasks)),",
                    ),
                ),
                (
                    'one GPT gets more words of translations right than with '
                    'others',
                    'and more of the judgements than the majority',
                ),
            ),
            Patch(
                'recorded scores of mixtures are others',
                tuple(
                    (old, new, MIXTURES)
                    for old, new in (
                        (
                            '"pretrained, fine-tuned",none,0,0,0.034,0.488,',
                            '"pretrained, fine-tuned",none,0,0,1.0,0.0,',
                        ),
                        (
                            'all at once,limited,0,0,0.0,0.036,',
                            'all at once,limited,0,0,0.0,0.9,',
                        ),
                        ('equal,0,0,0.272,0.83,', 'equal,0,0,0.272,0.0,'),
                        ('proportional,0,0,0.98,', 'proportional,0,0,0.0,'),
                    )
                ),
                (
                    'recorded: alone beats pretrained in translations, by 60 '
                    'points',
                    'recorded: all at once is behind both in summaries, by '
                    '30 points',
                    'recorded: fine-tuning after it does not catch up, by 5 '
                    'points',
                    'recorded: summaries are best in equal shares, by 35 '
                    'points',
                    'recorded: all tasks in equal shares beat fine-tuning for '
                    'one: in summaries by 20 points',
                    'recorded: translations are best in proportion, by 15 '
                    'points',
                ),
            ),
        ),
        (
            Patch(
                'reports are judged where they should be summarized',
                (
                    (
                        "summarized = reply(multitask, 'summary', reports)",
                        "summarized = reply(multitask, 'sentiment', reports)",
                    ),
                ),
                ('nothing else is judged, and all get some reply',),
            ),
            Patch(
                'the two kinds of opinions change places',
                (
                    (
                        "'opinions only': opinions[:1600]",
                        "'opinions only': opinions[:2400]",
                    ),
                    (
                        "'and reports': opinions[:2400]",
                        "'and reports': opinions[:1600]",
                    ),
                ),
                (
                    'where some reports were judged, the prefix is heeded',
                    'where none was, in half as many cases or fewer',
                ),
            ),
            Patch(
                'the French words are in English order',
                (
                    (
                        'le, nom, adjectif = 3, 4, 5',
                        'le, nom, adjectif = 3, 5, 4',
                    ),
                ),
                (
                    'a head looks at the noun, then back at the adjective',
                    'it does not go word by word',
                ),
            ),
            Patch(
                'the decoder looks all the same',
                (
                    (
                        'may_look[le, word] = looked_at',
                        'may_look[le, word] = 1',
                    ),
                ),
                (
                    'without both ways more than every third article is wrong',
                    'where the encoder is closed, the look decides: 25 points',
                ),
            ),
        ),
        (
            Patch(
                'the noun is hidden instead of the adjective',
                (
                    (
                        'for word in (noun, adjective)\n',
                        'for word in (noun, noun)\n',
                    ),
                ),
                ('the adjective is not needed for it',),
            ),
        ),
    ),
    definitional={},
)

T5_DERIVATIVES = Sabotage(
    runs=(
        (
            Patch(
                'masks of prefix and decoder are exchanged',
                (
                    (
                        ('if self.sees_input:\n        mask = prefix_mask'),
                        (
                            'if not self.sees_input:\n        mask = prefi'
                            'x_mask'
                        ),
                    ),
                ),
                (
                    ('a prefix model reads its input in both directions'),
                    'a decoder reads it from left to right',
                ),
            ),
            Patch(
                'padding stays where it was',
                (('return X.gather(1, shifted % n)', 'return X'),),
                (
                    'prefix: padding changes nothing',
                    'decoder: padding changes nothing',
                ),
            ),
            Patch(
                'the head is counted for what is read, too',
                (
                    (
                        'head = count(model.head) * num_written',
                        (
                            'head = count(model.head) * (num_read + num_w'
                            'ritten)'
                        ),
                    ),
                ),
                (('both counts agree to 0.5 %, for each architecture'),),
            ),
            Patch(
                'the last word is read, too',
                (
                    (
                        'cut = 1 + (share * (valid_lens - 1)).long()',
                        'cut = 1 + (share * valid_lens).long()',
                    ),
                ),
                ('something is read and something is left',),
            ),
            Patch(
                'one step for each architecture',
                (
                    (
                        'world.summary(1000), 250, batch_size=32)',
                        'world.summary(1000), 1, batch_size=32)',
                    ),
                ),
                (
                    (
                        'each is better than the first sentence by 20'
                        ' points of ROUGE-L'
                    ),
                ),
            ),
            Patch(
                'the gate is as wide as the network was',
                (
                    (
                        (
                            "'t5-v1_1-base': (768, 12, 12, T5_1_1 | {'ffn"
                            "_num_hiddens': 2048})"
                        ),
                        (
                            "'t5-v1_1-base': (768, 12, 12, T5_1_1 | {'ffn"
                            "_num_hiddens': 3072})"
                        ),
                        SHAPES,
                    ),
                ),
                (
                    (
                        'a gate of two thirds of the width takes as m'
                        'any parameters'
                    ),
                    ('an output layer of its own accounts for the rest'),
                ),
            ),
            Patch(
                'ReLU is narrow',
                (("('ReLU', 48, 'relu')", "('ReLU', 4, 'relu')"),),
                (
                    'equal parameters, to 1 %',
                    ('on average of the seeds the gate gains nothing'),
                ),
            ),
            Patch(
                'another id for the mask',
                (
                    (
                        ('return X.masked_fill(chosen, mask_id), valid_lens'),
                        (
                            'return X.masked_fill(chosen, mask_id + 400),'
                            ' valid_lens'
                        ),
                    ),
                ),
                ('no word is new',),
            ),
            Patch(
                'nothing is pretrained for summaries',
                (
                    (
                        'bart_steps[objective], lr=0.015,',
                        'bart_steps[objective], lr=1e-7,',
                    ),
                ),
                (
                    (
                        'to write the whole text prepares better than'
                        ' spans, by 12 points'
                    ),
                ),
            ),
            Patch(
                'balance without probabilities',
                (
                    (
                        (
                            'self.balance = num_experts * (self.share * p'
                            'robs.mean(0)).sum()'
                        ),
                        (
                            'self.balance = num_experts * (self.share * s'
                            'elf.share).sum()'
                        ),
                    ),
                ),
                (
                    ('balance, and one token in four turned away, as by hand'),
                    (
                        'without the auxiliary loss 6 points more of '
                        'the tokens are turned away'
                    ),
                ),
            ),
            Patch(
                (
                    'words of another number for the pretrained e'
                    'ncoder, its own for the other'
                ),
                (
                    (
                        "'pretrained': number_encoder(numbers)",
                        "'pretrained': number_encoder(shuffled)",
                    ),
                    (
                        "'words shuffled': number_encoder(shuffled)",
                        "'words shuffled': number_encoder(numbers)",
                    ),
                ),
                (
                    (
                        'words from text only: the pretrained encoder'
                        ' is right above 0.6'
                    ),
                    ('the others stay within 10 points of chance, 0.10'),
                    'shuffled words draw what they met, above 0.6',
                ),
            ),
        ),
        (
            Patch(
                'the beginning and the rest overlap',
                (
                    (
                        'rest = F.pad(~read, (0, 1), value=True)',
                        'rest = F.pad(~read, (1, 0), value=True)',
                    ),
                ),
                (('a beginning and its labels are the text and its end'),),
            ),
            Patch(
                'scores of each head are as wide as the model',
                (
                    (
                        (
                            'scores = sum(4 * m.numel() * model.config.he'
                            'ad_width for m in maps)'
                        ),
                        (
                            'scores = sum(16 * m.numel() * model.config.h'
                            'ead_width for m in maps)'
                        ),
                    ),
                ),
                (
                    ('both counts agree to 0.5 %, for each architecture'),
                    'scores are less than a tenth',
                ),
            ),
            Patch(
                ('generators learn with descriptions of other pictures'),
                (
                    (
                        'text[classes[i], word])',
                        'text[classes[i.flip(0)], word])',
                    ),
                ),
                (
                    (
                        'words seen with pictures: any encoder will d'
                        'o, above 0.7'
                    ),
                    (
                        'words from text only: the pretrained encoder'
                        ' is right above 0.6'
                    ),
                ),
            ),
            Patch(
                'changed rows of text_to_text.csv',
                (
                    (
                        '0.3365078413528896,0.838,0.444',
                        '1.0,1.0,1.0',
                        TEXT_TO_TEXT,
                    ),
                    (
                        '0.6416476270592204,0.912,0.97',
                        '0.1,0.1,0.1',
                        TEXT_TO_TEXT,
                    ),
                    (
                        '0.4785439658972766,0.918,0.74',
                        '0.1,0.1,0.1',
                        TEXT_TO_TEXT,
                    ),
                    (
                        '0.8702500907694444,0.718,0.634,',
                        '0.1,0.7,5.0,',
                        TEXT_TO_TEXT,
                    ),
                ),
                (
                    (
                        'recorded: every start is better than none by 5 '
                        'points, with each seed'
                    ),
                    (
                        'recorded: denoising suits the encoder-decode'
                        'r best, by 5 points with each seed'
                    ),
                    ('recorded: on average this start is the best of all'),
                    (
                        'recorded: with denoising it is ahead of every '
                        'single stack, with each seed'
                    ),
                    (
                        'recorded: with spans four blocks are behind two '
                        'of the same mask, on average'
                    ),
                    (
                        'recorded: copying is better than no pretrain'
                        'ing by 8 points of ROUGE-L, with each seed'
                    ),
                    ('recorded: the better half of that is not noise'),
                    ('recorded: opinions gain by noise, 15 points on average'),
                    (
                        'recorded: with spans it is behind the decoder of '
                        'two blocks by 3 points, on average'
                    ),
                ),
            ),
            Patch(
                'changed rows of experts.csv',
                (
                    ('3.9867073059463656', '9.0', EXPERTS),
                    ('3.900082553658976', '8.0', EXPERTS),
                    ('4.88722746903632', '1.0', EXPERTS),
                    ('0.13985158503055573', '0.0', EXPERTS),
                    ('0.2518731951713562', '0.0', EXPERTS),
                ),
                (
                    (
                        'recorded: at the end experts beat equal comp'
                        'ute with each seed'
                    ),
                    (
                        'recorded: and stay above the dense model of '
                        'equal parameters'
                    ),
                    (
                        'recorded: on average they are behind it after '
                        '150 steps, and the lead grows by 0.04 nats'
                    ),
                    (
                        'recorded: without it the loss is higher at t'
                        'he end, with each seed'
                    ),
                    (
                        'recorded: and the expert that is wanted most'
                        ' is wanted by more'
                    ),
                    (
                        'recorded: without the auxiliary loss a large'
                        'r share is turned away, at every length with'
                        ' each seed'
                    ),
                ),
            ),
        ),
    ),
    definitional={},
)

NORMS = 'chapter_large_pretraining/studies/norms.csv'
AMOUNTS = 'chapter_large_pretraining/studies/amounts.csv'

GPT = Sabotage(
    runs=(
        (
            Patch(
                'nothing is learned',
                (("settings = {'lr': 0.015,", "settings = {'lr': 1e-6,"),),
                (
                    'and they fall',
                    'in the small world GPT beats the best of its rivals by '
                    'a tenth of a bit',
                    'also with no more context than the 5-gram has, by half '
                    'of that',
                    'GPT is better than the 5-gram in every row, by 0.3 nats',
                    'GPT beats the bigram by 0.3 bits',
                    'their average beats both by a tenth of a bit',
                    'after a pair that was never read, GPT is better, by 0.2 '
                    'nats',
                    'the bigram is nowhere as good as GPT, by 0.13 nats',
                    'the head chosen in one half looks at the previous token '
                    'in the other',
                    'which differ from token to token',
                    'its mean beats the runs of words',
                    'without a label GPT is better than its own fine-tuning, '
                    'by 5 points',
                    'the model answers better after its own text than after '
                    "another's, by 7 points or more",
                ),
            ),
            Patch(
                'the plain loop does not clip',
                (
                    (
                        '        nn.utils.clip_grad_norm_(gpt.parameters(), '
                        'max_norm=1.0)\n',
                        '',
                    ),
                ),
                ('`train` gives the same losses, to the last bit',),
            ),
            Patch(
                'the probabilities of the wrong words',
                (
                    (
                        'probs[range(5), labels[0]] = by_hand',
                        'probs[range(5), inputs[0]] = by_hand',
                    ),
                ),
                ('the loss is 1.8 bits',),
            ),
            Patch(
                'two operations per parameter and token',
                (('6 * N * D', '2 * N * D'),),
                ('the cost of GPT-3 is that of table D.1, 3,640, to 1 %',),
            ),
            Patch(
                'the second most frequent pair is merged',
                (('.most_common(1)[0]', '.most_common(2)[1]'),),
                ('the library merges the same pairs in the same order',),
            ),
            Patch(
                'a token is not decoded',
                (('.encode(odd).ids)', '.encode(odd).ids[1:])'),),
                ('decoding gives back also what is no English',),
            ),
            Patch(
                'the mask hides more',
                (
                    (
                        'no_mask = causal_mask(5), torch.ones(5, 5, '
                        'dtype=torch.bool)',
                        'no_mask = causal_mask(5), torch.ones(5, 5, '
                        'dtype=torch.bool).tril(1)',
                    ),
                ),
                ('without the mask every output sees every token',),
            ),
            Patch(
                'the cache has half the size',
                (
                    (
                        'return 2 * config.num_blks * width',
                        'return config.num_blks * width',
                    ),
                ),
                ('the caches hold as many numbers as the formula says',),
            ),
            Patch(
                'both runs use the cache',
                (
                    (
                        'for use_cache in (False, True)] for n in',
                        'for use_cache in (True, True)] for n in',
                    ),
                ),
                (
                    'more than 2.5 times as fast at 256 tokens, and more '
                    'than at 64',
                ),
            ),
            Patch(
                'initial weights scaled and not scaled, exchanged',
                (
                    (
                        "'pre-norm, plain': {'scaled_init': False}, "
                        "'pre-norm, scaled': {},",
                        "'pre-norm, plain': {}, "
                        "'pre-norm, scaled': {'scaled_init': False},",
                    ),
                    (
                        "'post-norm': {'pre_norm': False}}",
                        "'post-norm': {'pre_norm': True}}",
                    ),
                ),
                (
                    'plain: four times the depth, twice the size',
                    'scaled: the same size at every depth',
                    'post-norm: always one',
                ),
            ),
            Patch(
                'pre-norm is called post-norm',
                (
                    (
                        "'post-norm, warm-up 0': deep_loss('post', 0)",
                        "'post-norm, warm-up 0': deep_loss('pre', 0)",
                    ),
                ),
                (
                    'at this rate post-norm fails without warm-up, pre-norm '
                    'does not',
                ),
            ),
        ),
        (
            Patch(
                'cached values are rolled by three',
                (
                    (
                        'V = torch.cat((self.V, V), dim=2)',
                        'V = torch.cat((self.V.roll(3, 2), V), dim=2)',
                    ),
                ),
                (
                    'with the cache the trained model gives the same scores, '
                    'to 1e-3',
                ),
            ),
            Patch(
                'the best token is drawn, the temperature ignored, nothing '
                'is cut off',
                (
                    (
                        'return logits.argmax(-1)\n',
                        'return torch.multinomial(logits.softmax(-1), 1)[:, '
                        '0]\n',
                    ),
                    (
                        'probs, tokens = F.softmax(logits / temperature, -1)',
                        'probs, tokens = F.softmax(logits, -1)',
                    ),
                    ('        probs[:, top_k:] = 0\n', '        pass\n'),
                    (
                        '        probs[probs.cumsum(-1) - probs >= top_p] = '
                        '0\n',
                        '        pass\n',
                    ),
                ),
                (
                    'greedy decoding repeats itself, more than any other by '
                    '12 points',
                    'text gets less plausible as temperature rises, by 0.6 '
                    'nats and more',
                    'truncation makes it more plausible, by 0.3 nats',
                ),
            ),
            Patch(
                'weights before the softmax are not hidden',
                (
                    (
                        'hidden = torch.finfo(scores.dtype).min',
                        'hidden = 0.0',
                        UTILS,
                    ),
                ),
                (
                    'no weight lies above the diagonal, and each row adds up '
                    'to one',
                ),
            ),
            Patch(
                'the token before the previous one is hidden',
                (
                    (
                        'masks[block, head].diagonal(-back).zero_()',
                        'masks[block, head].diagonal(-2).zero_()',
                    ),
                ),
                (
                    'to hide the previous token from that head costs 0.1 '
                    'nats, and twice as much as from any other',
                    'to hide another position from that head costs less than '
                    'half as much',
                ),
            ),
            Patch(
                'test sentences and documents are those of training',
                (
                    (
                        'test_lines = [s for s in test_lines if s not in '
                        'set(train_lines)]',
                        'test_lines += train_lines[:9]',
                    ),
                    ('token_rows(2400, 1)', 'token_rows(54_000, 0)[:600]'),
                ),
                (
                    'no test sentence is one to train on',
                    'no validation document is one of the training text',
                ),
            ),
            Patch(
                'the 5-gram is a bigram',
                (("'5-gram': 5}", "'5-gram': 2}"),),
                (
                    'but not the 5-gram',
                    'after a pair that was read 4 to 63 times, the 5-gram '
                    'is, by 0.15',
                ),
            ),
            Patch(
                'a table scores sentences by the spread',
                (
                    (
                        '.probs(row)).mean() for row in rows])}',
                        '.probs(row)).std() for row in rows])}',
                    ),
                ),
                ('and so is the 5-gram',),
            ),
            Patch(
                'another model is called untrained, other pairs are counted',
                (
                    (
                        'untrained = evaluate(small_gpt,',
                        'untrained = evaluate(other,',
                    ),
                    (
                        'valid, [0, 4, 32, 256])',
                        'valid.roll(7), [0, 4, 32, 256])',
                    ),
                ),
                (
                    'an untrained model guesses uniformly: its loss is near '
                    'the logarithm of the number of words',
                    'and after rare pairs by half as much again',
                ),
            ),
            Patch(
                'the designs are exchanged before training',
                (
                    (
                        '[block_gradients(design, xavier, seed) for seed in',
                        "[block_gradients({'pre': 'post'}.get(design, 'pre'), "
                        'xavier, seed) for seed in',
                    ),
                ),
                (
                    'under post-norm the first block has the largest '
                    'gradient, ten times that of any other, in every run',
                    'under pre-norm the last has half of the first or more',
                    "near the output post-norm's is larger with Xavier, "
                    'smaller without',
                ),
            ),
            Patch(
                'fine-tuning forgets what was pretrained',
                (('    if state is not None:\n', '    if False:\n'),),
                (
                    'pretraining helps in every run by 7 points or more',
                    'its mean beats the runs of words',
                ),
            ),
            Patch(
                'its own text is that of another question',
                (
                    (
                        'share_right(after_text_of(0))',
                        'share_right(after_text_of(160))',
                    ),
                ),
                (
                    'the model answers better after its own text than after '
                    "another's, by 7 points or more",
                ),
            ),
        ),
        (
            Patch(
                'GPT has no causal mask',
                (
                    (
                        'mask = causal_mask(num_steps, start + num_steps, '
                        'X.device)',
                        'mask = torch.ones(num_steps, start + num_steps, '
                        'dtype=torch.bool)',
                    ),
                ),
                ('the measured pattern is the mask',),
            ),
            Patch(
                'shuffled sentences get another word',
                (
                    (
                        "texts.append(' '.join([first, *words]) + '.')",
                        "texts.append(' '.join([first, *words, *['zz'] * "
                        "(i % 2)]) + '.')",
                    ),
                ),
                ('a bag of words is near chance',),
            ),
        ),
        (
            Patch(
                'the table has read nothing',
                (
                    (
                        'form.finditer(read_text))',
                        'form.finditer(read_text[:9]))',
                    ),
                ),
                ('a table of names and types in the text it read knows more',),
            ),
            Patch(
                'under the heading stands no name',
                (
                    (
                        "bare = [f'Parameters\\n----------\\n{name} :'",
                        "bare = ['Parameters\\n----------\\n :'",
                    ),
                ),
                (
                    'the heading alone is better than the most frequent type '
                    'by 10 points',
                    'its own text is better than that by less than 12 points',
                ),
            ),
            Patch(
                'rows of the record say the opposite',
                (
                    ('1.8961875399311334', '1.7961875399311334', AMOUNTS),
                    ('1.748593075878553', '1.798593075878553', AMOUNTS),
                    ('3.6038366672418682', '3.2038366672418682', AMOUNTS),
                    ('2.2360879574501866', '2.6360879574501866', AMOUNTS),
                    ('2.951530694961548', '3.351530694961548', NORMS),
                    ('3.0235342979431152', '3.3235342979431152', NORMS),
                    ('3.019886016845703', '3.519886016845703', NORMS),
                    ('2.923774003982544', '3.523774003982544', NORMS),
                    ('3.5110270977020264', '3.0110270977020264', NORMS),
                ),
                (
                    'recorded: read once, GPT is behind at every amount, but '
                    'by less each time, in every run',
                    'recorded: read again, it is ahead from 131 thousand '
                    'tokens on, in every run',
                    'recorded: with the least text four passes help, sixteen '
                    'harm, and xz is best, all by 0.2 bits',
                    'recorded: at each distance pre-norm has more usable '
                    'rates than post-norm, with warm-up two or more',
                    'recorded: warm-up adds to those of pre-norm, and takes '
                    'none from post-norm',
                    'recorded: beyond its range post-norm learns no more '
                    'than frequencies',
                ),
            ),
        ),
    ),
    definitional={
        'targets are inputs shifted': 'both are slices of one row',
    },
)

GPT_TODAY = Sabotage(
    runs=(
        (
            Patch(
                'positions turn nothing in the models',
                (
                    (
                        'turned = pairs * turns(start, num_steps, d, base, '
                        'X.device)',
                        'turned = pairs',
                        UTILS,
                    ),
                ),
                (
                    'rotary positions: 0.18 nats less than learned ones',
                    'all four: 0.18 nats less than none of them',
                    'the recorded figure comes out again',
                    'SmolLM2 foresees more than half of the tokens, in every '
                    'draw',
                    'the best head of one draw does it in another, of another '
                    'length',
                ),
            ),
            Patch(
                'each step turns further than the one before',
                (
                    (
                        'angle = position * math.radians(30)',
                        'angle = position**2 * math.radians(30)',
                    ),
                ),
                ('turned: one score for each distance',),
            ),
            Patch(
                'the turned vector is added to the first one',
                (
                    (
                        'turned = pairs * turns(start, num_steps, d, base, '
                        'X.device)',
                        'turned = pairs * (1 + turns(start, num_steps, d, '
                        'base, X.device))',
                    ),
                ),
                (
                    'all pairs of positions: turned, scores depend on the '
                    'distance only',
                ),
            ),
            Patch(
                'nothing is added',
                (
                    (
                        'added = torch.randn(64, 2',
                        'added = 0 * torch.randn(64, 2',
                    ),
                    ('P = torch.randn(64, 16)', 'P = torch.zeros(64, 16)'),
                ),
                (
                    'vectors added: not',
                    'all pairs of positions: with vectors added they do not',
                ),
            ),
            Patch(
                'the mean square is that of the deviations',
                (("'RMS': x / math.sqrt(6)", "'RMS': x / math.sqrt(2)"),),
                ('PyTorch computes the same',),
            ),
            Patch(
                'RMS norm with a large epsilon',
                (('nn.RMSNorm(3, eps=1e-5)', 'nn.RMSNorm(3, eps=5.0)'),),
                ('scale: neither changes',),
            ),
            Patch(
                'the gate is added',
                (
                    (
                        (
                            'return self.activation(self.W_gate(X)) * '
                            'self.W_in(X)'
                        ),
                        (
                            'return self.activation(self.W_gate(X)) + '
                            'self.W_in(X)'
                        ),
                    ),
                ),
                (
                    'as by hand',
                    'the gated network is nearer to the product, in every run',
                ),
            ),
            Patch(
                'heads of keys in the other order',
                (
                    (
                        'shared = fused_attention(Q, K, V)',
                        'shared = fused_attention(Q, K.flip(1), V)',
                    ),
                ),
                ('neighbors share a head of keys and values',),
            ),
            Patch(
                'the formula counts heads of queries',
                (
                    (
                        'numbers = 2 * config.num_blks * config.num_kv_heads',
                        'numbers = 2 * config.num_blks * config.num_heads',
                    ),
                ),
                ('caches hold what the formula says, in 32 bits',),
            ),
            Patch(
                'all have 96 heads of keys',
                (
                    (
                        'K, V = torch.randn(2, 1, heads, 2048, 128)',
                        'K, V = torch.randn(2, 1, 96, 2048, 128)',
                    ),
                ),
                ('one head for all is read in half the time or less',),
            ),
            Patch(
                'keys of nine heads in the count by hand',
                (('= 576, 1536, 3 * 64, 30', '= 576, 1536, 9 * 64, 30'),),
                (
                    'this is what the class makes',
                    'as many as counted by hand',
                ),
            ),
        ),
        (
            Patch(
                'training windows of 512 tokens',
                (
                    (
                        'corpora.windows(train_tokens, 16, 64, seed)',
                        'corpora.windows(train_tokens, 2, 512, seed)',
                    ),
                ),
                (
                    'learned: twice the length costs 0.6 nats',
                    'rotary: eight times the length costs 0.6 nats',
                ),
            ),
            Patch(
                'no angle',
                (('position * math.radians(30)', 'position * 0.0'),),
                ('another distance, another score',),
            ),
            Patch(
                'layer norm twice',
                (
                    (
                        "'RMS': nn.RMSNorm(3, eps=1e-5)",
                        "'RMS': nn.LayerNorm(3)",
                    ),
                ),
                ('shift: only RMS norm does',),
            ),
            Patch(
                'no other order',
                (("'0 1 0 1': [0, 1, 0, 1]", "'0 1 0 1': [0, 0, 1, 1]"),),
                ('with the other order it is another layer',),
            ),
            Patch(
                'new tokens stand at position 0',
                (
                    (
                        'Q, K, V = self.project(X, 0 if cache is None else '
                        'len(cache))',
                        'Q, K, V = self.project(X, 0)',
                        UTILS,
                    ),
                ),
                ('with the cache, the scores are those without',),
            ),
            Patch(
                'SmolLM2 in the place of our model',
                (
                    (
                        'second_reading(today, twice(\n    31, seed, 1024, '
                        'corpora.BOS))',
                        'second_reading(smollm2, twice(31, seed))',
                    ),
                ),
                ('our model does not',),
            ),
            Patch(
                'weight on all places up to the one that followed',
                (
                    (
                        'return maps.diagonal(-offset, 1, 2)',
                        'return maps.cumsum(-1).diagonal(-1, 1, 2)',
                    ),
                ),
                ('and is one of few',),
            ),
        ),
        (
            Patch(
                'the band hides nothing',
                (
                    (
                        'band = causal_mask(512).triu(-63)',
                        'band = causal_mask(512)',
                    ),
                ),
                (
                    'rotary: if each token attends to the last 64, it costs '
                    'nothing',
                ),
            ),
            Patch(
                'the place beside what followed is hidden',
                (
                    (
                        'place.diagonal(-offset).zero_()',
                        'place.diagonal(-offset - 3).zero_()',
                    ),
                ),
                ('without the best twelve almost nothing is foreseen',),
            ),
        ),
        (
            Patch(
                'the others are all heads',
                (("twelve': (best[12:], 47)", "twelve': (best, 47)"),),
                ('hidden from all others, more than half of it still is',),
            ),
            Patch(
                'changed rows of blocks.csv',
                tuple(
                    (old, new, BLOCKS)
                    for old, new in (
                        ('3.5404141337623423', '3.9'),
                        ('3.325447920400812', '3.5'),
                        ('4.3013998705814975', '3.3'),
                        ('3.3162248465950035', '3.6'),
                        ('3.9783890600290905', '3.7'),
                        ('3.3835546595812565', '3.2'),
                        ('3.4382058580116204', '3.25'),
                        ('3.5624947921902526', '3.65'),
                        ('3.5863987637141532', '3.55'),
                        ('3.569225374210294', '3.65'),
                        ('3.3174102576070243', '3.45'),
                    )
                ),
                (
                    'recorded: the run above, to 0.007 nats',
                    'recorded: rotary positions: 0.18 nats less in each run',
                    (
                        'recorded: rotary positions: 512 tokens cost 0.6 '
                        'nats in each run'
                    ),
                    'recorded: linear biases: nothing, in each run',
                    'recorded: no positions: 0.3 nats in each run',
                    (
                        'recorded: trained on long windows, 512 tokens '
                        'cost nothing'
                    ),
                    (
                        'recorded: but are 0.1 nats behind short windows, '
                        'cut, in each run'
                    ),
                    (
                        'recorded: RMS norm costs something, less than '
                        '0.03 nats, in each run'
                    ),
                    'recorded: the gate costs 0.02 nats in each run',
                    'recorded: sharing costs 0.01 to 0.035 nats in each run',
                    'recorded: all four: 0.18 nats less than none in each run',
                    (
                        'recorded: and 0.05 more than the sum of what each '
                        'gives alone'
                    ),
                ),
            ),
            Patch(
                'a changed row of compression.csv',
                (('1.1399412838091485', '1.3399412838091485', BITS),),
                (
                    'recorded: SmolLM2 needs 30 % fewer bits than the best '
                    'rival',
                ),
            ),
        ),
    ),
    definitional={},
)


IN_CONTEXT = Sabotage(
    runs=(
        (
            Patch(
                'weights in a page are -1, 0 or 1',
                (
                    (
                        'np.float32(most / (2 ** (bits - 1) - 1))',
                        'np.float32(most)',
                        IN_PAGE,
                    ),
                ),
                ('rounding costs at most one answer in a hundred',),
            ),
        ),
        (
            Patch(
                'nothing is learned',
                (
                    (
                        'lm_loss, 400, lr=0.04,',
                        'lm_loss, 400, lr=1e-6,',
                    ),
                ),
                (
                    'one example is worth 50 points over the best guess '
                    'without any, in two runs of three',
                    'and more bring two runs of three within 5 points of the '
                    'optimum',
                    'a description makes examples superfluous, in two runs '
                    'of three',
                    'in every run one head puts 0.7 of its weight or more on '
                    'the answers',
                    'and one as much on the query',
                    'without the reader 30 points are lost, in every run',
                    'in the first, more than 10 in every run',
                ),
            ),
            Patch(
                'no block is dense',
                (
                    ("'dense, banded': (99, 4),", "'dense, banded': (4, 4),"),
                    ("'banded, dense': (4, 99),", "'banded, dense': (4, 4),"),
                ),
                (
                    'with the second block dense every run is 5 points better',
                    'with the first block dense two of three runs are',
                ),
            ),
            Patch(
                'a parameter moves while heads are silenced',
                (
                    (
                        'every, without = [(i, j)',
                        'next(learners[16][0].parameters()).data[0, 0] += '
                        '1\nevery, without = [(i, j)',
                    ),
                ),
                ('all parameters of all six models are what they were',),
            ),
            Patch(
                'SmolLM2 is shown four examples more',
                (
                    (
                        'study.drawn(run_of_live, i, k)]',
                        'study.drawn(run_of_live, i, k + 4)]',
                    ),
                ),
                (
                    'without an example no capital is said',
                    'one example is not enough for a fifth, four are for a '
                    'quarter',
                ),
            ),
            Patch(
                'both blocks are banded',
                (
                    (
                        'tiny(X, [dense, banded])',
                        'tiny(X, [banded, banded])',
                    ),
                ),
                ('with one dense block every earlier token is reached',),
            ),
            Patch(
                'the band is as wide as the text',
                (
                    (
                        'banded_mask(n, 128).sum()',
                        'banded_mask(n, n).sum()',
                    ),
                ),
                ('twice the length, four times the pairs; in a band, twice',),
            ),
        ),
        (
            Patch(
                'width 16 is width 32',
                (
                    (
                        'GPT(Config(len(world.vocab), num_hiddens, num_blks',
                        'GPT(Config(len(world.vocab), 32, num_blks',
                    ),
                ),
                (
                    'told the task, width 16 knows less than three quarters, '
                    'in two runs of three',
                    'and finds less of what it knows by examples',
                ),
            ),
            Patch(
                'shuffled answers are those of random tasks',
                (
                    (
                        "'shuffled answers': control(long_columns, shuffled, "
                        'truth)',
                        "'shuffled answers': control(\n        long_columns, "
                        'facts[luck, long_columns], truth)',
                    ),
                ),
                ('shuffled answers do as well, to 5 points in every run',),
            ),
            Patch(
                'answers of random tasks are true ones',
                (
                    (
                        "'random tasks': control(long_columns, facts[luck, "
                        'long_columns], truth)',
                        "'random tasks': control(long_columns, shown, truth)",
                    ),
                ),
                (
                    'answers of random tasks are no better than the best '
                    'guess without any',
                ),
            ),
            Patch(
                'right answers are called copied',
                (
                    (
                        "'copied': control(with_query, made_up, made_up[:, "
                        '8])',
                        "'copied': control(with_query, made_up, truth)",
                    ),
                ),
                (
                    'a made-up answer costs no 3 points and is not copied, '
                    'unless true',
                ),
            ),
            Patch(
                'the reader is one of the others',
                (
                    (
                        'others = [head for head in every if head != reader]',
                        'others = every',
                    ),
                ),
                ('without all others fewer than 10',),
            ),
            Patch(
                'no head is silenced',
                (
                    (
                        "'all': every}",
                        "'all': []}",
                    ),
                ),
                ('without all, examples are as good as absent',),
            ),
            Patch(
                'a step of training of no length',
                (
                    (
                        'train(trained_on, world.batches(16), lm_loss, 1)',
                        'train(trained_on, world.batches(16), lm_loss, 1, '
                        'lr=0.0)',
                    ),
                ),
                ('one step of training would have shown',),
            ),
            Patch(
                'a parameter of SmolLM2 moves',
                (
                    (
                        '    for number in 0, 16:\n',
                        '    next(smollm2.parameters()).data[0, 0] += 1\n    '
                        'for number in 0, 16:\n',
                    ),
                ),
                ('no parameter of SmolLM2 has changed',),
            ),
            Patch(
                'two bands hide nothing',
                (
                    (
                        "'banded, banded': (4, 4),",
                        "'banded, banded': (99, 99),",
                    ),
                ),
                (
                    'two bands are no better than the optimum of the last '
                    'example, to 5 points in every run',
                ),
            ),
            Patch(
                'the first block is banded, not the second',
                (
                    (
                        "'dense, banded': (99, 4),",
                        "'dense, banded': (4, 99),",
                    ),
                ),
                (
                    'a later band in the second block costs fewer than 5 '
                    'points',
                ),
            ),
            Patch(
                'attention in the first block',
                (
                    (
                        "'no attention': (1, 1)}",
                        "'no attention': (99, 1)}",
                    ),
                ),
                ('without attention nothing is left',),
            ),
        ),
        (
            Patch(
                'the band is one wider',
                (
                    (
                        '.triu(1 - width)',
                        '.triu(-width)',
                    ),
                ),
                ('two bands of width 3 reach 5 positions',),
            ),
            Patch(
                'one example stands there many times',
                (
                    (
                        'examples = world.draw(tasks, num_examples, '
                        'generator)',
                        'examples = world.draw(tasks, num_examples, '
                        'generator)[:, :1]\n    examples = '
                        'examples.expand(-1, num_examples)',
                    ),
                ),
                (
                    'where tasks differ, a second example is worth 3 points '
                    'in every run',
                    'and 16 help once more, by five points on average',
                ),
            ),
            Patch(
                'tasks of all prompts share the probability',
                (
                    (
                        'posterior = fits / fits.sum(0)',
                        'posterior = fits / fits.sum()',
                    ),
                ),
                ('right with probability 1/2 and 1',),
            ),
            Patch(
                'changed rows of examples.csv',
                tuple(
                    (old, new, EXAMPLES)
                    for old, new in (
                        ('0000000000000000011', '1111111111111111111'),
                        ('100100000001001000', '111111111111111111'),
                        (
                            'continent,bare,true,0 1 2 4 8 16,0,93,0,0',
                            'continent,bare,true,0 1 2 4 8 16,0,93,0,1',
                        ),
                        ('110010000011', '000000000000'),
                        ('10011110110111111', '00000000000000000'),
                        ('11010101101011001011', '00000000000000000000'),
                        ('01101001010', '11111111111'),
                        (
                            'capital,bare,another task,16,0,93,0,0',
                            'capital,bare,another task,16,0,93,0,1',
                        ),
                        ('100000010001', '111111111111'),
                        (
                            'sentiment,bare,true,0 1 2 4 8 16,0,',
                            'aside,true,0 1 2 4 8 16,0,',
                        ),
                        (
                            'sentiment,arrow,true,0 1 2 4 8 16,0,',
                            'sentiment,bare,true,0 1 2 4 8 16,0,',
                        ),
                        (
                            'aside,true,0 1 2 4 8 16,0,',
                            'sentiment,arrow,true,0 1 2 4 8 16,0,',
                        ),
                        (
                            'sentiment,bare,true,0 1 2 4 8 16,1,',
                            'aside,true,0 1 2 4 8 16,1,',
                        ),
                        (
                            'sentiment,arrow,true,0 1 2 4 8 16,1,',
                            'sentiment,bare,true,0 1 2 4 8 16,1,',
                        ),
                        (
                            'aside,true,0 1 2 4 8 16,1,',
                            'sentiment,arrow,true,0 1 2 4 8 16,1,',
                        ),
                        ('capital,chat,', 'aside,'),
                        ('capital,described,', 'capital,chat,'),
                        ('aside,', 'capital,described,'),
                        (',-0.01 -0.08 0.28 -0.11 -0.37 0.59 ', ','),
                        (
                            ' 0.52 0.20,,',
                            ' 0.52 0.20 -0.01 -0.08 0.28 -0.11 -0.37 0.59,,',
                        ),
                        (',1.06 0.66 0.70 -0.34 0.58 0.44 ', ','),
                        (
                            ' 0.00 -0.37,,',
                            ' 0.00 -0.37 1.06 0.66 0.70 -0.34 0.58 0.44,,',
                        ),
                        ('0001000010000001', '1111111111111111'),
                        ('110111010100', '000000000000'),
                    )
                ),
                (
                    'recorded: the shares that we have just seen, to 10 '
                    'points',
                    'recorded: without an example no fact is said',
                    'recorded: from 1 example to 16, 25 points more are '
                    'said, in every draw',
                    'recorded: the best answer is 40 points above the '
                    'commonest',
                    'recorded: French is said hardly more often than the '
                    'English word is right',
                    'recorded: the made-up answer is best in one case of '
                    'five at most',
                    'recorded: of what is said, shuffling costs less than a '
                    'third of what random tasks cost',
                    'recorded: of capitals and languages that are best, it '
                    'costs more than chance explains',
                    'recorded: pairs stay in order, nine of ten in every draw',
                    'recorded: up to 8 examples leaning costs 12 points on '
                    'average, and more than 5 in every draw',
                    'recorded: up to 8 examples the last label decides one '
                    'call in four',
                    'recorded: on one line the first example helps by 10 '
                    'points, in every draw; under Review: it does in none',
                    'recorded: from 2 examples on it leans away from the '
                    'last label',
                    'recorded: flipped labels are not followed: most pairs '
                    'stay in order',
                    'recorded: meaningless labels are learned, well above '
                    'one half',
                    'recorded: but labels matter: random ones cost accuracy, '
                    'flipped ones order',
                    'recorded: as a chat, 16 examples give fewer capitals '
                    'and reviews, by 10 points',
                    'recorded: without the first 20 heads a tenth is said at '
                    'most',
                    'recorded: 20 others, most of their blocks, cost 10 '
                    'points at most',
                ),
            ),
        ),
    ),
    definitional={},
)


SCALING = Sabotage(
    runs=(
        (
            Patch(
                'the exponent of a fit is negated',
                (('float(-slope))', 'float(slope))'),),
                (
                    'in data, a power law is nearer than its rival',
                    'in size, five runs cannot tell: both within 2 %',
                ),
            ),
            Patch(
                'transfer starts from random weights',
                (('model.load_state_dict(pretrained.state_dict())', 'pass'),),
                (
                    'pretraining is better in every run',
                    'with 1000 tokens it is worth at least a third more',
                ),
            ),
            Patch(
                'all parameters are those in the blocks',
                (('N + 47491 * np.cbrt(N)', 'N'),),
                (
                    "counted as Kaplan did, Hoffmann's laws are within 0.06 "
                    'of his 0.73',
                ),
            ),
            Patch(
                'a long run of a deep shape has a lower loss',
                (
                    (
                        '4.017468899488449,4.017468899488449',
                        '3.817468899488449,4.017468899488449',
                        CSV,
                    ),
                ),
                (
                    'recorded: of equal blocks the wider shape is ahead, '
                    'every seed of it, after 98 steps and after 977',
                ),
            ),
            Patch(
                'AdamW likes a large rate with the largest size',
                (
                    (
                        '5.271816432476044,5.271816432476044',
                        '3.771816432476044,5.271816432476044',
                        CSV,
                    ),
                ),
                (
                    "recorded: AdamW's best rate falls twice as fast with the "
                    'width',
                    'recorded: with one rate for all matrices it is behind, '
                    'from width 16 on by 0.2',
                ),
            ),
            Patch(
                'a second round brings nothing',
                (
                    (
                        '4.695756882429123,4.695756882429123',
                        '5.015756882429123,4.695756882429123',
                        CSV,
                    ),
                ),
                (
                    'recorded: half to four fifths, for each of the three '
                    'texts',
                ),
            ),
            Patch(
                'sixteen rounds are as good as four',
                (
                    (
                        '4.927845060825348,4.927845060825348',
                        '4.527845060825348,4.927845060825348',
                        CSV,
                    ),
                ),
                (
                    'recorded: of the shortest, 16 rounds are worse than 4, '
                    'by 0.2',
                ),
            ),
        ),
        (
            Patch(
                'a row of the largest size has a lower loss',
                (
                    (
                        '2.2870675325393677,2.2870675325393677',
                        '2.1170675325393677,2.2870675325393677',
                        CSV,
                    ),
                ),
                (
                    'recorded: on Linux the sum errs by less than 2 %, on '
                    'Python by over 5',
                    'recorded: fitted to all, the interacting law under 4 % '
                    'on Python, over 5 on Linux',
                ),
            ),
            Patch(
                'the best row of a size is better',
                (
                    (
                        '3.746906563639641,3.746906563639641',
                        '3.546906563639641,3.746906563639641',
                        CSV,
                    ),
                ),
                ('your runs are within 1.5 % of the recorded ones',),
            ),
            Patch(
                'the run of the prediction has a higher loss',
                (
                    (
                        '3.4118458926677704,3.4118458926677704',
                        '3.6118458926677704,3.4118458926677704',
                        CSV,
                    ),
                ),
                (
                    'recorded: our bet erred by less than 2 %',
                    'recorded: and by less than the rival that expects '
                    'nothing of size',
                ),
            ),
            Patch(
                'a constant of Hoffmann et al. is rounded',
                (
                    (
                        '406.4, 410.7, 0.3392, 0.2849)',
                        '406.4, 410.7, 0.34, 0.28)',
                        LAWS,
                    ),
                ),
                ('most of the gap is rounding',),
            ),
            Patch(
                'the exponent of data of the replication is another',
                (
                    (
                        '2085.43, 0.3478, 0.3658)',
                        '2085.43, 0.3478, 0.4658)',
                        LAWS,
                    ),
                ),
                (
                    'the replication agrees to 2 %',
                    'by their own count, they are below 0.52',
                ),
            ),
            Patch(
                'rounds of short texts are not counted',
                (
                    (
                        'read=own_schedule.tokens, loss=',
                        'read=own_schedule.unique_tokens, loss=',
                    ),
                ),
                ('recorded: so are short texts with schedules of their own',),
            ),
            Patch(
                'the tables are not counted',
                (
                    (
                        "'interacting', 'parameters'), 'parameters'))",
                        "'interacting'), 'non_embedding'))",
                    ),
                ),
                (
                    'recorded: with tables counted, the deepest lag a quarter '
                    'less',
                    'recorded: and ten times the steps take half of the rest, '
                    'at least',
                ),
            ),
        ),
        (
            Patch(
                'each its best is one small rate for all',
                (
                    (
                        "untuned['each its best'] = best",
                        "untuned['each its best'] = untuned['0.003 for all']",
                    ),
                ),
                (
                    'recorded: one small rate for all makes size look a fifth '
                    'better',
                ),
            ),
            Patch(
                'tables are not counted as size',
                (
                    (
                        "'size, in all': (grid, enough, 'parameters')",
                        "'size, in all': (grid, enough, 'non_embedding')",
                    ),
                ),
                (
                    'recorded: what counts as size moves its exponent more '
                    'than chance',
                ),
            ),
            Patch(
                'compute in blocks is counted exactly',
                (
                    (
                        "'compute, 6 N D in blocks': (grid, front, "
                        "'flops_kaplan')",
                        "'compute, 6 N D in blocks': (grid, front, "
                        "'flops_hoffmann')",
                    ),
                ),
                (
                    'recorded: by their count of compute a fifth or more is '
                    'lost',
                ),
            ),
            Patch(
                'five nats are enough',
                (('tokens_for(rows, 4.0)', 'tokens_for(rows, 5.0)'),),
                (
                    'recorded: the three smallest sizes do not get there in '
                    'these runs',
                ),
            ),
            Patch(
                'operations are counted instead of tokens',
                (
                    (
                        'np.log(rows.tokens)))',
                        'np.log(rows.flops_hoffmann)))',
                    ),
                ),
                ('recorded: of the others, the larger needs less',),
            ),
            Patch(
                'another prediction was written down',
                (
                    (
                        "('joint', 'non_embedding', 'all'): 3.236",
                        "('joint', 'non_embedding', 'all'): 3.436",
                        'chapter_large_pretraining/studies/scaling.py',
                    ),
                ),
                (
                    'recorded: the sum, in blocks, fitted to all runs, erred '
                    'by over 4 %',
                ),
            ),
            Patch(
                'the halves change places',
                (
                    (
                        'slice(None), slice(half + 1), slice(half, None)',
                        'slice(None), slice(half, None), slice(half + 1)',
                    ),
                ),
                ('recorded: by every count the upper half is the flatter',),
            ),
            Patch(
                'the tables are left out of both',
                (
                    (
                        "'6 N D, N in all': ('parameters', 'flops_rule')",
                        "'6 N D, N in all': ('non_embedding', 'flops_kaplan')",
                    ),
                ),
                (
                    'recorded: counting the tables, too, lowers the power by '
                    '0.1 or more',
                ),
            ),
            Patch(
                'our models have no tables',
                (
                    (
                        'seen_in_blocks(ours_all, our_total,',
                        'seen_in_blocks(ours_all, lambda N: N,',
                    ),
                ),
                (
                    'recorded: our own law, seen in blocks, gains a tenth or '
                    'more',
                ),
            ),
            Patch(
                'all texts are the shortest',
                (
                    (
                        'train_gpt(64, 2, n, 0.024)',
                        'train_gpt(64, 2, 31250, 0.024)',
                    ),
                ),
                (
                    'more data is better, every time',
                    'from 125,000 tokens on, a run of its own is better by '
                    '0.05 nats',
                ),
            ),
            Patch(
                'the gradient of the joint law is that of another',
                (('-pull[2] @ log_D]', 'pull[2] @ log_D]', LAWS),),
                ('both exponents come back to within 0.02',),
            ),
            Patch(
                'transfer is not relative to the data at hand',
                (('worth = moved / given[:2]', 'worth = moved'),),
                (
                    'relative to the data at hand it is worth less when there '
                    'is more',
                ),
            ),
        ),
        (
            Patch(
                'one size is trained too slowly',
                (
                    (
                        'train_gpt(*size, 5e5, lr, eval',
                        'train_gpt(*size, 5e5, lr / 100 ** (size == (16, 2)), '
                        'eval',
                    ),
                ),
                ('larger is better, every time',),
            ),
            Patch(
                'the smallest size likes the smallest rate',
                (
                    (
                        '5.568449288606644,5.568449288606644',
                        '4.0,5.568449288606644',
                        CSV,
                    ),
                ),
                (
                    'recorded: no size of the Python text is best at an edge',
                    'recorded: the best rate falls with the width, slower '
                    'than 1 / width',
                ),
            ),
            Patch(
                'the backward pass is counted three times',
                (
                    (
                        'return 3 * (config.num_blks',
                        'return 4 * (config.num_blks',
                        LAWS,
                    ),
                ),
                ('for GPT-3 the three counts of compute agree to 5 %',),
            ),
            Patch(
                'power law and rival change places',
                (
                    (
                        'fitted = law(x), np.polyval(line, np.log(x))',
                        'fitted = np.polyval(line, np.log(x)), law(x)',
                    ),
                ),
                (
                    'recorded: in compute a power law is nearer than its '
                    'rival',
                    'recorded: in size, counted in blocks, the rival is '
                    'nearer',
                ),
            ),
            Patch(
                'repeated tokens are fresh ones',
                (
                    (
                        'gained = worth * (1 - np.exp(-repeats / worth))',
                        'gained = repeats',
                    ),
                ),
                (
                    (
                        'recorded: up to four rounds of the whole text'
                        ': worth much of fresh'
                    ),
                    'recorded: small texts, again and again: worth something, '
                    'not as much',
                ),
            ),
        ),
    ),
    definitional={},
    recorded=(
        'recorded: no size of the Python text is best at an edge',
        'recorded: the best rate falls with the width, slower than 1 / width',
        'recorded: one small rate for all makes size look a fifth better',
        'recorded: what counts as size moves its exponent more than chance',
        'recorded: by their count of compute a fifth or more is lost',
        'recorded: in compute a power law is nearer than its rival',
        'recorded: in size, counted in blocks, the rival is nearer',
        ('recorded: the three smallest sizes do not get there in these runs'),
        'recorded: of the others, the larger needs less',
        'recorded: on Linux the sum errs by less than 2 %, on Python by over '
        '5',
        (
            'recorded: fitted to all, the interacting law '
            'under 4 % on Python, over 5 on Linux'
        ),
        'recorded: our bet erred by less than 2 %',
        'recorded: and by less than the rival that expects nothing of size',
        'recorded: the sum, in blocks, fitted to all runs, erred by over 4 %',
        ('recorded: up to four rounds of the whole text: worth much of fresh'),
        'recorded: small texts, again and again: worth something, not as much',
        ('recorded: by every count the upper half is the flatter'),
        'recorded: counting the tables, too, lowers the power by 0.1 or more',
        'recorded: our own law, seen in blocks, gains a tenth or more',
    ),
)

SCALING_MACHINES = Sabotage(
    runs=(
        (
            Patch(
                'Gopher is said to be larger',
                (('stated=280e9', 'stated=380e9', FIGURES),),
                (
                    'within 1 %, or within 4 % and explained',
                    '12 of 16 are within 1 %',
                ),
            ),
            Patch(
                "Kaplan's law spends less on size",
                (
                    (
                        '(flops / PETAFLOP_DAY) ** 0.73',
                        '(flops / PETAFLOP_DAY) ** 0.5',
                        LAWS,
                    ),
                ),
                ('under 2 tokens per parameter, and more than he recommends',),
            ),
            Patch(
                'Gopher has the size and text of Chinchilla',
                (
                    (
                        'replicated(gopher.active, gopher.tokens)',
                        'replicated(chinchilla.active, chinchilla.tokens)',
                    ),
                ),
                ('the law says that it is better, for its shape',),
            ),
            Patch(
                'use costs nothing',
                (('2 * N * T', '0 * N * T'),),
                (
                    'a trillion tokens of use ask for a smaller model, by a '
                    'fifth or so',
                    (
                        '20 tokens per parameter: right up to 1e11 tokens '
                        'of use, not at 1e12'
                    ),
                ),
            ),
            Patch(
                'all digits are the mean digit, in another power',
                (('shares.prod()]', 'shares.mean() ** 6]'),),
                (
                    (
                        'answers are as often right as independent dig'
                        'its would be, to 0.02'
                    ),
                    'no rival comes within twice that',
                ),
            ),
            Patch(
                'the way of the loss is not gone',
                (
                    (
                        '(start[:, 0] - silent[:, 0])',
                        '(start[:, 0] - start[:, 0])',
                    ),
                ),
                (
                    'before that shows, the loss has made a fifth of its way '
                    'or more',
                ),
            ),
            Patch(
                'all models have the same operations',
                (('needed / peak', '1 / peak'),),
                (
                    'the wide model uses the processor better than the '
                    'narrow one',
                ),
            ),
            Patch(
                'parameters count as activations',
                (('if memory.data_ptr() not in own:', 'if True:'),),
                (
                    'in 32 bits a block keeps twice the 34 bytes, less those '
                    'of dropout',
                ),
            ),
            Patch(
                'AdamW has one moment',
                (
                    (
                        "'moments': 12 * parameters",
                        "'moments': 8 * parameters",
                        LAWS,
                    ),
                ),
                (
                    'the parts of the state on 1,024 devices are the 2.8 TB '
                    'of one',
                ),
            ),
            Patch(
                'one block is kept',
                (
                    (
                        'activations = num_blks * block',
                        'activations = block',
                        LAWS,
                    ),
                ),
                ('sharding alone is not enough: the activations stay',),
            ),
            Patch(
                'no sum backward',
                (('    dist.all_reduce(X.grad)\n', ''),),
                ('the gradient of X is that of the whole',),
            ),
            Patch(
                'no sum forward',
                (('    dist.all_reduce(Y.data)\n', ''),),
                (
                    'the sum is the whole result',
                    'one sum forward, one backward, each of the size of X',
                ),
            ),
            Patch(
                'processes do not share gradients',
                (
                    (
                        'if world == 1:\n        return runner',
                        'if world > 0:\n        return runner',
                        PROCESSES,
                    ),
                ),
                (
                    'data-parallel: the losses of one process, to 1e-4',
                    'in four parts: the losses of one process, to 1e-4',
                    'data-parallel: each gradient goes into one sum per step',
                ),
            ),
            Patch(
                'blocks stay whole after the forward pass',
                (
                    (
                        'fully_shard(module, mesh=mesh)',
                        'fully_shard(module, mesh=mesh, '
                        'reshard_after_forward=False)',
                        PROCESSES,
                    ),
                ),
                (
                    'sharded: half of each parameter is collected twice per '
                    'step',
                ),
            ),
            Patch(
                'gradients go around eight times',
                (('exchanged = 2 * 2 * in', 'exchanged = 8 * 2 * in'),),
                (
                    'at 50 GB/s a step of GPT-3 computes longer than it '
                    'exchanges',
                ),
            ),
            Patch(
                'queries see the next key',
                (
                    (
                        'mask.tril(num_keys - num_queries)',
                        'mask.tril(num_keys - num_queries + 1)',
                        UTILS,
                    ),
                ),
                ('a causal mask needs half of the pairs, and half a row',),
            ),
            Patch(
                'scores cost four times as much',
                (
                    (
                        'scores = 2 * num_steps * queries * 2',
                        'scores = 8 * num_steps * queries * 2',
                        LAWS,
                    ),
                ),
                (
                    'at 2,048 tokens scores are under 5 % of GPT-3, over 15 % '
                    'of GPT-2',
                ),
            ),
        ),
        (
            Patch(
                'tokens per parameter of half the models',
                (
                    (
                        'model.tokens / model.active\n',
                        'model.tokens / model.active / 2\n',
                    ),
                ),
                ('Chinchilla and LLaMA: 20',),
            ),
            Patch(
                'addition is not learned',
                (('answer_loss, 400, 0.02,', 'answer_loss, 400, 2e-5,'),),
                ('they end by adding right, nine times in ten',),
            ),
            Patch(
                'nothing is computed again',
                (
                    (
                        'checkpoint(\n            blk, X, '
                        'use_reentrant=False)',
                        'blk(X)',
                    ),
                ),
                ('with recomputation, no more than its input',),
            ),
            Patch(
                'tensor parallelism shares the state twice',
                (('/ (shards * tensor)', '/ (shards * tensor**2)', LAWS),),
                (
                    (
                        'tensor parallelism is not, recomputed or not:'
                        ' the state stays'
                    ),
                ),
            ),
            Patch(
                'each process has the whole of each matrix',
                (
                    (
                        'columns, rows = W1.chunk(2, 1)[dist.get_rank()], '
                        'W2.chunk(2)[dist.get_rank()]',
                        'columns, rows = W1, W2',
                    ),
                ),
                ("one process's part is not",),
            ),
            Patch(
                'all processes have the same rows',
                (
                    (
                        'return batch[rank::world]',
                        'return batch[0::world]',
                        PROCESSES,
                    ),
                ),
                ('sharded: the losses of one process, to 1e-4',),
            ),
            Patch(
                'gradients are exchanged with every part',
                (
                    (
                        'return self.runner.no_sync() if whole else',
                        'return contextlib.nullcontext() if whole else',
                        PROCESSES,
                    ),
                ),
                ('in four parts: no more than that',),
            ),
            Patch(
                'devices reach a twenty-fifth of their peak',
                (('speed = 0.4 * laws', 'speed = 0.04 * laws'),),
                ('at 10 GB/s it does not',),
            ),
            Patch(
                'the band is twice as wide',
                (('.triu(1 - width)', '.triu(-2 * width)'),),
                ('a band needs no more than its width per token',),
            ),
            Patch(
                'a score costs a quarter',
                (
                    (
                        'scores = 2 * num_steps * queries * 2',
                        'scores = num_steps * queries',
                        LAWS,
                    ),
                ),
                (
                    'at 131,072 tokens they are over half of GPT-3, 40 % by '
                    'the causal half',
                ),
            ),
        ),
    ),
    definitional={},
)

AFTER_PRETRAINING = Sabotage(
    runs=(
        (
            Patch(
                'the winner is taken for the loser',
                (
                    (
                        (
                            'loss = -F.logsigmoid(beta * (gained[0] - '
                            'gained[1]))'
                        ),
                        (
                            'loss = -F.logsigmoid(beta * (gained[1] - '
                            'gained[0]))'
                        ),
                    ),
                ),
                (
                    (
                        'a step makes the winner likelier and the '
                        'loser less likely'
                    ),
                ),
            ),
            Patch(
                'no prose is read',
                (
                    (
                        'base = asking.base(0, asking.STEPS)',
                        'base = asking.base(0, 20)',
                    ),
                ),
                (
                    (
                        'after it, more than half of those about a '
                        'task without dialogues'
                    ),
                    (
                        'the base model, asked in its own prose, '
                        'knew more than nine in ten'
                    ),
                ),
            ),
            Patch(
                (
                    'the overfit reward model begins as the '
                    'policy, and the gradient is penalized'
                ),
                (
                    (
                        "judging.judged(0, 400, 'overfit')",
                        "judging.judged(0, 400, 'policy')",
                    ),
                    (
                        "judging.Run('gradient', 'overfit', 400, 0.0,",
                        "judging.Run('gradient', 'overfit', 400, 0.5,",
                    ),
                ),
                (
                    (
                        'the overfit one is right on hidden words in '
                        'two of three cases at most'
                    ),
                    ('of them it is surer than it is right, by a quarter'),
                    (
                        'of 1,024 the best by the other is in truth '
                        '0.2 below that'
                    ),
                    ('the reward model scores the end 5 above the beginning'),
                    (
                        'the end is 10 nats from the first policy, and in '
                        'truth no better than it, to a tenth'
                    ),
                ),
            ),
            Patch(
                'the chain is not trained',
                (
                    (
                        "chained = learn_sums('chain', adding.STEPS)",
                        "chained = learn_sums('chain', 20)",
                    ),
                ),
                (
                    (
                        'six digits: the chain is right in most '
                        'cases, at once in few'
                    ),
                    (
                        'with a wrong second sum fewer than a fifth '
                        'of the answers stay'
                    ),
                    ('with six digits, three in ten are one too high'),
                ),
            ),
            Patch(
                'all paths are in the order of the places',
                (
                    (
                        "vote_run = adding.Run('own order',",
                        "vote_run = adding.Run('fixed order',",
                    ),
                ),
                (
                    (
                        'a vote of 40 paths is 15 points above one '
                        'path that is drawn'
                    ),
                ),
            ),
            Patch(
                ('the bare question and the template are exchanged'),
                (
                    (
                        "ways = {'bare question': asked,",
                        "ways = {'bare question': chat.format(asked),",
                    ),
                    ("'template': chat.format(asked)}", "'template': asked}"),
                ),
                (
                    ('a bare question is mostly answered by nothing at all'),
                    (
                        'the template names 30 capitals more of 100 '
                        'than the question'
                    ),
                    'and 5 more than the begun sentence',
                ),
            ),
            Patch(
                'it may say one token only',
                (('[*capitals][::4]], 8)', '[*capitals][::4]], 1)'),),
                (
                    (
                        'asked for one word it says a sentence, nine '
                        'times in ten'
                    ),
                ),
            ),
            Patch(
                ('what it says step by step is taken for the truth'),
                (
                    (
                        'truths_of = [str(a + b) for a, b in terms]',
                        (
                            "truths_of = [(found or ['none'])[-1] for "
                            'found in\n                 '
                            "written_sums['step by step']]"
                        ),
                    ),
                ),
                (
                    ('most sums are wrong, at once and step by step'),
                    (
                        'step by step the last number gains less than '
                        'ten points'
                    ),
                ),
            ),
            Patch(
                'the sums of other questions are their own',
                (
                    (
                        'others_of = truths_of[1:] + truths_of[:1]',
                        'others_of = truths_of',
                    ),
                ),
                (
                    'both name the right sum more often than that of other '
                    'numbers',
                ),
            ),
        ),
        (
            Patch(
                'the tuned model is asked before it is tuned',
                (("{'base': ask(base),", "{'base': ask(tuned),"),),
                (
                    (
                        'before tuning fewer than a tenth of the '
                        'questions are answered'
                    ),
                ),
            ),
            Patch(
                ('the reward model that begins as the policy is overfit'),
                (
                    (
                        "judging.judged(0, 400, 'policy')",
                        "judging.judged(0, 400, 'overfit')",
                    ),
                ),
                (
                    (
                        'the one begun as the policy is right in 3 '
                        'of 4 cases, of both'
                    ),
                    'and not surer than that, to a tenth',
                    (
                        'the truth follows the one begun as the '
                        'policy, by more than 0.5'
                    ),
                ),
            ),
            Patch(
                'changed rows of preferences.csv',
                (
                    (
                        '0.024 0.259 0.299 0.301 0.191 -0.163',
                        '0.024 0.259 0.299 0.301 0.301 0.301',
                        PREFERENCES,
                    ),
                    (
                        '0.047 0.715 0.775 0.773 0.578 0.469',
                        '0.047 0.715 0.775 0.773 0.578 -0.469',
                        PREFERENCES,
                    ),
                    (
                        '-0.029 0.746 0.944 0.960 0.972 0.983',
                        '-0.029 0.746 0.944 0.960 0.972 0.183',
                        PREFERENCES,
                    ),
                    (
                        '0.047 0.357 0.000 0.000 0.000 0.000',
                        '0.047 0.357 0.000 0.000 0.000 0.900',
                        PREFERENCES,
                    ),
                    (
                        ',0.942 0.931,0.59765625,',
                        ',0.942 0.931,0.19765625,',
                        PREFERENCES,
                    ),
                    (
                        (
                            '0.066 0.330 0.172 0.201 0.363 '
                            '0.199,0.894875168800354,0.799'
                        ),
                        (
                            '0.066 0.000 0.000 0.000 0.000 '
                            '0.000,0.894875168800354,0.299'
                        ),
                        PREFERENCES,
                    ),
                    (
                        '0.066 0.256 0.170 0.268 0.193 0.252',
                        '0.066 0.000 0.000 0.000 0.000 0.000',
                        PREFERENCES,
                    ),
                    (
                        '0.047 0.361 0.396 0.326 0.287 0.410',
                        '0.047 0.361 0.396 0.326 0.287 0.910',
                        PREFERENCES,
                    ),
                    (
                        '0.018 0.697 0.793 0.744 0.393 0.609',
                        '0.018 0.697 0.793 0.744 0.393 0.793',
                        PREFERENCES,
                    ),
                ),
                (
                    (
                        'recorded: in the mean of the seeds the best '
                        'of 1,024 by the overfit model is in truth '
                        '0.3 below the best of fewer'
                    ),
                    (
                        'recorded: by the one begun as the policy it '
                        'is 0.5 above that'
                    ),
                    (
                        'recorded: the gradient without a penalty '
                        'ends below 0.1 in truth by both that began '
                        'at random'
                    ),
                    (
                        'recorded: with the penalty most sentences '
                        'differ, in every run'
                    ),
                    (
                        'recorded: fine-tuning on the winners gains '
                        '0.2 over the first policy'
                    ),
                    (
                        'recorded: DPO at its best gains 0.2 more, '
                        'in every seed'
                    ),
                    (
                        'recorded: DPO with small beta and high rate '
                        'ends 0.15 below its best, in the mean; '
                        'winners at that rate, less than 0.1'
                    ),
                    (
                        'recorded: at the last look every setting of '
                        'DPO is ahead of both of fine-tuning'
                    ),
                    (
                        'recorded: with it six of nine runs end 0.2 '
                        'truer, none 0.1 less true'
                    ),
                    (
                        'recorded: one begun as the policy is right '
                        'on three hidden words of four, and no other'
                    ),
                ),
            ),
            Patch(
                'changed rows of reasoning.csv',
                (
                    (
                        'chain,900,1,0.995 0.937 0.855 0.906 0.860',
                        'chain,900,1,0.995 0.937 0.855 0.906 0.160',
                        REASONING,
                    ),
                    ('dots,900,1,0.053', 'dots,900,1,0.953', REASONING),
                    (
                        '1.000 1.000 0.995 0.950 0.890',
                        '1.000 1.000 0.995 0.950 0.190',
                        REASONING,
                    ),
                    (
                        'shuffled chain,900,1,1.000',
                        'shuffled chain,900,1,0.500',
                        REASONING,
                    ),
                    (
                        '1.000 1.000 0.127 0.069 0.085',
                        '1.000 1.000 0.127 0.069 0.985',
                        REASONING,
                    ),
                    (
                        '1.000 1.000 0.995 0.139',
                        '1.000 1.000 0.495 0.139',
                        REASONING,
                    ),
                    (
                        'shuffled kept chain,900,1,1.000',
                        'shuffled kept chain,900,1,0.500',
                        REASONING,
                    ),
                    (
                        'shuffled kept labels,3600,1,0.685 0.940 0.910',
                        'shuffled kept labels,3600,1,0.685 0.940 0.410',
                        REASONING,
                    ),
                    (
                        'four blocks",900,2,0.805 1.000 1.000',
                        'four blocks",900,2,0.805 1.000 0.400',
                        REASONING,
                    ),
                    (
                        'four blocks",900,1,0.805 1.000 1.000 0.115 0.075',
                        'four blocks",900,1,0.805 1.000 1.000 0.115 0.975',
                        REASONING,
                    ),
                    (
                        '0.879,0.725 0.874 0.962 0.956',
                        '0.879,0.925 0.874 0.962 0.956',
                        REASONING,
                    ),
                    (
                        '0.126,0.143 0.132 0.126 0.126',
                        '0.126,0.143 0.132 0.126 0.926',
                        REASONING,
                    ),
                    (
                        '0.885,0.676 0.808 0.857 0.885',
                        '0.385,0.676 0.808 0.857 0.885',
                        REASONING,
                    ),
                ),
                (
                    (
                        'recorded: answers at once, and after dots, '
                        'are guesses with two digits'
                    ),
                    (
                        'recorded: with six digits every chain is '
                        'right in most cases'
                    ),
                    (
                        'recorded: so are, without a chain, labels '
                        'and the curriculum'
                    ),
                    (
                        'recorded: shuffled, every chain is right in '
                        'nine of ten cases'
                    ),
                    (
                        'recorded: with six digits no rival is right '
                        'in three of ten'
                    ),
                    (
                        'recorded: four times the steps bring labels '
                        'to four digits, not to five'
                    ),
                    (
                        'recorded: the chain is right in nine of ten '
                        'cases of new strings'
                    ),
                    (
                        'recorded: longer, labels are as right on '
                        'four new digits as on others'
                    ),
                    (
                        'recorded: with four blocks labels follow four '
                        'shuffles after as many steps as a chain, '
                        'with two they do not'
                    ),
                    (
                        'recorded: six shuffles are guesses with four '
                        'blocks, too'
                    ),
                    (
                        'recorded: with free orders the vote gains '
                        '15 points, in every seed'
                    ),
                    ('recorded: with a fixed order it gains less than five'),
                    (
                        'recorded: the greedy path of free orders is '
                        'nearly as good as the vote'
                    ),
                ),
            ),
            Patch(
                'changed rows of instructions.csv',
                (
                    ('0.9798387289047241', '0.1', INSTRUCTIONS),
                    ('0.95652174949646,', '0.1,', INSTRUCTIONS),
                    (
                        'plain,0,8,1200,1,0.0,0.0,0.0,1.0,0.0',
                        'plain,0,8,1200,1,0.0,0.0,0.0,1.0,0.9',
                        INSTRUCTIONS,
                    ),
                ),
                (
                    (
                        'recorded: four tasks answer the held-out '
                        'one better than one does'
                    ),
                    (
                        'recorded: eight phrasings carry to new ones '
                        'better than one does'
                    ),
                    (
                        'recorded: four answers in the prompt do not '
                        'do it, with or without the template'
                    ),
                ),
            ),
        ),
    ),
    definitional={
        'the gradient is the probability of the surprise, up and down': (
            'the derivative of the logistic loss, by hand'
        ),
    },
    recorded=(),
)

VISION = Sabotage(
    runs=(
        (
            Patch(
                'patches with rows and columns exchanged',
                (
                    (
                        'P = X.unfold(1, size, size).unfold(2, size, size)',
                        'P = X.unfold(2, size, size).unfold(1, size, size)',
                    ),
                ),
                (
                    'patches: as by hand',
                    'put together again: the picture',
                    'a linear layer on patches is a convolution of that '
                    'stride',
                ),
            ),
            Patch(
                'tested on pictures that were trained on',
                (('order[-num_test:]}', 'order[:num_test]}', PICTURES),),
                ('no test picture is a training picture',),
            ),
            Patch(
                'the convolution reads the mirrored picture',
                (('small(X[:, None])', 'small(X[:, None].flip(3))'),),
                ('a convolution is a linear layer on overlapping patches',),
            ),
            Patch(
                'a window is one column wider',
                (('- shift) // size\n', '- shift) // (size + 1)\n'),),
                ('windows: pairs are patches times 16',),
            ),
            Patch(
                'a bias for the column only',
                (
                    (
                        'offset[:, None, :, None] * (2 * size - 1) + ',
                        'offset[:, None, :, None] * 0 + ',
                    ),
                ),
                ('one bias for each offset: nine for four neighbors',),
            ),
            Patch(
                'merged features in the other direction',
                (
                    (
                        'return H.transpose(2, 3).flatten(3)',
                        'return H.flip(4).transpose(2, 3).flatten(3)',
                    ),
                ),
                ('merging patches of 3 x 3 gives those of 6 x 6',),
            ),
            Patch(
                'the first patches are kept, whatever was drawn',
                (
                    (
                        'H = take(self.encoder.embed(X), kept)',
                        'H = self.encoder.embed(X)[:, : kept.shape[1]]',
                    ),
                ),
                (
                    'MAE: every output depends on every kept patch and on no '
                    'hidden one',
                ),
            ),
            Patch(
                'half of the patches in the encoder',
                (
                    (
                        'stack_products(encoder.config, 9)',
                        'stack_products(encoder.config, 18)',
                    ),
                ),
                (
                    'a quarter of the patches takes less than a quarter of '
                    'the work',
                ),
            ),
            Patch(
                'completions of other pictures',
                (
                    (
                        'drawn = drawn.clamp(max=16)',
                        'drawn = drawn.clamp(max=16).flip(0)',
                    ),
                ),
                (
                    'completions: the right digit more often than with any '
                    'lower half',
                ),
            ),
            Patch(
                'changed rows of pixels.csv and hidden_patches.csv',
                (
                    ('1.8161722750430507', '2.8161722750430507', PIXELS),
                    ('1.5480388911179888', '1.9480388911179888', PIXELS),
                    ('0.9166666666666666', '0.9966666666666666', PIXELS),
                    ('0.04684093967080116', '0.07684093967080116', HIDDEN),
                    ('0.04624107480049133,0.795', '0.04,0.595', HIDDEN),
                    ('0.816,0.879', '0.816,0.979', HIDDEN),
                    ('0.8889999985694885', '0.5889999985694885', HIDDEN),
                    ('0.9210000038146973', '0.9910000038146973', HIDDEN),
                ),
                (
                    'recorded: a random order costs 0.05 bits in each run',
                    'recorded: without dropout training pictures take 0.2 '
                    'bits less than others',
                    'recorded: no block tells the digit as well as raw '
                    'pixels, in any run',
                    'recorded: 3,500 steps: less error than the ten nearest '
                    'in each run',
                    'recorded: frozen, 100 labels: seed by seed, 2 points '
                    'ahead of pixels',
                    'recorded: and 15 points ahead of random weights',
                    'recorded: frozen, 400 labels: never ahead of an SVM on '
                    'pixels',
                    'recorded: fine-tuned: 2 points ahead, at equal steps, '
                    'in each run',
                    'recorded: and, seed by seed, 1 point ahead of twice the '
                    'steps',
                    'recorded: but no more than 1.5 points ahead of five '
                    'times the steps',
                ),
            ),
        ),
        (
            Patch(
                'a ViT that reads from left to right',
                (
                    (
                        'H = blk(H, mask)\n    return self.norm(H)',
                        'H = blk(H, causal_mask(H.shape[1]))\n'
                        '    return self.norm(H)',
                    ),
                ),
                ('ViT: all 17 outputs depend on all 16 patches',),
            ),
            Patch(
                'windows that stay',
                (('deep.masks(0)[i],', 'deep.masks(0)[0],'),),
                (
                    'Swin: what moves is the product of the masks',
                    'windows are connected after two blocks, and all after '
                    'three',
                ),
            ),
            Patch(
                'a picture twice as large',
                (('sides = (8, 16, 32, 64)', 'sides = (8, 16, 32, 128)'),),
                (
                    'from 8 to 64 on a side: windows 64 times as many pairs, '
                    'all 4,096',
                ),
            ),
            Patch(
                'an MAE without training',
                (('mae_loss, 1000, lr=0.01', 'mae_loss, 10, lr=0.01'),),
                (
                    'MAE: 1,000 steps: less error than the mean picture, by '
                    '0.025',
                ),
            ),
            Patch(
                'no causal mask',
                (
                    (
                        'mask = causal_mask(num_steps, start + num_steps, '
                        'X.device)',
                        'mask = torch.ones(num_steps, start + num_steps, '
                        'dtype=torch.bool)',
                        UTILS,
                    ),
                ),
                ('iGPT: the measured pattern is the causal mask',),
            ),
        ),
        (
            Patch(
                'no positions',
                (
                    (
                        'return H + self.pos_embedding.weight[: H.shape[1]]',
                        'return H',
                    ),
                ),
                ('with positions it does',),
            ),
            Patch(
                'the convolutional network has ten steps',
                (
                    (
                        'train(cnn, batches(), class_loss, 1500',
                        'train(cnn, batches(), class_loss, 10',
                    ),
                ),
                ('the CNN is 1.5 points ahead of the ViT',),
            ),
            Patch(
                'what is looked at least is hidden',
                (
                    (
                        'return maps[-1][:, :, 0, 1:].mean(1)',
                        'return 1 - maps[-1][:, :, 0, 1:].mean(1)',
                    ),
                ),
                (
                    'without four: the most attended cost 20 points more '
                    'than random ones',
                ),
            ),
            Patch(
                'a GPT with a tenth of its steps',
                (('lm_loss, 900,', 'lm_loss, 90,'),),
                (
                    'iGPT takes 0.12 bits less than a linear layer',
                    'recorded: the run above, to 1 % of the bits',
                ),
            ),
            Patch(
                'the farthest upper half',
                (
                    (
                        'digits[:, :32]).argmin(1)',
                        'digits[:, :32]).argmax(1)',
                    ),
                ),
                ('but less often than with that of the nearest upper half',),
            ),
            Patch(
                'another lower half in the place of gray',
                (
                    (
                        'judge.score(gray, asked_z)',
                        'judge.score(mixed, asked_z)',
                    ),
                ),
                ('and than with plain gray',),
            ),
        ),
        (
            Patch(
                'positions stay',
                (
                    (
                        'vit.pos_embedding.weight.data.zero_()',
                        'vit.pos_embedding.weight.data.mul_(1)',
                    ),
                ),
                (
                    'without positions the order of patches makes no '
                    'difference',
                ),
            ),
            Patch(
                'position embeddings that are rows and columns',
                (
                    (
                        'after = cosines(vit.pos_embedding.weight.data[1:])',
                        'after = cosines(torch.cartesian_prod(\n    '
                        'torch.arange(4.0), torch.arange(4.0)))',
                    ),
                ),
                (
                    'position embeddings of neighbors are no more alike than '
                    'others',
                ),
            ),
            Patch(
                'random patches in the place of the darkest',
                (
                    (
                        "'the darkest': patches(test_X, 7).mean(2)",
                        "'the darkest': torch.rand(1000, 16)",
                    ),
                ),
                ('but no 20 points more than the darkest',),
            ),
            Patch(
                'nothing is merged',
                (
                    (
                        'patch_reach(still.encode, middle, 3)',
                        'patch_reach(lambda X: still.encode_stage('
                        'still.embedding(patches(X, 3)), 0), middle, 3)',
                    ),
                ),
                (
                    'but merged into one window: all patches, even if '
                    'windows stay',
                ),
            ),
            Patch(
                'a trained GPT in the place of an untrained one',
                (('fresh = GPT(gpt_config)', 'fresh = gpt'),),
                (
                    'after training each block knows 30 points more than any '
                    'before it',
                ),
            ),
            Patch(
                'changed rows of digits.csv',
                tuple(
                    (row + old, row + new, DIGITS)
                    for row, old, new in (
                        (
                            'ViT,0,100,1500,vit,0.01,0,0,class,1,1,4,test,',
                            '0.5',
                            '0.9',
                        ),
                        (
                            'CNN,0,4000,1500,cnn,0.006,0,0,class,1,1,4,test,',
                            '0.9',
                            '0.8',
                        ),
                        (
                            '"CNN, higher rate",0,4000,1500,cnn,'
                            '0.018000000000000002,0,0,class,1,1,4,test,',
                            '0.9',
                            '0.8',
                        ),
                        (
                            'SVM,0,4000,0,svm,1.0,0,1,class,1,1,4,test,',
                            '0.9',
                            '0.8',
                        ),
                        (
                            'CNN,1,4000,1500,cnn,0.006,0,1,class,1,1,4,test,',
                            '0.9',
                            '0.8',
                        ),
                        (
                            'no positions,0,4000,1500,vit,0.01,0,0,class,0,'
                            '1,4,test,',
                            '0.8',
                            '0.9',
                        ),
                        (
                            'mean of patches,0,4000,1500,vit,0.01,0,0,mean,'
                            '1,1,4,test,',
                            '0.9',
                            '0.8',
                        ),
                        (
                            'windows that stay,0,4000,1147,swin,0.01,0,0,'
                            'class,1,0,4,test,',
                            '0.95',
                            '0.99',
                        ),
                        (
                            'all pairs,0,4000,1031,swin,0.01,0,0,class,1,1,'
                            '8,test,',
                            '0.94',
                            '0.99',
                        ),
                    )
                ),
                (
                    'recorded: 100 pictures: the CNN is 15 points ahead in '
                    'each run',
                    'recorded: 4,000 pictures: 2 points ahead in each run',
                    'recorded: and at the higher rate, 4,000 pictures',
                    'recorded: the SVM is ahead of the ViT at every amount, '
                    'as they are',
                    'recorded: 100 pictures: distortion gives the ViT 25 '
                    'points, the CNN 15 at most',
                    'recorded: in another order the CNN loses a point in '
                    'each run',
                    'recorded: the ViT loses less than half a point, SVM and '
                    'neighbors nothing',
                    'recorded: the CNN is still ahead in each run',
                    'recorded: without positions 3 points fewer in each run',
                    'recorded: the mean is no worse than the class token in '
                    'any run',
                    'recorded: windows that stay lie within the range of '
                    'moved ones',
                    'recorded: at equal work windows are no worse than all '
                    'pairs, on average',
                ),
            ),
        ),
    ),
    definitional={},
)

MULTIMODAL = Sabotage(
    runs=(
        (
            Patch(
                'texts are not asked for their pictures',
                (
                    (
                        'loss = F.cross_entropy(scores, pairs) + '
                        'F.cross_entropy(scores.T, pairs)',
                        'loss = 2 * F.cross_entropy(scores, pairs)',
                    ),
                ),
                ('the function computes what we did by hand',),
            ),
            Patch(
                'every text with its own picture',
                (('(seen, said.roll(1, 0))', '(seen, said)'),),
                ('wrong pairs cost more than knowing nothing',),
            ),
            Patch(
                'a test of names that were shown',
                (
                    (
                        "known, test = letters['train'], letters['test']",
                        "known = test = letters['test']",
                    ),
                ),
                ('no name of the test was shown',),
            ),
            Patch(
                'a picture in the place of a word',
                (
                    (
                        'moved(few, other), (at == 2)',
                        'moved(shuffled, X), (at == 2)',
                    ),
                ),
                ('a word of name 3 changes column 3 alone',),
            ),
            Patch(
                'another picture is turned',
                (
                    (
                        'shuffled[1] = few[1].flip(0)',
                        'shuffled[2] = few[2].flip(0)',
                    ),
                ),
                ('picture 2 changes row 2 alone',),
            ),
            Patch(
                'bits in another order',
                (
                    (
                        'return (bits * torch.tensor([8, 4, 2, 1])).sum(-1)',
                        'return (bits * torch.tensor([1, 2, 4, 8])).sum(-1)',
                    ),
                ),
                ('tiles as by hand', 'and the picture comes back'),
            ),
            Patch(
                'every way of every digit is shown',
                (
                    (
                        'turn = torch.randint(1, 4, at.shape',
                        'turn = torch.randint(0, 4, at.shape',
                        MODULE,
                    ),
                ),
                ('thirty captions are shown', 'the ten others are not'),
            ),
            Patch(
                'the judge sees pictures upside down',
                (
                    (
                        'torch.tensor(machine.predict(ink.flatten(1)))',
                        'torch.tensor(machine.predict(ink.flip(1).flatten(1)))',
                        MODULE,
                    ),
                ),
                (
                    'the judge is right on nine real pictures in ten, or '
                    'nearly',
                    'GPT is right 15 points more often than any rival',
                ),
            ),
            Patch(
                'tiles see what comes after them',
                (
                    (
                        'measured = reach(painter, stream_row)',
                        'measured = reach(lambda X: painter(X, torch.ones('
                        '12, 12) > 0), stream_row)',
                    ),
                ),
                ('DALL-E: what reaches what is the causal mask',),
            ),
            Patch(
                'the gate is squared',
                (
                    (
                        '(state + alpha.tanh() * said_to_it)',
                        '(state + alpha.tanh()**2 * said_to_it)',
                    ),
                ),
                ('a closed gate can open',),
            ),
            Patch(
                'the language model has read next to nothing',
                (
                    (
                        'flamingo.language_model(0)',
                        'flamingo.language_model(0, 3)',
                    ),
                ),
                ('it knows all sums',),
            ),
            Patch(
                'gates begin ajar',
                (
                    (
                        'self.gates = nn.Parameter(torch.zeros(2))',
                        'self.gates = nn.Parameter(torch.full((2,), 0.1))',
                    ),
                ),
                (
                    'it starts from the language model, exactly',
                    'SmolLM2 with closed gates is SmolLM2, exactly',
                ),
            ),
            Patch(
                'the expert looks at the row before the last',
                (
                    (
                        'return (game.balls[:, -1] - game.paddle).sign()',
                        'return (game.balls[:, -3] - game.paddle).sign()',
                        MODULE,
                    ),
                ),
                (
                    'the expert catches every ball',
                    'who guesses once and then knows catches all',
                ),
            ),
            Patch(
                'Gato sees what comes after',
                (
                    (
                        'measured = reach(one, game_row)',
                        'measured = reach(lambda X: one(X, torch.ones('
                        '9, 9) > 0), game_row)',
                    ),
                ),
                ('Gato: what reaches what is the causal mask',),
            ),
        ),
        (
            Patch(
                'CLIP is hardly trained',
                (
                    (
                        'clip_study.NUM_STEPS, lr=clip_study.RATE',
                        '8, lr=clip_study.RATE',
                    ),
                ),
                ('CLIP names 12 points more than the nearest pictures',),
            ),
            Patch(
                'padding is read',
                (
                    (
                        'mask = None if real is None else real[:, None, None]'
                        '\n        for',
                        'mask = None\n        for',
                        MODULE,
                    ),
                ),
                ('what stands in the padding changes nothing',),
            ),
            Patch(
                'the painter is hardly trained',
                (('lm_loss, dalle.NUM_STEPS,', 'lm_loss, 8,'),),
                (
                    'GPT knows more of real pictures than the tiles beside '
                    'and above say',
                    'the best of eight is right 10 points more often',
                ),
            ),
            Patch(
                'one prompt and many change places',
                (
                    (
                        'singles(prompts), choose_class(prompts), near',
                        'choose_class(prompts), singles(prompts), near',
                    ),
                ),
                (
                    'many prompts name the case 15 points better than one, '
                    'or than always the same answer',
                ),
            ),
            Patch(
                'each place reads itself alone',
                (
                    (
                        'H = blk(gated(H, memory, mask), causal_mask('
                        'X.shape[1]))',
                        'H = blk(gated(H, memory, mask), torch.eye('
                        'X.shape[1]) > 0)',
                    ),
                ),
                ('the model carries it on to all later places',),
            ),
            Patch(
                'one look is two',
                (
                    (
                        'mm.share_caught(mm.watch(mm.one_look, 5000), '
                        'mm.one_look)',
                        'mm.share_caught(mm.watch(mm.two_looks, 5000), '
                        'mm.two_looks)',
                    ),
                ),
                ('one look is not enough, two are',),
            ),
            Patch(
                'Gato is hardly trained',
                (('stream_loss, gato.NUM_STEPS,', 'stream_loss, 8,'),),
                ('one model catches more than one look does',),
            ),
        ),
        (
            Patch(
                'all pictures are seen at once',
                (
                    (
                        'self.attention(self.norms[0](X), memory, mask)',
                        'self.attention(self.norms[0](X), memory)',
                    ),
                ),
                ('a layer reads what the mask says',),
            ),
            Patch(
                'as many right as of captions shown',
                (
                    (
                        "results['GPT, captions shown'] = dalle.shares("
                        'judge, painted_seen, seen_words)',
                        "results['GPT, captions shown'] = results['GPT']",
                    ),
                ),
                ('but less often than for captions that were shown',),
            ),
            Patch(
                'the gates of SmolLM2 are torn open',
                (
                    (
                        '    num_new = sum(',
                        '    for each in smol.gated:\n'
                        '        each.gates.data.fill_(3.0)\n'
                        '    num_new = sum(',
                    ),
                ),
                (
                    'SmolLM2 writes 30 points more captions than it could '
                    'unseeing',
                    'and its texts cost at most 0.05 nats more',
                ),
            ),
            Patch(
                'changed rows of dalle.csv',
                tuple(
                    (old, new, PAINTED)
                    for old, new in (
                        ('0.3929687440395355', '0.2'),
                        ('0.43371737003326416', '0.44'),
                        ('0.4000000059604645', '0.3'),
                    )
                ),
                (
                    'recorded: from small to middle 0.11 more is right of '
                    'what was never shown, in each run',
                    'recorded: the loss falls with size by 0.004, in each run',
                    'recorded: without the prior 0.05 more is right, in each '
                    'run',
                    'recorded: one stream has 0.05 more right than prior and '
                    'decoder, in each run',
                ),
            ),
            Patch(
                'changed rows of flamingo.csv',
                tuple(
                    (old, new, FROZEN)
                    for old, new in (
                        ('0.8028705716133118', '0.95'),
                        ('0.7864663004875183', '0.95'),
                        ('5.726122856140137', '2.0'),
                        ('5.596769332885742', '2.0'),
                        ('0.19019999951124192', '0.24'),
                        ('0.015400000102818012', '0.2'),
                    )
                ),
                (
                    'recorded: frozen, texts cost at most 0.1 nats',
                    'recorded: all trained, but with texts mixed in, they '
                    'cost no more',
                    'recorded: all trained, texts cost 1.5 nats, in each run',
                    'recorded: gates open, texts cost 1.5 nats, in each run',
                    'recorded: all trained and texts, plus 5-9 is right less '
                    'often, in each run',
                    'recorded: new language model, plus 5-9 is right less '
                    'often, in each run',
                ),
            ),
            Patch(
                'changed rows of gato.csv',
                tuple(
                    (old, new, STREAMS)
                    for old, new in (
                        ('0.8080000281333923', '0.95'),
                        ('0.9361110925674438', '0.97'),
                        ('0.7200000286102295', '0.95'),
                    )
                ),
                (
                    'recorded: no specialist is 0.04 better, in each run',
                    'recorded: the small model catches 0.09 less, in each run',
                    'recorded: the model that imitates it catches 0.14 less, '
                    'in each run',
                ),
            ),
            Patch(
                'changed rows of clip.csv',
                tuple(
                    (old, new, PAIRS)
                    for old, new in (
                        ('0.3660968542098999', '0.7'),
                        ('0.5405982732772827', '0.75'),
                        ('0.29985755681991577', '0.76'),
                        ('0.7264957427978516', '0.2'),
                    )
                ),
                (
                    'recorded: pairs bring 0.2 more than words predicted, in '
                    'each run',
                    'recorded: small batches cost 0.12 in each run',
                    'recorded: a temperature of 1 costs 0.25 in each run',
                    'recorded: without the order of words it is within 0.1',
                ),
            ),
        ),
    ),
    definitional={},
)


SABOTAGE = {
    'index': INDEX,
    'bert': BERT,
    'bert_derivatives': BERT_DERIVATIVES,
    'bert_published': BERT_PUBLISHED,
    't5': T5,
    't5_tasks': T5_TASKS,
    't5_derivatives': T5_DERIVATIVES,
    'gpt': GPT,
    'gpt_today': GPT_TODAY,
    'in_context': IN_CONTEXT,
    'after_pretraining': AFTER_PRETRAINING,
    'scaling': SCALING,
    'scaling_machines': SCALING_MACHINES,
    'vision': VISION,
    'multimodal': MULTIMODAL,
}

"""Sizes and training tokens of language models, with their sources.

`MODELS` is the table. A stated size is what the authors call the model; a
computed one follows from the published shape.
"""

import dataclasses

from utils import Config

from .shapes import published_config


@dataclasses.dataclass(frozen=True)
class Published:
    """A language model as its authors describe it.

    `stated` is in parameters, `tokens` in tokens seen in pretraining, None
    where the source does not say. Of `config` only what decides the size is
    meant. `positions` are 'learned', a table of
    `max_len` rows; 'relative', a bias per head and bucket, once per stack;
    'xl', a projection of relative positions in each attention layer; or
    'fixed', without parameters. An encoder has segments, a norm after the
    embeddings and a pooler, like BERT. Every `moe_every`-th feed-forward
    network consists of `num_experts`, of which `active_experts` see a token.
    `source` says where shape and tokens are from; `note` explains what
    `stated` leaves open.
    """

    name: str
    year: int
    kind: str  # 'decoder', 'encoder' or 'encoder-decoder'
    stated: float
    tokens: float | None
    config: Config
    source: str
    note: str = ''
    positions: str = 'learned'
    num_kv_heads: int | None = None
    gated: bool = False
    states_non_embedding: bool = False
    num_experts: int = 1
    active_experts: int = 1
    moe_every: int = 1
    gated_experts: bool = False

    def attention(self):
        """Parameters of one attention layer."""
        config = self.config
        queries = config.num_heads * config.head_width
        keys = (self.num_kv_heads or config.num_heads) * config.head_width
        matrices = 2 * queries + 2 * keys
        if self.positions == 'xl':
            matrices += queries
        biases = (queries + 2 * keys + config.num_hiddens) * config.bias
        return config.num_hiddens * matrices + biases

    def ffn(self, gated):
        """Parameters of one feed-forward network."""
        num_hiddens = self.config.num_hiddens
        wide = self.config.ffn_num_hiddens
        matrices = (3 if gated else 2) * num_hiddens * wide
        return matrices + (wide + num_hiddens) * self.config.bias

    def ffns(self, num_experts):
        """All feed-forward networks of a stack, `num_experts` counted."""
        num_blks = self.config.num_blks
        if self.num_experts == 1:
            return num_blks * self.ffn(self.gated)
        sparse = num_blks // self.moe_every
        router = self.config.num_hiddens * self.num_experts
        experts = num_experts * self.ffn(self.gated_experts) + router
        return sparse * experts + (num_blks - sparse) * self.ffn(self.gated)

    def blocks(self, num_experts):
        """Parameters of all blocks, norms included."""
        config = self.config
        norm = config.num_hiddens * (2 if config.bias else 1)
        stacks, layers = 1, 1  # attention layers per block, all stacks
        if self.kind == 'encoder-decoder':
            stacks, layers = 2, 3
        total = config.num_blks * layers * (self.attention() + norm)
        total += stacks * (self.ffns(num_experts) + config.num_blks * norm)
        if config.pre_norm:
            total += stacks * norm  # at the end
        if self.positions == 'relative':
            total += stacks * config.num_buckets * config.num_heads
        return total

    def embeddings(self):
        """Parameters of the tables and of what belongs to them."""
        config = self.config
        rows = config.vocab_size * (1 if config.tie_weights else 2)
        if self.positions == 'learned':
            rows += config.max_len
        if self.kind == 'encoder':
            rows += config.num_segments + 2  # a norm
        return rows * config.num_hiddens

    @property
    def non_embedding(self):
        """Parameters outside the tables."""
        pooler = 0
        if self.kind == 'encoder':
            pooler = self.config.num_hiddens * (self.config.num_hiddens + 1)
        return self.blocks(self.num_experts) + pooler

    @property
    def parameters(self):
        """All parameters, without the heads of BERT's pretraining."""
        return self.non_embedding + self.embeddings()

    @property
    def active(self):
        """Parameters that take part for one token.

        In an encoder-decoder a token meets one of the two stacks (Raffel et
        al., 2020, section 3.2.2), here counted as half of them.
        """
        blocks = self.blocks(self.active_experts)
        if self.kind == 'encoder-decoder':
            blocks //= 2
        return blocks + self.embeddings()

    @property
    def flops(self):
        """6 N D with the active parameters; None without tokens."""
        return self.tokens and 6.0 * self.active * self.tokens

    @property
    def difference(self):
        """By how much the computed size is above the stated one."""
        computed = self.parameters
        if self.states_non_embedding:
            computed = self.non_embedding
        return computed / self.stated - 1


MODELS = [
    Published(
        'GPT',
        2018,
        'decoder',
        stated=117e6,
        tokens=None,
        config=Config(40478, 768, 12, 12, 512, pre_norm=False),
        source='Radford et al. (2018), section 4.1; vocabulary of the '
        'released code; size: Radford et al. (2019), table 2, first row',
    ),
    Published(
        'BERT base',
        2018,
        'encoder',
        stated=110e6,
        tokens=4.26e10,
        config=published_config('bert-base'),
        source='Devlin et al. (2019), section 3 and appendix A.2',
        note='tokens: a million steps of 256 texts, nine in ten of length '
        '128, the others of 512',
    ),
    Published(
        'BERT large',
        2018,
        'encoder',
        stated=340e6,
        tokens=4.26e10,
        config=published_config('bert-large'),
        source='Devlin et al. (2019), section 3 and appendix A.2',
        note='the paper rounds 335M, or 336M with the heads, up to 340M',
    ),
    Published(
        'GPT-2',
        2019,
        'decoder',
        stated=1542e6,
        tokens=None,
        config=published_config('gpt2-xl'),
        source='Radford et al. (2019), table 2 and section 2.3',
        note='the released checkpoint has 1,558M, which is what we count',
    ),
    Published(
        'T5-11B',
        2019,
        'encoder-decoder',
        stated=11e9,
        tokens=2**20 * 1e6,
        config=published_config('t5-11b'),
        source='Raffel et al. (2020), section 3.7',
        note='the paper rounds 11.3 to 11',
        positions='relative',
    ),
    Published(
        'GPT-3',
        2020,
        'decoder',
        stated=175e9,
        tokens=300e9,
        config=Config(50257, 12288, 96, 96, 2048),
        source='Brown et al. (2020), table 2.1',
    ),
    Published(
        'Switch-C',
        2021,
        'encoder-decoder',
        stated=1571e9,
        tokens=None,
        config=Config(
            32128,
            2080,
            32,
            15,
            ffn_num_hiddens=6144,
            head_width=64,
            bias=False,
        ),
        source='Fedus et al. (2022), table 9',
        positions='relative',
        num_experts=2048,
    ),
    Published(
        'Gopher',
        2021,
        'decoder',
        stated=280e9,
        tokens=300e9,
        config=Config(32000, 16384, 128, 80),
        source='Rae et al. (2021), table 1 and section 3.1',
        positions='xl',
    ),
    Published(
        'GLaM',
        2021,
        'decoder',
        stated=1.2e12,
        tokens=600e9,
        config=Config(256_000, 8192, 128, 64, head_width=128, bias=False),
        source='Du et al. (2022), table 4 and sections 4 and 5',
        note='the paper rounds 1.16 to 1.2; 96.6B of them are active',
        positions='relative',
        gated=True,
        num_experts=64,
        active_experts=2,
        moe_every=2,
    ),
    Published(
        'Megatron-Turing NLG',
        2022,
        'decoder',
        stated=530e9,
        tokens=270e9,
        config=Config(50257, 20480, 128, 105, 2048),
        source='Smith et al. (2022), section 2.3',
    ),
    Published(
        'LaMDA',
        2022,
        'decoder',
        stated=137e9,
        tokens=430e9,
        config=Config(
            32000,
            8192,
            128,
            64,
            ffn_num_hiddens=65536,
            head_width=128,
            bias=False,
        ),
        source='Thoppilan et al. (2022), section 3; tokens: from the 3.55e23 '
        'operations of its estimate of energy and carbon',
        note='stated without embeddings; tokens: operations / 6 N, where '
        'Hoffmann et al. (2022), table 1, have 168 billion',
        positions='relative',
        gated=True,
        states_non_embedding=True,
    ),
    Published(
        'Chinchilla',
        2022,
        'decoder',
        stated=70e9,
        tokens=1.4e12,
        config=Config(32000, 8192, 64, 80),
        source='Hoffmann et al. (2022), table 4 and section 4.1',
        positions='xl',
    ),
    Published(
        'PaLM',
        2022,
        'decoder',
        stated=540e9,
        tokens=780e9,
        config=Config(256_000, 18432, 48, 118, head_width=256, bias=False),
        source='Chowdhery et al. (2022), table 1 and section 2',
        positions='fixed',
        num_kv_heads=1,
        gated=True,
    ),
    Published(
        'OPT',
        2022,
        'decoder',
        stated=175e9,
        tokens=300e9,
        config=Config(50272, 12288, 96, 96, 2048),
        source='Zhang et al. (2022), table 1 and section 2',
        note='tokens: those of its learning rate schedule; 180 billion are '
        'unique',
    ),
    Published(
        'BLOOM',
        2022,
        'decoder',
        stated=176e9,
        tokens=366e9,
        config=Config(250_880, 14336, 112, 70),
        source='Le Scao et al. (2022), table 3 and section 3',
        positions='fixed',
    ),
    Published(
        'LLaMA',
        2023,
        'decoder',
        stated=65.2e9,
        tokens=1.4e12,
        config=Config(
            32000,
            8192,
            64,
            80,
            ffn_num_hiddens=22016,
            bias=False,
            tie_weights=False,
        ),
        source='Touvron et al. (2023), table 2; feed-forward width of the '
        'released model',
        positions='fixed',
        gated=True,
    ),
]

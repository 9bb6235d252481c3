"""Shapes, sizes and training tokens of language models, with their sources.

`MODELS` is the table. A stated size is what the authors call the model; a
computed one follows from the published shape.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """A language model as its authors describe it.

    `stated` is in parameters, `tokens` in tokens seen in pretraining, None
    where the source does not say. `max_len` counts learned positions, 0 for
    other kinds. Every `moe_every`-th feed-forward network consists of
    `num_experts`, of which `active_experts` see a token. `source` says where
    shape and tokens are from; `note` explains what `stated` leaves open.
    """

    name: str
    year: int
    kind: str  # 'decoder', 'encoder' or 'encoder-decoder'
    stated: float
    tokens: float | None
    num_hiddens: int
    num_blks: int
    num_heads: int
    ffn_num_hiddens: int
    vocab_size: int
    source: str
    note: str = ''
    max_len: int = 0
    head_size: int | None = None
    num_kv_heads: int | None = None
    bias: bool = True
    pre_norm: bool = True
    gated: bool = False
    xl_positions: bool = False  # a projection of relative positions
    buckets: int = 0  # a learned bias per head, once per stack
    tied: bool = True
    states_non_embedding: bool = False
    num_segments: int = 0
    pooler: bool = False
    num_experts: int = 1
    active_experts: int = 1
    moe_every: int = 1
    gated_experts: bool = False

    def attention(self):
        """Parameters of one attention layer."""
        size = self.head_size or self.num_hiddens // self.num_heads
        queries = self.num_heads * size
        keys = (self.num_kv_heads or self.num_heads) * size
        matrices = 2 * queries + 2 * keys + self.xl_positions * queries
        biases = (queries + 2 * keys + self.num_hiddens) * self.bias
        return self.num_hiddens * matrices + biases

    def ffn(self, gated):
        """Parameters of one feed-forward network."""
        matrices = (3 if gated else 2) * self.num_hiddens
        biases = (self.ffn_num_hiddens + self.num_hiddens) * self.bias
        return matrices * self.ffn_num_hiddens + biases

    def ffns(self, num_experts):
        """All feed-forward networks of a stack, `num_experts` counted."""
        if self.num_experts == 1:
            return self.num_blks * self.ffn(self.gated)
        sparse = self.num_blks // self.moe_every
        router = self.num_hiddens * self.num_experts
        experts = num_experts * self.ffn(self.gated_experts) + router
        dense = (self.num_blks - sparse) * self.ffn(self.gated)
        return sparse * experts + dense

    def blocks(self, num_experts):
        """Parameters of all blocks, norms included."""
        norm = self.num_hiddens * (2 if self.bias else 1)
        stacks, layers = 1, 1  # attention layers per block, all stacks
        if self.kind == 'encoder-decoder':
            stacks, layers = 2, 3
        norms = self.num_blks * (stacks + layers) * norm
        if self.pre_norm:
            norms += stacks * norm  # at the end
        return (
            self.num_blks * layers * self.attention()
            + stacks * self.ffns(num_experts)
            + stacks * self.buckets * self.num_heads
            + norms
        )

    def embeddings(self):
        """Parameters of the tables and of what belongs to them."""
        rows = self.vocab_size * (1 if self.tied else 2)
        rows += self.max_len + self.num_segments
        if self.kind == 'encoder':
            rows += 2  # a norm
        return rows * self.num_hiddens

    @property
    def non_embedding(self):
        pooler = self.pooler * self.num_hiddens * (self.num_hiddens + 1)
        return self.blocks(self.num_experts) + pooler

    @property
    def parameters(self):
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
        return self.tokens and 6 * self.active * self.tokens

    @property
    def difference(self):
        """By how much the computed size is above the stated one."""
        computed = self.parameters
        if self.states_non_embedding:
            computed = self.non_embedding
        return computed / self.stated - 1


MODELS = [
    Published(
        'GPT', 2018, 'decoder', 117e6, None, 768, 12, 12, 3072, 40478,
        'Radford et al. (2018), section 4.1; vocabulary of the released code; '
        'size: Radford et al. (2019), table 2, first row',
        max_len=512, pre_norm=False,
    ),
    Published(
        'BERT base', 2018, 'encoder', 110e6, 4.26e10, 768, 12, 12, 3072,
        30522, 'Devlin et al. (2019), section 3 and appendix A.2',
        'tokens: a million steps of 256 texts, nine in ten of length 128, '
        'the others of 512',
        max_len=512, num_segments=2, pooler=True,
        pre_norm=False,
    ),
    Published(
        'BERT large', 2018, 'encoder', 340e6, 4.26e10, 1024, 24, 16, 4096,
        30522, 'Devlin et al. (2019), section 3 and appendix A.2',
        'the paper rounds 335M, or 336M with the heads, up to 340M',
        max_len=512, num_segments=2, pooler=True,
        pre_norm=False,
    ),
    Published(
        'GPT-2', 2019, 'decoder', 1542e6, None, 1600, 48, 25, 6400, 50257,
        'Radford et al. (2019), table 2 and section 2.3',
        'the released checkpoint has 1,558M, which is what we count',
        max_len=1024,
    ),
    Published(
        'T5-11B', 2019, 'encoder-decoder', 11e9, 2**20 * 1e6, 1024, 24, 128,
        65536, 32128, 'Raffel et al. (2020), section 3.7',
        'the paper rounds 11.3 to 11',
        head_size=128, bias=False, buckets=32,
    ),
    Published(
        'GPT-3', 2020, 'decoder', 175e9, 300e9, 12288, 96, 96, 4 * 12288,
        50257, 'Brown et al. (2020), table 2.1', max_len=2048,
    ),
    Published(
        'Switch-C', 2021, 'encoder-decoder', 1571e9, None, 2080, 15, 32,
        6144, 32128, 'Fedus et al. (2022), table 9',
        head_size=64, bias=False, buckets=32, num_experts=2048,
    ),
    Published(
        'Gopher', 2021, 'decoder', 280e9, 300e9, 16384, 80, 128, 4 * 16384,
        32000, 'Rae et al. (2021), table 1 and section 3.1',
        head_size=128, xl_positions=True,
    ),
    Published(
        'GLaM', 2021, 'decoder', 1.2e12, 600e9, 8192, 64, 128, 32768,
        256_000, 'Du et al. (2022), table 4 and sections 4 and 5',
        'the paper rounds 1.16 to 1.2; 96.6B of them are active',
        head_size=128, bias=False, gated=True, buckets=32,
        num_experts=64,
        active_experts=2, moe_every=2,
    ),
    Published(
        'Megatron-Turing NLG', 2022, 'decoder', 530e9, 270e9, 20480, 105,
        128, 4 * 20480, 50257, 'Smith et al. (2022), section 2.3',
        max_len=2048,
    ),
    Published(
        'LaMDA', 2022, 'decoder', 137e9, 168e9, 8192, 64, 128, 65536, 32000,
        'Thoppilan et al. (2022), section 3; tokens: Hoffmann et al. (2022), '
        'table 1',
        'stated without embeddings',
        head_size=128, bias=False, gated=True, buckets=32,
        states_non_embedding=True,
    ),
    Published(
        'Chinchilla', 2022, 'decoder', 70e9, 1.4e12, 8192, 80, 64, 4 * 8192,
        32000, 'Hoffmann et al. (2022), table 4 and section 4.1',
        head_size=128, xl_positions=True,
    ),
    Published(
        'PaLM', 2022, 'decoder', 540e9, 780e9, 18432, 118, 48, 4 * 18432,
        256_000, 'Chowdhery et al. (2022), table 1 and section 2',
        head_size=256, num_kv_heads=1, bias=False, gated=True,
    ),
    Published(
        'OPT', 2022, 'decoder', 175e9, 300e9, 12288, 96, 96, 4 * 12288,
        50272, 'Zhang et al. (2022), table 1 and section 2',
        'tokens: those of its learning rate schedule; 180 billion are unique',
        max_len=2048,
    ),
    Published(
        'BLOOM', 2022, 'decoder', 176e9, 366e9, 14336, 70, 112, 4 * 14336,
        250_880, 'Le Scao et al. (2022), table 3 and section 3',
    ),
    Published(
        'LLaMA', 2023, 'decoder', 65.2e9, 1.4e12, 8192, 80, 64, 22016, 32000,
        'Touvron et al. (2023), table 2; feed-forward width of the released '
        'model',
        bias=False, gated=True, tied=False,
    ),
]  # fmt: skip

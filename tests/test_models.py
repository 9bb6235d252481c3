"""Configuration, blocks, GPT, objectives and generation."""

import math

import pytest
import torch
from torch import nn

import utils
from utils import GPT, Block, Config


def small(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {'vocab_size': 11, 'num_hiddens': 16, 'num_blks': 2, 'max_len': 8}
    return GPT(Config(**{**sizes, **changes})).eval()


def ids(*shape, seed=0, vocab_size=11):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, shape, generator=generator)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_hiddens': 0}, 'num_hiddens is 0, below 1'),
        ({'vocab_size': -3}, 'vocab_size is -3'),
        ({'num_heads': 3}, 'num_hiddens is 128, not a multiple of .* 3'),
        ({'dropout': 1.0}, r'dropout is 1.0, outside \[0, 1\)'),
        ({'activation': 'tanh'}, "'tanh', not one of relu, gelu"),
    ],
)
def test_config_errors_name_value_and_limit(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**{'vocab_size': 10, **changes})


def test_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        Config(10).num_hiddens = 3
    with pytest.raises(ValueError, match="'huge', not one of"):
        Config.gpt2('huge')


@pytest.mark.parametrize(
    ('size', 'num_params'),
    [
        ('small', 124_439_808),
        ('medium', 354_823_168),
        ('large', 774_030_080),
        ('xl', 1_557_611_200),
    ],
)
def test_gpt2_has_the_published_parameters(size, num_params):
    with torch.device('meta'):
        model = GPT(Config.gpt2(size))
    assert sum(p.numel() for p in model.parameters()) == num_params


def test_gpt_equals_gpt2_of_transformers():
    transformers = pytest.importorskip('transformers')
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=11, n_embd=16, n_layer=2, n_head=4, n_positions=8
        )
    ).eval()
    ours = small(activation='gelu_tanh')
    names = {
        'token_embedding': 'transformer.wte',
        'pos_embedding': 'transformer.wpe',
        'norm': 'transformer.ln_f',
        'head': 'lm_head',
    }
    for i in range(2):
        parts = {
            'attention.W_qkv': 'attn.c_attn', 'attention.W_o': 'attn.c_proj',
            'ffn.0': 'mlp.c_fc', 'ffn.2': 'mlp.c_proj',
            'norm1': 'ln_1', 'norm2': 'ln_2',
        }  # fmt: skip
        for a, b in parts.items():
            names[f'blks.{i}.{a}'] = f'transformer.h.{i}.{b}'
    weights = theirs.state_dict()
    state = {}
    for name in ours.state_dict():
        module, kind = name.rsplit('.', 1)
        W = weights[f'{names[module]}.{kind}']
        is_conv = 'blks.' in module and kind == 'weight' and W.dim() == 2
        state[name] = W.T if is_conv else W
    ours.load_state_dict(state)
    X = ids(3, 7)
    torch.testing.assert_close(ours(X), theirs(X).logits, atol=1e-5, rtol=1e-4)


def test_causal_by_perturbation_and_by_gradient():
    model, X = small(), ids(8)
    assert torch.equal(utils.reach(model, X), utils.causal_mask(8))
    full = torch.ones(8, 8, dtype=torch.bool)
    everywhere = utils.reach(lambda Z: model(Z, mask=full), X)
    assert torch.equal(everywhere, full)
    prefix = utils.prefix_mask(3, 8)
    assert torch.equal(utils.reach(lambda Z: model(Z, prefix), X), prefix)


def test_a_mask_for_each_block():
    model, X = small(), ids(8)
    banded, causal = utils.banded_mask(8, 3), utils.causal_mask(8)

    def reach(*masks):
        return utils.reach(lambda Z: model(Z, list(masks)), X)

    assert torch.equal(reach(banded, banded), utils.banded_mask(8, 5))
    assert torch.equal(reach(banded, causal), causal)
    assert torch.equal(reach(causal, banded), causal)
    both, one = model(X[None], [causal, causal]), model(X[None], causal)
    assert torch.equal(both, one)
    assert not torch.equal(model(X[None], [banded, causal]), one)
    swapped = model(X[None], [causal, banded])
    assert not torch.equal(model(X[None], [banded, causal]), swapped)


@pytest.mark.parametrize('pre_norm', [True, False])
@pytest.mark.parametrize('rms_norm', [True, False])
def test_block_normalizes_before_or_after(pre_norm, rms_norm):
    torch.manual_seed(0)
    blk = Block(Config(4, 16, pre_norm=pre_norm, rms_norm=rms_norm))
    Y = blk(5 * torch.randn(2, 3, 16))
    size = Y.square().mean(-1).sqrt()
    assert (abs(size - 1) < 0.05).all() == (not pre_norm)


def test_scaled_init_shrinks_what_writes_to_the_residual_stream():
    plain, scaled = (
        small(num_hiddens=64, num_blks=8, scaled_init=s) for s in (False, True)
    )
    for name, p in scaled.named_parameters():
        if p.dim() < 2:
            continue
        ratio = p.std() / plain.get_parameter(name).std()
        writes = name.endswith(('W_o.weight', 'ffn.2.weight'))
        assert ratio.item() == pytest.approx(0.25 if writes else 1, rel=0.1)


def test_tied_head_shares_the_embedding():
    tied, free = small(), small(tie_weights=False)
    assert tied.head.weight is tied.token_embedding.weight
    assert free.head.weight is not free.token_embedding.weight


def test_model_errors_name_value_and_limit():
    model = small()
    with pytest.raises(ValueError, match='id 11 outside the vocabulary of 11'):
        model(torch.tensor([[0, 11]]))
    with pytest.raises(ValueError, match='id -1 outside'):
        model(torch.tensor([[0, -1]]))
    with pytest.raises(ValueError, match='9 tokens, more than max_len, 8'):
        model(ids(1, 9))
    with pytest.raises(ValueError, match=r'\(0, 4\)'):
        model(ids(0, 4))
    with pytest.raises(ValueError, match=r'\(4,\)'):
        model(ids(4))
    for n in (1, 3):
        with pytest.raises(ValueError, match=f'{n} masks for 2 blocks'):
            model(ids(1, 4), [utils.causal_mask(4)] * n)


def test_token_loss_is_worked_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [5.0, 1.0]])
    loss, n = utils.token_loss(logits, torch.tensor([1, 0, -100]))
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert (loss.item(), n) == (pytest.approx(expected), 2)
    with pytest.raises(ValueError, match=r'no label in a batch of \(2,\)'):
        utils.token_loss(logits[:2], torch.tensor([-100, -100]))


def test_lm_loss_shifts_by_one_and_ignores_padding():
    model, X = small(), ids(3, 7)
    loss, n = utils.lm_loss(model, X)
    log_probs = model(X[:, :-1]).log_softmax(-1)
    by_hand = -log_probs.gather(-1, X[:, 1:, None]).mean()
    torch.testing.assert_close(loss, by_hand)
    assert n == 18
    padded = torch.cat((X, torch.full((3, 1), -100)), 1)
    same, n = utils.lm_loss(model, padded)
    torch.testing.assert_close(loss, same)
    assert n == 18


def test_evaluate_weighs_by_labels_without_dropout():
    model, X, Y = small(dropout=0.5).train(), ids(4, 8), ids(1, 3)
    mean = utils.evaluate(model, [X, Y], utils.lm_loss)
    assert model.training
    model.eval()
    a, n = utils.lm_loss(model, X)
    b, m = utils.lm_loss(model, Y)
    assert mean == pytest.approx(((a * n + b * m) / (n + m)).item())
    with pytest.raises(ValueError, match='no batch'):
        utils.evaluate(model, [], utils.lm_loss)


def test_generate_is_the_same_with_and_without_cache():
    model, X = small(), ids(3, 2)
    for options in ({'temperature': 0}, {'top_k': 4}, {'top_p': 0.7}):
        runs = [
            utils.generate(
                model, X, 6, use_cache=use_cache, **options,
                generator=torch.Generator().manual_seed(1),
            ) for use_cache in (True, False)
        ]  # fmt: skip
        assert torch.equal(*runs)
        assert runs[0].shape == (3, 8)
        assert torch.equal(runs[0][:, :2], X)


def test_generate_greedy_takes_the_best_and_keeps_the_mode():
    model, X = small().train(), ids(2, 3)
    Y = utils.generate(model, X, 1, temperature=0)
    assert model.training
    assert torch.equal(Y[:, -1], model.eval()(X)[:, -1].argmax(-1))


def test_generate_stops_and_fills():
    class Counter(nn.Module):
        """Always predicts the next number."""

        config = Config(11, max_len=9)

        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def new_caches(self):
            return None

        def forward(self, X, caches=None):
            return nn.functional.one_hot(X + 1, 11) * self.one

    X = torch.tensor([[1], [3]])
    Y = utils.generate(Counter(), X, 8, temperature=0, stop=5)
    assert Y.tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 5, 5]]


def test_sample_truncates():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(2000, 1)
    g = torch.Generator().manual_seed(0)

    def drawn(**options):
        return utils.sample(logits, generator=g, **options)

    share = drawn().bincount(minlength=4) / 2000
    assert torch.allclose(share, logits[0].exp(), atol=0.04)
    assert drawn(top_k=2).unique().tolist() == [0, 1]
    assert drawn(top_p=0.5).unique().tolist() == [0]
    assert drawn(top_p=0.51).unique().tolist() == [0, 1]
    assert drawn(temperature=0).unique().tolist() == [0]
    cold = (drawn(temperature=0.5) == 0).float().mean().item()
    assert cold == pytest.approx(
        0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.04
    )


def test_generation_errors_name_value_and_limit():
    model, logits = small(), torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r'5 \+ 4 tokens.*max_len, 8'):
        utils.generate(model, ids(1, 5), 4)
    for options, message in [
        ({'temperature': -1}, 'temperature is -1, below 0'),
        ({'top_k': 0}, 'top_k is 0, below 1'),
        ({'top_p': 0}, r'top_p is 0, outside \(0, 1\]'),
        ({'top_p': 1.5}, 'top_p is 1.5'),
    ]:
        with pytest.raises(ValueError, match=message):
            utils.sample(logits, **options)

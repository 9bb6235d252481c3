"""Configuration, blocks, GPT, objectives and generation."""

import collections
import math

import pytest
import torch
from torch import nn

import utils
from published import published_config
from successors import SwitchFeedForward, banded_mask
from utils import BERT, GPT, T5, Block, Config


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
    with pytest.raises(ValueError, match="'gpt2-huge', not one of"):
        published_config('gpt2-huge')


@pytest.mark.parametrize(
    ('name', 'num_params'),
    [
        ('gpt2', 124_439_808),
        ('gpt2-medium', 354_823_168),
        ('gpt2-large', 774_030_080),
        ('gpt2-xl', 1_557_611_200),
    ],
)
def test_gpt2_has_the_published_parameters(name, num_params):
    with torch.device('meta'):
        model = GPT(published_config(name))
    assert sum(p.numel() for p in model.parameters()) == num_params


def test_gpt_equals_gpt2_of_transformers():
    transformers = pytest.importorskip('transformers')
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=11, n_embd=16, n_layer=2, n_head=4, n_positions=8
        )
    ).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    ours = small(activation='gelu_tanh')
    names = {
        'token_embedding': 'transformer.wte',
        'pos_embedding': 'transformer.wpe',
        'norm': 'transformer.ln_f',
        'head': 'lm_head',
    }
    for i in range(2):
        parts = {
            'attention.layer.W_qkv': 'attn.c_attn',
            'attention.layer.W_o': 'attn.c_proj',
            'ffn.layer.0': 'mlp.c_fc',
            'ffn.layer.2': 'mlp.c_proj',
            'attention.norm': 'ln_1',
            'ffn.norm': 'ln_2',
        }
        for a, b in parts.items():
            names[f'blks.{i}.{a}'] = f'transformer.h.{i}.{b}'
    weights, state = theirs.state_dict(), {}
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
    banded, causal = banded_mask(8, 3), utils.causal_mask(8)

    def reach(*masks):
        return utils.reach(lambda Z: model(Z, list(masks)), X)

    assert torch.equal(reach(banded, banded), banded_mask(8, 5))
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


@pytest.mark.parametrize('scaled_init', [True, False])
@pytest.mark.parametrize('kind', [GPT, BERT, T5])
def test_weights_are_drawn_by_what_a_module_is(kind, scaled_init):
    torch.manual_seed(0)
    config = Config(
        300, 64, num_blks=8, init_std=0.05, scaled_init=scaled_init
    )
    seen = collections.Counter()
    for name, module in kind(config).named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            writes = name.endswith(('attention.layer.W_o', 'ffn.layer.2'))
            std = 0.05 / 4 if writes and scaled_init else 0.05
            error = 5 * std / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(std, abs=error)
            assert abs(module.weight.mean()) < 2 * error
            seen[type(module).__name__] += 1
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            assert (module.weight == 1).all()
            seen['norm'] += 1
        if getattr(module, 'bias', None) is not None:
            assert (module.bias == 0).all()
    num_writers = {GPT: 16, BERT: 16, T5: 16 + 24}[kind]
    assert seen['ResidualWriter'] == num_writers
    assert seen['Embedding'] and seen['Linear'] and seen['norm']


@pytest.mark.parametrize('scaled_init', [True, False])
def test_experts_start_like_the_dense_network(scaled_init):
    torch.manual_seed(0)
    config = Config(11, 64, num_blks=8, scaled_init=scaled_init)
    model = GPT(config)
    dense = [blk.ffn.layer for blk in model.blks]
    for blk in model.blks:
        blk.ffn.layer = SwitchFeedForward(config, 4)
    utils.init_weights(model, config)
    for blk, ffn in zip(model.blks, dense, strict=True):
        for expert in blk.ffn.layer.experts:
            for i in (0, 2):
                ratio = expert[i].weight.std() / ffn[i].weight.std()
                assert ratio.item() == pytest.approx(1, rel=0.05)
            assert (expert[2].bias == 0).all()
        ratio = dense[0][2].weight.std() / dense[0][0].weight.std()
        assert ratio.item() == pytest.approx(
            0.25 if scaled_init else 1, rel=0.05
        )


@pytest.mark.parametrize(
    ('kind', 'changes', 'message'),
    [
        (GPT, {'share_blks': True}, 'share_blks is True; .* has False'),
        (T5, {'share_blks': True}, 'share_blks is True; .* has False'),
        (GPT, {'embedding_size': 8}, 'embedding_size is 8; .* has 16'),
        (T5, {'embedding_size': 8}, 'embedding_size is 8; .* has 16'),
        (GPT, {'num_segments': 3}, 'num_segments is 3; .* has 2'),
        (T5, {'mlm_transform': False}, 'mlm_transform is False; .* True'),
        (GPT, {'num_buckets': 8}, 'num_buckets is 8; .* has 32'),
        (BERT, {'num_buckets': 8}, 'num_buckets is 8; .* has 32'),
        (BERT, {'max_distance': 99}, 'max_distance is 99; .* has 128'),
    ],
)
def test_what_a_model_has_no_use_for_is_refused(kind, changes, message):
    kind(Config(11, 16, embedding_size=16))
    with pytest.raises(ValueError, match=message):
        kind(Config(11, 16, **changes))


def test_tied_head_shares_the_embedding():
    tied, free = small(), small(tie_weights=False)
    assert tied.head.weight is tied.token_embedding.weight
    assert free.head.weight is not free.token_embedding.weight


def test_model_errors_name_value_and_limit():
    model = small()
    with pytest.raises(ValueError, match=r'id 11 outside 0\.\.10'):
        model(torch.tensor([[0, 11]]))
    with pytest.raises(ValueError, match=r'id -1 outside 0\.\.10'):
        model(torch.tensor([[0, -1]]))
    for dtype, value in ((torch.float32, '1.0'), (torch.bool, 'True')):
        with pytest.raises(ValueError, match=rf'id {value} outside 0\.\.10'):
            model(torch.ones(1, 4, dtype=dtype))
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


def test_no_label_adds_nothing_to_loss_and_gradient():
    model = small()
    bare = torch.full((2, 9), -100)
    loss, n = utils.lm_loss(model, bare)
    loss.backward()
    assert (loss.item(), n) == (0.0, 0)
    assert all((p.grad == 0).all() for p in model.parameters())
    scores = torch.tensor([[-math.inf, 0.0]]).requires_grad_()
    loss, n = utils.token_loss(scores, torch.tensor([-100]))
    loss.backward()
    assert (loss.item(), n) == (0.0, 0) and scores.grad.eq(0).all()
    X = ids(2, 9)
    some = utils.evaluate(model, [bare, X, bare], utils.lm_loss)
    assert some == utils.evaluate(model, [X], utils.lm_loss)
    with pytest.raises(ValueError, match='none that has a label'):
        utils.evaluate(model, [bare], utils.lm_loss)


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


def test_evaluation_leaves_each_module_in_its_mode():
    model, X = small(dropout=0.5).train(), ids(2, 5)
    model.blks[0].eval()
    modes = {name: m.training for name, m in model.named_modules()}
    assert set(modes.values()) == {True, False}
    inside = []

    def loss_fn(model, X):
        inside.extend(m.training for m in model.modules())
        return utils.lm_loss(model, X)

    def unchanged():
        return modes == {name: m.training for name, m in model.named_modules()}

    utils.evaluate(model, [X], loss_fn)
    assert unchanged() and inside and not any(inside)
    utils.generate(model, X, 2)
    assert unchanged()
    with pytest.raises(ZeroDivisionError):
        utils.evaluate(model, [X], lambda model, X: 1 / 0)
    assert unchanged()
    with pytest.raises(ValueError, match='top_k is 0'):
        utils.generate(model, X, 2, top_k=0)
    assert unchanged()
    with pytest.raises(ZeroDivisionError), utils.evaluation_mode(model):
        raise ZeroDivisionError
    assert unchanged()


def test_generate_is_the_same_with_and_without_cache():
    model, X = small(), ids(3, 2)
    for options in ({'temperature': 0}, {'top_k': 4}, {'top_p': 0.7}):
        runs = [
            utils.generate(
                model,
                X,
                6,
                use_cache=use_cache,
                **options,
                generator=torch.Generator().manual_seed(1),
            )
            for use_cache in (True, False)
        ]
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

        def forward(self, X, caches=None, last=0):
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


@pytest.mark.parametrize('temperature', [0, 1])
def test_sample_takes_numbers_only(temperature):
    hidden = torch.tensor([[1.0, -math.inf], [-math.inf, 1.0]])
    assert utils.sample(hidden, temperature).tolist() == [0, 1]
    for value in (math.nan, math.inf):
        logits = hidden.clone()
        logits[1, 0] = value
        with pytest.raises(ValueError, match=rf'not fin.* \[1.0, {value}\]'):
            utils.sample(logits, temperature)
    with pytest.raises(ValueError, match=r'not finite: .*\[-inf\]'):
        utils.sample(torch.full((1, 5), -math.inf), temperature)


def test_a_model_that_holds_nan_generates_nothing():
    model = small()
    with torch.no_grad():
        model.norm.bias[0] = math.nan
    with pytest.raises(ValueError, match=r'not finite: .*nan'):
        utils.generate(model, ids(1, 4), 2)
    with pytest.raises(FloatingPointError, match='loss is nan'):
        utils.evaluate(model, [ids(2, 9)], utils.lm_loss)


def test_generation_errors_name_value_and_limit():
    model, logits = small(), torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r'5 \+ 4 tokens.*max_len, 8'):
        utils.generate(model, ids(1, 5), 4)
    for options, message in [
        ({'temperature': -1}, 'temperature is -1, not'),
        ({'temperature': math.nan}, 'temperature is nan, not'),
        ({'temperature': math.inf}, 'temperature is inf, not'),
        ({'top_k': 0}, 'top_k is 0, below 1'),
        ({'top_p': 0}, r'top_p is 0, outside \(0, 1\]'),
        ({'top_p': 1.5}, 'top_p is 1.5'),
    ]:
        with pytest.raises(ValueError, match=message):
            utils.sample(logits, **options)

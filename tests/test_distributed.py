"""Training on two processes is training on one with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import utils
from processes import Run, parallelize, rank_and_world, share

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / 'chapter_large_pretraining'

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_model_state_dict)
import utils
from processes import Run, parallelize, rank_and_world

folder, *scenarios = sys.argv[1:]
g = torch.Generator().manual_seed(1)
data = [torch.randint(11, (4, 9), generator=g) for _ in range(7)]
for X in data:
    X[0, 6:] = -100  # so that shares differ in the number of labels
bare = [X.clone() for X in data]  # in some, one process has no label
for X, rank in zip(bare, (1, None, 0, 1, None, None, 1)):
    if rank is not None:
        X[rank::2, 1:] = -100
kinds = {'full': data, 'bare': bare}


def new_model(bias=True):
    torch.manual_seed(0)
    return utils.GPT(utils.Config(11, 16, num_blks=2, max_len=8, bias=bias))


def run(mode, steps, checkpoint, result, kind='full'):
    # a bias of the keys has gradient zero, and Adam divides rounding errors
    model, calls, data = new_model(kind == 'full'), [], kinds[kind]

    def loss_fn(model, X):
        calls.append(1)
        if len(calls) == steps + 1 and steps < 8:
            raise KeyboardInterrupt
        loss, n = utils.lm_loss(model, X)
        return 9 * loss, n  # so that gradients are clipped

    def eval_fn(model):
        return utils.evaluate(model, data[:2], utils.lm_loss)

    history = utils.train(
        model, data, loss_fn, 8, lr=2e-3, warmup=2, eval_fn=eval_fn,
        eval_every=4,
        run=Run(f'{folder}/{checkpoint}.pt', 4, shard='shard' in mode,
                accumulate=2 if 'parts' in mode else 1))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if rank_and_world()[0] == 0:
        torch.save((state, history.loss, history.eval_loss, history.tokens),
                   f'{folder}/{result}.result')


def run_bert(mode, result):
    g = torch.Generator().manual_seed(2)
    batches = []
    for rank in (1, None, 0):
        X = torch.randint(11, (4, 8), generator=g)
        labels = X.masked_fill(torch.arange(8) % 3 > 0, -100)
        if rank is not None:
            labels[rank::2] = -100
        batches.append((X, X * 0, torch.full((4,), 8), labels))
    empty = [(*batches[1][:3], torch.full((4, 8), -100))]

    def train(batches, steps):
        torch.manual_seed(0)
        model = utils.BERT(utils.Config(11, 16, num_blks=2, max_len=8))
        return utils.train(model, batches, utils.mlm_loss, steps, lr=2e-3,
                           run=Run(shard=mode == 'shard'))

    history = train(batches, 6)
    try:
        train(empty, 1)
    except ValueError as error:
        message = str(error)
    if rank_and_world()[0] == 0:
        torch.save((history.loss, history.tokens, message),
                   f'{folder}/{result}.result')


for scenario in scenarios:
    mode, steps, *names = scenario.split(',')
    if steps == 'bert':
        run_bert(mode, *names)
    else:
        run(mode, int(steps), *names)

if rank_and_world()[1] > 1:
    sent = []

    def hook(state, bucket):
        sent.append(bucket.buffer().nbytes)
        work = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return work.then(lambda work: work.value()[0] / 2)

    class Counted(Run):
        def prepare(self, model, settings):
            optimizers = super().prepare(model, settings)
            self.runner.register_comm_hook(None, hook)
            return optimizers

    totals = []
    for accumulate in (1, 2):
        model = new_model()
        sent.clear()
        utils.train(model, data, utils.lm_loss, 3,
                    run=Counted(accumulate=accumulate))
        totals.append(sum(sent))
    if rank_and_world()[0] == 0:
        num_params = sum(p.numel() for p in model.parameters())
        torch.save((totals, num_params), f'{folder}/bytes.result')
    dist.destroy_process_group()
"""


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """What one process and two made of the same training."""
    folder = tmp_path_factory.mktemp('distributed')
    script = folder / 'script.py'
    script.write_text(SCRIPT)
    env = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'TQDM_DISABLE': '1',
        'PYTHONPATH': os.pathsep.join([str(ROOT), str(CHAPTER)]),
    }

    def python(*scenarios, torchrun=False):
        launch = [sys.executable]
        if torchrun:
            launch += [
                '-m',
                'torch.distributed.run',
                '--standalone',
                '--nproc-per-node=2',
            ]
        done = subprocess.run(
            [*launch, script, folder, *scenarios],
            env=env,
            text=True,
            capture_output=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    python(
        'one,8,whole,one',
        'one,4,a,half',
        'one,4,b,half',
        'one-parts,8,p,one-parts',
        'one,8,bare,bare-one,bare',
        'one,bert,bert-one',
    )
    python(
        'ddp,8,ddp,ddp',
        'shard,8,shard,shard',
        'ddp-parts,8,q,ddp-parts',
        'shard-parts,8,r,shard-parts',
        'ddp,4,c,half',
        'shard,4,d,half',
        'ddp,8,a,one-ddp',
        'shard,8,b,one-shard',
        'ddp,8,e,bare-ddp,bare',
        'shard,8,f,bare-shard,bare',
        'ddp,bert,bert-ddp',
        'shard,bert,bert-shard',
        torchrun=True,
    )
    python('one,8,c,ddp-one', 'one,8,d,shard-one')
    return {
        path.stem: torch.load(path, weights_only=True)
        for path in folder.glob('*.result')
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    'way',
    [
        *('ddp', 'shard', 'one-ddp', 'one-shard', 'ddp-one', 'shard-one'),
        *('one-parts', 'ddp-parts', 'shard-parts'),
    ],
)
def test_two_processes_are_one(results, way):
    """`a-b` is half of the training by a, from its checkpoint on by b.

    `a-parts` takes each batch in two parts.
    """
    state, loss, eval_loss, tokens = results['one']
    other, *figures, their_tokens = results[way]
    assert len(loss) == 8 and tokens == their_tokens
    assert state.keys() == other.keys()
    for name, p in state.items():
        assert p.allclose(other[name], rtol=0, atol=1e-5), name
    for ours, theirs in zip((loss, eval_loss), figures, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('way', ['ddp', 'shard'])
def test_a_process_without_labels_contributes_nothing(results, way):
    state, *figures = results['bare-one']
    other, *others = results[f'bare-{way}']
    assert figures[-1][:2] == [13, 42]  # of 13 + 16 and 29 labels
    for ours, theirs in zip(figures, others, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    for name, p in state.items():
        assert p.allclose(other[name], rtol=0, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize('way', ['one', 'ddp', 'shard'])
def test_no_hidden_token_on_one_process_and_on_all(results, way):
    loss, tokens, message = results[f'bert-{way}']
    assert loss == pytest.approx(results['bert-one'][0], abs=1e-6)
    assert tokens == results['bert-one'][1] and tokens[0] == 6
    assert 'no label' in message


@pytest.mark.slow
def test_half_a_training_is_not_the_whole(results):
    assert len(results['half'][1]) == 4
    state, other = results['one'][0], results['half'][0]
    assert not all(p.allclose(other[n], atol=1e-3) for n, p in state.items())


@pytest.mark.slow
def test_each_step_sends_every_gradient_once(results):
    """In three steps of one part, and in three of two parts."""
    sent, num_params = results['bytes']
    assert sent == [3 * 4 * num_params] * 2


def test_numbers_below_one_are_named():
    for name in ('checkpoint_every', 'accumulate'):
        with pytest.raises(ValueError, match=f'{name} is 0, below 1'):
            Run(**{name: 0})


def test_shares_are_all_the_rows():
    X, y = torch.arange(10).view(5, 2), torch.arange(5)
    parts = [share((X, (y,)), rank, 2) for rank in range(2)]
    assert sorted(torch.cat([p[1][0] for p in parts]).tolist()) == [*range(5)]
    assert all(torch.equal(p[0], X[p[1][0]]) for p in parts)
    with pytest.raises(ValueError, match='2 rows in a batch, 3 shares'):
        share(X[:2], 0, 3)


def test_one_process_needs_no_others():
    assert rank_and_world() == (0, 1)
    model = utils.GPT(utils.Config(11, 16, num_blks=1, max_len=8))
    with pytest.raises(ValueError, match='started by torchrun'):
        parallelize(model, shard=True)

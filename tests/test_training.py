"""Optimizers, the loop, checkpoints, interruption, figures and claims."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import figures
import utils
from utils import GPT, Config, Muon, train

ROOT = Path(__file__).parents[1]
CHAPTER = ROOT / 'chapter_large_pretraining'


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return GPT(Config(11, 16, num_blks=2, max_len=8, **changes))


def batches(n=4, batch_size=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(11, (batch_size, 9), generator=g) for _ in range(n)]


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize('optimizer', ['muon', 'adamw'])
def test_training_learns_a_fixed_batch(optimizer):
    model = small()
    history = train(
        model, batches(1), utils.lm_loss, 60, lr=2e-2, optimizer=optimizer
    )
    assert history.loss[0] == pytest.approx(2.4, abs=0.1)
    assert history.loss[-1] < 1.5
    assert len(history.lr) == len(history.seconds) == 60
    assert history.tokens[-1] == 60 * 4 * 8
    assert history.seconds == sorted(history.seconds)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_learning_rate_goes_up_and_down():
    rates = train(
        small(), batches(), utils.lm_loss, 21, lr=1.0, warmup=4, final=0.1
    ).lr
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)
    linear = train(
        small(),
        batches(),
        utils.lm_loss,
        5,
        lr=1.0,
        schedule='linear',
        final=0,
    ).lr
    assert linear == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_decay_is_on_matrices_only():
    for optimizer in ('muon', 'adamw'):
        model = small()
        before = {n: p.clone() for n, p in model.named_parameters()}

        def no_gradient(model, X):
            zero = sum(p.sum() for p in model.parameters()) * 0.0
            return zero, 1

        train(
            model, batches(), no_gradient, 1, lr=0.1, weight_decay=0.5,
            optimizer=optimizer,
        )  # fmt: skip
        for name, p in model.named_parameters():
            share = 0.95 if p.dim() > 1 else 1.0
            torch.testing.assert_close(p, before[name] * share)


def test_adamw_is_that_of_torch():
    # without biases: that of the keys has gradient zero, and Adam divides
    # the rounding error of nothing by itself
    model, twin = (small(bias=False) for _ in range(2))
    X = batches(1)[0]
    history = train(
        model, [X], utils.lm_loss, 3, lr=1e-2, optimizer='adamw',
        weight_decay=0.0, schedule='constant', clip=0.5,
    )  # fmt: skip
    opt = torch.optim.AdamW(
        twin.parameters(), 1e-2, (0.9, 0.95), weight_decay=0.0
    )
    for i in range(3):
        opt.zero_grad()
        loss, _ = utils.lm_loss(twin, X)
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        opt.step()
        assert history.loss[i] == pytest.approx(loss.item(), rel=1e-5)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_muon_moves_the_matrices_of_blocks_and_adamw_the_rest():
    muon, adamw = small(), small()
    for model, name in ((muon, 'muon'), (adamw, 'adamw')):
        train(model, batches(1), utils.lm_loss, 1, optimizer=name)
    for name, p in muon.named_parameters():
        in_block = 'blks.' in name and p.dim() == 2
        assert torch.equal(p, adamw.get_parameter(name)) == (not in_block)


@pytest.mark.parametrize('shape', [(6, 6), (24, 8), (8, 24)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    X = utils.orthogonalize(torch.randn(shape) * 50)
    values = torch.linalg.svdvals(X)
    assert values.min() > 0.3 and values.max() < 1.3
    assert X.shape == shape


@pytest.mark.skipif(
    not hasattr(torch.optim, 'Muon'), reason='torch without Muon'
)
def test_muon_is_that_of_torch():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(12, 20))
    theirs = nn.Parameter(ours.detach().clone())
    a = Muon([ours], lr=0.1, momentum=0.95, weight_decay=0.1)
    b = torch.optim.Muon(
        [theirs],
        lr=0.1,
        momentum=0.95,
        weight_decay=0.1,
        adjust_lr_fn='match_rms_adamw',
    )
    start = ours.detach().clone()
    for _ in range(4):
        ours.grad = torch.randn(12, 20)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved  # theirs is in bfloat16
    with pytest.raises(ValueError, match='1 dimensions, not 2'):
        Muon([nn.Parameter(torch.zeros(3))])


def test_accumulation_is_one_large_batch():
    whole, parts = small(), small()
    X = batches(1, batch_size=6)[0]
    X[5, 3:] = -100  # the parts hold unequal numbers of labels
    options = {'lr': 1e-2, 'optimizer': 'adamw'}
    a = train(whole, [X], utils.lm_loss, 3, **options)
    b = train(parts, X.split(2), utils.lm_loss, 3, accumulate=3, **options)
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    assert a.tokens == b.tokens
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=1e-3)


def test_evaluation_comes_every_k_steps_and_at_the_end():
    seen = []

    def eval_fn(model):
        seen.append(model.training)
        return float(len(seen))

    history = train(
        small(), batches(), utils.lm_loss, 7, eval_fn=eval_fn, eval_every=3
    )
    assert history.eval_step == [3, 6, 7]
    assert history.eval_loss == [1.0, 2.0, 3.0]


def test_autocast_computes_in_the_given_type():
    seen = []

    def loss_fn(model, X):
        seen.append(model(X[:, :-1]).dtype)
        return utils.lm_loss(model, X)

    train(small(), batches(), loss_fn, 1, precision=torch.bfloat16)
    train(small(), batches(), loss_fn, 1)
    assert seen == [torch.bfloat16, torch.float32]


def test_training_errors_name_value_and_limit():
    def run(*args, **options):
        return train(small(), *args, **options)

    with pytest.raises(ValueError, match='num_steps is 0, below 1'):
        run(batches(), utils.lm_loss, 0)
    with pytest.raises(ValueError, match='accumulate is 0, below 1'):
        run(batches(), utils.lm_loss, 1, accumulate=0)
    with pytest.raises(ValueError, match="schedule 'step'"):
        run(batches(), utils.lm_loss, 1, schedule='step')
    with pytest.raises(ValueError, match="'sgd', not 'muon' or 'adamw'"):
        run(batches(), utils.lm_loss, 1, optimizer='sgd')
    with pytest.raises(ValueError, match='batches is empty'):
        run([], utils.lm_loss, 1)
    with pytest.raises(ValueError, match='at its end'):
        run(iter(batches(2)), utils.lm_loss, 3)


def test_loss_that_is_not_finite_stops_before_the_update():
    model = small()

    def loss_fn(model, X):
        loss, n = utils.lm_loss(model, X)
        steps.append(loss)
        return loss * (float('nan') if len(steps) == 3 else 1), n

    steps, states = [], []

    def eval_fn(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return 0.0

    message = r'loss is nan at step 2, learning rate 0\.05'
    with pytest.raises(FloatingPointError, match=message):
        train(
            model, batches(), loss_fn, 9, lr=0.05, schedule='constant',
            eval_fn=eval_fn, eval_every=1,
        )  # fmt: skip
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[-1][name])


def test_ctrl_c_keeps_history_and_model(capsys):
    model, calls = small(), []

    def loss_fn(model, X):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        return utils.lm_loss(model, X)

    history = train(model, batches(), loss_fn, 50)
    assert len(history.loss) == 3
    assert 'stopped by hand after 3 steps' in capsys.readouterr().out
    assert model(batches()[0][:, :8]).isfinite().all()
    assert not model.training
    more = train(model, batches(), utils.lm_loss, 2)
    assert len(more.loss) == 2


SCRIPT = """
import sys, time
import torch, utils
folder, pause = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
model = utils.GPT(utils.Config(11, 16, num_blks=2, max_len=8, dropout=0.2))
g = torch.Generator().manual_seed(1)
data = [torch.randint(11, (4, 9), generator=g) for _ in range(7)]
def loss_fn(model, X):
    time.sleep(pause)
    return utils.lm_loss(model, X)
history = utils.train(
    model, data, loss_fn, 40, lr=1e-2, warmup=5, accumulate=2,
    checkpoint=folder + '/run.pt', checkpoint_every=3)
torch.save((model.state_dict(), history.loss), folder + '/end.pt')
"""


def run_script(folder, pause=0.0):
    return subprocess.Popen(
        [sys.executable, '-c', SCRIPT, str(folder), str(pause)],
        cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_killed_run_resumes_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir(), killed.mkdir()
    reference = run_script(whole)
    victim = run_script(killed, pause=0.05)
    checkpoint = killed / 'run.pt'
    for _ in range(600):
        if checkpoint.exists():
            break
        time.sleep(0.1)
    time.sleep(0.7)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    step = torch.load(checkpoint, weights_only=True)['step']
    assert 0 < step < 40
    assert run_script(killed).wait() == 0
    assert reference.wait() == 0
    a, losses_a = torch.load(whole / 'end.pt', weights_only=True)
    b, losses_b = torch.load(killed / 'end.pt', weights_only=True)
    assert losses_a == losses_b
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / 'run.pt'
    train(small(), batches(), utils.lm_loss, 2, checkpoint=path)
    before = path.stat().st_ino
    utils.write_whole(path, lambda file: file.write(b'new'))
    assert path.read_bytes() == b'new'
    assert path.stat().st_ino != before  # replaced, not written over
    good = path.read_bytes()

    def fail(state, file):
        file.write(b'half')
        file.flush()
        assert path.read_bytes() == good
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        utils.write_whole(path, lambda file: torch.save({}, file))
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_finished_checkpoint_is_not_trained_again(tmp_path):
    path = tmp_path / 'run.pt'
    model, again = small(), small(seed=1)
    history = train(model, batches(), utils.lm_loss, 4, checkpoint=path)
    repeat = train(again, batches(), utils.lm_loss, 4, checkpoint=path)
    assert same(model, again) and history.loss == repeat.loss


def test_checkpoint_errors_name_the_file_and_the_difference(tmp_path):
    path = tmp_path / 'run.pt'
    train(small(), batches(), utils.lm_loss, 2, lr=1e-3, checkpoint=path)

    def resume(model, **options):
        options = {'lr': 1e-3, 'checkpoint': path, **options}
        return train(model, batches(), utils.lm_loss, 2, **options)

    with pytest.raises(ValueError, match=r'run.pt .*lr = 0.001, not 0.01'):
        resume(small(), lr=1e-2)
    with pytest.raises(ValueError, match=r'run.pt is of another model'):
        resume(small(bias=False))
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match=r'run.pt is not a checkpoint'):
        resume(small())


# Figures and claims


def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(
        figures, 'display', lambda data, raw: shown.append(data)
    )
    return shown


def test_figures_are_the_same_each_time_and_say_what_they_show(monkeypatch):
    shown = displayed(monkeypatch)
    mask = utils.causal_mask(3)
    for _ in range(2):
        ax = figures.show_pattern(mask, list('abc'))
        figures.show(ax.figure, 'the causal mask')
    assert shown[0] == shown[1]
    assert shown[0]['text/plain'] == 'the causal mask'
    svg = shown[0]['image/svg+xml']
    assert '<title>the causal mask</title>' in svg
    assert '<dc:date>' not in svg


def test_pattern_has_token_one_at_the_top_left():
    mask = utils.causal_mask(3)
    ax = figures.show_pattern(mask, list('abc'), list('xyz'))
    cells = ax.collections[0].get_array().reshape(3, 3)
    assert (cells > 0.5).tolist() == mask.tolist()
    first = ax.transData.transform((0, 0))
    last = ax.transData.transform((2, 2))
    assert first[0] < last[0] and first[1] > last[1]
    assert [t.get_text() for t in ax.get_xticklabels()] == list('xyz')
    assert [t.get_text() for t in ax.get_yticklabels()] == list('abc')
    figures.plt.close('all')


def test_attention_figure_draws_the_weights():
    maps = torch.rand(2, 3, 4, 4)
    fig = figures.show_attention(maps, list('abcd'), titles=list('123456'))
    axes = fig.axes[:6]  # then the color bar
    for ax, weights in zip(axes, maps.flatten(0, 1), strict=True):
        drawn = torch.tensor(ax.images[0].get_array().tolist())
        torch.testing.assert_close(drawn, weights)
    figures.plt.close('all')
    with pytest.raises(ValueError, match='3 query tokens for 4 positions'):
        figures.show_attention(maps, list('abc'))


def test_history_plot_draws_losses_and_evaluations():
    history = train(
        small(), batches(), utils.lm_loss, 6,
        eval_fn=lambda model: 2.0, eval_every=2,
    )  # fmt: skip
    ax = figures.plot_history({'run': history}, x='step')
    loss, evals = ax.lines
    assert list(loss.get_ydata()) == pytest.approx(history.loss)
    assert list(evals.get_xdata()) == [2, 4, 6]
    figures.plt.close('all')


def test_claim_prints_or_raises(capsys):
    figures.claim('two is more than one', torch.tensor(2) > 1)
    assert capsys.readouterr().out == '✓ two is more than one\n'
    for false in (False, torch.tensor(1) > 2, float('nan') > 0):
        with pytest.raises(AssertionError, match='✗ never'):
            figures.claim('never', false)


# The import of d2l


def python(code, **env):
    return subprocess.run(
        [sys.executable, '-c', code], cwd=CHAPTER, text=True,
        capture_output=True, env={**os.environ, **env},
    )  # fmt: skip


def hide(package):
    """Code that makes a package look as if it were not installed."""
    return (
        'import sys\n'
        'class Missing:\n'
        '    def find_spec(self, name, *_):\n'
        f'        if name.split(".")[0] == {package!r}:\n'
        '            raise ModuleNotFoundError("missing", name=name)\n'
        'sys.meta_path.insert(0, Missing())\n'
    )


def test_import_without_torchvision_leaves_no_stand_in():
    code = (
        'import d2l_import, sys; assert "torchvision" not in sys.modules\n'
        'print(d2l_import.d2l.Vocab.__name__)'
    )
    run = python(hide('torchvision') + code)
    assert (run.stdout, run.stderr) == ('Vocab\n', '')


def test_import_with_torchvision_uses_it(tmp_path):
    package = tmp_path / 'torchvision'
    package.mkdir()
    (package / '__init__.py').write_text('from . import transforms\n')
    (package / 'transforms.py').write_text('')
    code = (
        'import sys, d2l_import\n'
        'print(d2l_import.d2l.torchvision is sys.modules["torchvision"],'
        ' d2l_import.d2l.torchvision.__file__)'
    )
    run = python(code, PYTHONPATH=str(tmp_path))
    assert run.stdout == f'True {package / "__init__.py"}\n', run.stderr


def test_import_with_broken_torchvision_uses_the_stand_in(tmp_path):
    (tmp_path / 'torchvision.py').write_text('raise RuntimeError("no ops")')
    run = python('import d2l_import; print(1)', PYTHONPATH=str(tmp_path))
    assert run.stdout == '1\n', run.stderr


def test_missing_d2l_gives_the_command():
    run = python(hide('d2l') + 'import d2l_import')
    assert run.returncode == 1
    assert 'pip install --no-deps d2l==1.0.3' in run.stderr

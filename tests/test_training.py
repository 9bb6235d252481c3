"""Optimizers, the loop, checkpoints, interruption, the import of d2l."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import processes
import utils
from corpora.storage import write_whole
from utils import GPT, Config, Muon, train

ROOT = Path(__file__).parents[1]
CHAPTER = ROOT / 'chapter_large_pretraining'


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return GPT(Config(11, 16, num_blks=2, max_len=8, **changes))


def batches(n=4, batch_size=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(11, (batch_size, 9), generator=g) for _ in range(n)]


# What goes on beside the algorithm: alone, or ready for several processes
RUNS = pytest.mark.parametrize('make_run', [utils.Run, processes.Run])


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
    rates = train(small(), batches(), utils.lm_loss, 21, lr=1.0, warmup=4).lr
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)

    def rates_of(schedule):
        return train(
            small(), batches(), utils.lm_loss, 5, lr=1.0, schedule=schedule
        ).lr

    linear = rates_of('linear')
    assert linear == pytest.approx([1, 0.775, 0.55, 0.325, 0.1])
    assert rates_of('constant') == [1] * 5
    assert utils.lr_factor(4, 5, schedule='linear', final=0) == 0


def test_decay_is_on_matrices_only():
    for optimizer in ('muon', 'adamw'):
        model = small()
        before = {n: p.clone() for n, p in model.named_parameters()}

        def no_gradient(model, X):
            zero = sum(p.sum() for p in model.parameters()) * 0.0
            return zero, 1

        train(model, batches(), no_gradient, 1, 0.5, optimizer)
        for name, p in model.named_parameters():
            share = 0.95 if p.dim() > 1 else 1.0
            torch.testing.assert_close(p, before[name] * share)


def test_adamw_is_that_of_torch():
    # without biases: that of the keys has gradient zero, and Adam divides
    # the rounding error of nothing by itself
    model, twin = (small(bias=False) for _ in range(2))
    X = batches(1)[0]

    def steep_loss(model, X):
        loss, n = utils.lm_loss(model, X)
        return 9 * loss, n

    history = train(
        model,
        [X],
        steep_loss,
        3,
        lr=1e-2,
        optimizer='adamw',
        betas=(0.8, 0.9),
        schedule='constant',
    )
    params = list(twin.parameters())
    groups = [
        {'params': [p for p in params if p.dim() > 1]},
        {'params': [p for p in params if p.dim() < 2], 'weight_decay': 0.0},
    ]
    opt = torch.optim.AdamW(groups, 1e-2, (0.8, 0.9), weight_decay=0.1)
    for i in range(3):
        opt.zero_grad()
        loss, _ = steep_loss(twin, X)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(params, 1.0)
        assert norm > 1.5
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


@pytest.mark.parametrize('shape', [(2, 6, 6), (3, 24, 8), (1, 8, 24)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    G = torch.randn(shape) * 50 ** torch.arange(shape[0])[:, None, None]
    X = utils.orthogonalize(G)
    values = torch.linalg.svdvals(X)
    assert values.min() > 0.3 and values.max() < 1.3
    assert X.shape == shape
    U, _, V = torch.linalg.svd(G, full_matrices=False)
    assert (X - U @ V).norm() < 0.4 * (U @ V).norm()


SHAPES = [(64, 64), (192, 64), (384, 96), (96, 384), (128, 128)]


def gradients(kind, seed, shapes):
    """Random matrices, or such that are almost of rank 4."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=g)
    if kind == 'random':
        return [draw(*shape) for shape in shapes]
    return [draw(m, 4) @ draw(4, n) + 0.1 * draw(m, n) for m, n in shapes]


def iterate(X):
    """Five steps of the iteration by its definition, for one matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    if X.shape[0] > X.shape[1]:
        return iterate(X.T).T
    X = X / (X.norm() + 1e-7)
    for _ in range(5):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X


@pytest.mark.parametrize('kind', ['random', 'low rank and noise'])
def test_batched_muon_is_that_of_each_matrix(kind):
    lr, beta, decay, shapes = 0.1, 0.9, 0.2, SHAPES + SHAPES[:3]
    params = [nn.Parameter(W) for W in gradients('random', 0, shapes)]
    muon = Muon(params, lr=lr, momentum=beta, weight_decay=decay)
    moments = [torch.zeros_like(p).double() for p in params]
    for step in range(1, 4):
        before = [p.detach().clone() for p in params]
        for p, G in zip(params, gradients(kind, step, shapes), strict=True):
            p.grad = G
        muon.step()
        for p, W, m in zip(params, before, moments, strict=True):
            G = p.grad.double()
            m.mul_(beta).add_((1 - beta) * G)
            X = iterate((1 - beta) * G + beta * m)
            update = 0.2 * max(p.shape) ** 0.5 * X
            ours = ((1 - lr * decay) * W.double() - p.detach()) / lr
            assert (ours - update).abs().max() < 1e-4 * update.abs().max()


@pytest.mark.parametrize('kind', ['random', 'low rank and noise'])
@pytest.mark.parametrize('shape', SHAPES)
def test_orthogonalize_keeps_its_limits_in_bfloat16(kind, shape):
    G = torch.stack(gradients(kind, 0, [shape] * 3))
    X = utils.orthogonalize(G.bfloat16()).float()
    exact = torch.stack([iterate(each) for each in G.double()]).float()
    assert torch.linalg.svdvals(X).max() < 1.3
    assert (X - exact).norm() < 0.15 * exact.norm()


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


@RUNS
def test_autocast_computes_in_the_type_of_the_device(make_run, monkeypatch):
    seen = []

    def loss_fn(model, X):
        seen.append(model(X[:, :-1]).dtype)
        return utils.lm_loss(model, X)

    train(small(), batches(), loss_fn, 1, run=make_run())
    half = lambda device: torch.autocast(device.type, torch.bfloat16)
    monkeypatch.setattr(utils, 'autocast', half)
    train(small(), batches(), loss_fn, 1, run=make_run())
    assert seen == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize('native', [True, False])
def test_autocast_is_for_gpus_that_have_bfloat16(native, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, 'is_bf16_supported', lambda including_emulation: native
    )
    monkeypatch.setattr(torch, 'autocast', lambda *x, enabled: (*x, enabled))
    for kind, enabled in (('cuda', native), ('cpu', False)):
        found = utils.autocast(torch.device(kind))
        assert found == (kind, torch.bfloat16, enabled)


def test_training_errors_name_value_and_limit():
    def run(*args, **options):
        return train(small(), *args, **options)

    with pytest.raises(ValueError, match='num_steps is 0, below 1'):
        run(batches(), utils.lm_loss, 0)
    with pytest.raises(ValueError, match='checkpoint_every is 0, below 1'):
        processes.Run('run.pt', checkpoint_every=0)
    with pytest.raises(ValueError, match="schedule 'step'"):
        run(batches(), utils.lm_loss, 1, schedule='step')
    with pytest.raises(ValueError, match="'sgd', not 'muon' or 'adamw'"):
        run(batches(), utils.lm_loss, 1, optimizer='sgd')
    with pytest.raises(ValueError, match='no label in the batch of step 1'):
        bare = torch.full((2, 9), -100)
        run([batches()[0], bare], utils.lm_loss, 4)
    with pytest.raises(ValueError, match='batches is empty'):
        run([], utils.lm_loss, 1)
    with pytest.raises(ValueError, match='at its end'):
        run(iter(batches(2)), utils.lm_loss, 3)


@RUNS
def test_loss_that_is_not_finite_stops_before_the_update(make_run):
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
            model,
            batches(),
            loss_fn,
            9,
            lr=0.05,
            schedule='constant',
            eval_fn=eval_fn,
            eval_every=1,
            run=make_run(),
        )
    assert len(states) == 2 and not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[-1][name])


@RUNS
@pytest.mark.usefixtures('ctrl_c')
def test_ctrl_c_keeps_history_and_model(make_run, capsys):
    model, calls = small(), []

    def loss_fn(model, X):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        return utils.lm_loss(model, X)

    history = train(model, batches(), loss_fn, 50, run=make_run())
    assert len(history.loss) == 3
    assert 'stopped by hand after 3 steps' in capsys.readouterr().out
    assert model(batches()[0][:, :8]).isfinite().all()
    assert not model.training
    more = train(model, batches(), utils.lm_loss, 2)
    assert len(more.loss) == 2


def test_ctrl_c_in_an_evaluation_leaves_no_half_of_it():
    evaluations = iter([2.0])

    def eval_fn(model):
        for value in evaluations:
            return value
        raise KeyboardInterrupt

    history = train(
        small(), batches(), utils.lm_loss, 9, eval_fn=eval_fn, eval_every=2
    )
    assert len(history.loss) == 4
    assert (history.eval_step, history.eval_loss) == ([2], [2.0])


SCRIPT = """
import sys, time
import processes, torch, utils
folder, pause = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
model = utils.GPT(utils.Config(11, 16, num_blks=2, max_len=8, dropout=0.2))
g = torch.Generator().manual_seed(1)
data = [torch.randint(11, (4, 9), generator=g) for _ in range(7)]
def loss_fn(model, X):
    time.sleep(pause)
    return utils.lm_loss(model, X)
history = utils.train(
    model, data, loss_fn, 40, lr=1e-2, warmup=5,
    run=processes.Run(folder + '/run.pt', checkpoint_every=3))
torch.save((model.state_dict(), history.loss), folder + '/end.pt')
"""


def run_script(folder, pause=0.0):
    return subprocess.Popen(
        [sys.executable, '-c', SCRIPT, str(folder), str(pause)],
        cwd=CHAPTER,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir(), killed.mkdir()
    reference = run_script(whole)
    victim = run_script(killed, pause=0.1)
    checkpoint = killed / 'run.pt'
    for _ in range(600):
        if checkpoint.exists():
            break
        assert victim.poll() is None
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
    train(small(), batches(), utils.lm_loss, 2, run=processes.Run(path))
    before = path.stat().st_ino
    write_whole(path, lambda file: file.write(b'new'))
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
        write_whole(path, lambda file: torch.save({}, file))
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('optimizer', ['muon', 'adamw'])
def test_ready_for_processes_is_the_same_on_one(optimizer):
    runs, models = (None, processes.Run(None)), []
    histories = []
    for run in runs:
        models.append(small(dropout=0.2))
        histories.append(
            train(
                models[-1],
                batches(),
                utils.lm_loss,
                7,
                1e-2,
                optimizer,
                warmup=2,
                eval_every=3,
                run=run,
                eval_fn=lambda model: utils.evaluate(
                    model, batches(2, seed=1), utils.lm_loss
                ),
            )
        )
    a, b = histories
    for name in ('loss', 'lr', 'tokens', 'eval_step', 'eval_loss'):
        assert getattr(a, name) == getattr(b, name), name
    assert len(a.loss) == 7 and a.eval_step == [3, 6, 7]
    assert same(*models)


def test_finished_checkpoint_is_not_trained_again(tmp_path):
    path = tmp_path / 'run.pt'
    model, again = small(), small(seed=1)
    history, repeat = (
        train(each, batches(), utils.lm_loss, 4, run=processes.Run(path))
        for each in (model, again)
    )
    assert same(model, again) and history.loss == repeat.loss


def test_checkpoint_errors_name_the_file_and_the_difference(tmp_path):
    path = tmp_path / 'run.pt'

    def resume(model, lr=1e-3, **options):
        run = processes.Run(path)
        return train(
            model, batches(), utils.lm_loss, 2, lr, run=run, **options
        )

    resume(small())
    with pytest.raises(ValueError, match=r'run.pt .*lr = 0.001, not 0.01'):
        resume(small(), lr=1e-2)
    with pytest.raises(ValueError, match=r'run.pt .*betas = .*0.95.*, not '):
        resume(small(), betas=(0.9, 0.99))
    with pytest.raises(ValueError, match=r'run.pt is of another model'):
        resume(small(bias=False))
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match=r'run.pt is not a checkpoint'):
        resume(small())


# The import of d2l


def python(code, **env):
    return subprocess.run(
        [sys.executable, '-c', code],
        cwd=CHAPTER,
        text=True,
        capture_output=True,
        env={**os.environ, **env},
    )


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


@pytest.mark.slow
def test_import_without_torchvision_leaves_no_stand_in():
    code = (
        'import d2l_import, sys; assert "torchvision" not in sys.modules\n'
        'print(d2l_import.d2l.Vocab.__name__)'
    )
    run = python(hide('torchvision') + code)
    assert (run.stdout, run.stderr) == ('Vocab\n', '')


@pytest.mark.slow
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


@pytest.mark.slow
def test_import_with_broken_torchvision_uses_the_stand_in(tmp_path):
    (tmp_path / 'torchvision.py').write_text('raise RuntimeError("no ops")')
    run = python('import d2l_import; print(1)', PYTHONPATH=str(tmp_path))
    assert run.stdout == '1\n', run.stderr


def test_missing_d2l_gives_the_command():
    run = python(hide('d2l') + 'import d2l_import')
    assert run.returncode == 1
    assert 'pip install --no-deps d2l==1.0.3' in run.stderr

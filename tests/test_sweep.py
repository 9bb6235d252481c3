"""The scaling study: its rows, its plan, and how it goes on when killed."""

import csv
import dataclasses
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

import laws
import utils
from studies import scaling as sweep

CHAPTER = Path(sweep.__file__).parents[1]
RECORDED = CHAPTER / 'studies' / 'scaling.csv'
TEXT = 'north south east west hill wood stone rain snow wind red blue'


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
    """A folder of 60 short texts."""
    folder, rng = (
        tmp_path_factory.mktemp('texts') / 'weather',
        random.Random(0),
    )
    (folder / 'more').mkdir(parents=True)
    for i in range(60):
        text = ' '.join(rng.choices(TEXT.split(), k=120))
        name = f'more/{i}.md' if i % 2 else f'{i}.txt'
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def command(texts, tmp_path, monkeypatch):
    """A sweep of small models over the texts, as a list of words."""
    monkeypatch.setenv('CHAPTER_DATA', str(tmp_path / 'data'))
    monkeypatch.setattr('corpora.storage.DATA', tmp_path / 'data')
    return [
        str(tmp_path / 'runs.csv'), '--text', str(texts),
        '--sizes', '8x1,16x1', '--vocab-size', '300', '--num-steps', '8',
        '--batch-size', '4',
        '--lr-tokens', '640', '--lrs', '0.01,0.02', '--min-tokens', '100',
        '--budgets', '3e7,6e7', '--unique', '50,500', '--epochs', '8',
        '--max-tokens', '2000', '--device', 'cpu',
    ]  # fmt: skip


def start(words, *launch, script=('-m', 'studies')):
    return subprocess.Popen(
        [sys.executable, *launch, *script, *words], cwd=CHAPTER,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def figures(path):
    """What a sweep found, without what depends on time and place."""
    own = {'seconds', 'processes', 'command', 'date'}
    rows = [dataclasses.asdict(row) for row in sweep.read_rows(path)]
    rows = [{k: v for k, v in row.items() if k not in own} for row in rows]
    return sorted(rows, key=str)


def close(a, b):
    """Equal rows, but that a loss may differ by 1e-5."""
    assert len(a) == len(b) > 0
    for ours, theirs in zip(a, b, strict=True):
        for name in ours:
            if name.endswith('loss'):
                theirs[name] = pytest.approx(theirs[name], abs=1e-5)
        assert ours == theirs


def test_a_sweep_and_its_rows(command, capsys):
    assert sweep.main([*command, '--dry-run', '--studies', 'lr']) == 0
    assert 'lr: 4 runs left of 4' in capsys.readouterr().out
    path = Path(command[0])
    assert not path.exists()
    assert sweep.main(command) == 0
    data = sweep.read_runs(path)
    assert list(data.columns) == sweep.COLUMNS
    assert data.study.value_counts().to_dict() == {
        'lr': 4, 'grid': 4, 'data': 2,
    }  # fmt: skip
    for row in sweep.read_rows(path):
        with torch.device('meta'):
            model = utils.GPT(row.config)
        total = sum(p.numel() for p in model.parameters())
        tables = 300 * row.num_hiddens + 8 * row.num_hiddens
        assert (row.non_embedding, row.parameters) == (total - tables, total)
        assert row.flops_kaplan == 6 * row.non_embedding * row.tokens
        assert row.flops_hoffmann == laws.train_flops(row.config, row.tokens)
        assert row.tokens % 32 == 0 and 0 < row.best_tokens <= row.tokens
        assert 1 < row.best_valid_loss <= row.valid_loss < math.log(300) + 0.5
        assert row.machine and row.python and row.torch == torch.__version__
        assert row.command.startswith('sweep.py') and row.corpus == 'weather'
    grid = data[data.study == 'grid']
    for budget in (3e7, 6e7):
        near = (grid.flops_hoffmann / budget - 1).abs() < 0.1
        assert set(grid[near].num_hiddens) == {8, 16}
    rates = data[data.study == 'lr']
    best = rates.loc[rates.groupby('num_hiddens').valid_loss.idxmin()]
    best = best.set_index('num_hiddens').lr
    assert all(row.lr == best[row.num_hiddens] for row in grid.itertuples())
    few = data[data.study == 'data']
    assert set(few.unique_tokens) == {50, 500} and set(few.num_hiddens) == {16}
    assert set(few.tokens) == {384, 1984}  # 8 rounds, at most --max-tokens
    assert not list(path.parent.glob('*.checkpoints'))


def test_a_finished_sweep_makes_no_run_again(command):
    words = [*command, '--studies', 'lr']
    assert sweep.main(words) == 0
    path = Path(words[0])
    whole = path.read_bytes()
    assert sweep.main(words) == 0
    assert path.read_bytes() == whole
    before = figures(path)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b''.join([*lines[:2], *lines[3:]]))  # one run less
    assert sweep.main(words) == 0
    assert figures(path) == before
    path.write_bytes(whole[:-20])  # the last line was being written
    assert sweep.main(words) == 0
    assert figures(path) == before


# sweep.py that kills itself after the first checkpoint of a long run
VICTIM = """
import os, signal, sys, time
from multiprocessing import parent_process
from pathlib import Path
sys.path[:0] = {chapter!r}, {root!r}
from studies import scaling as sweep
import utils

save = utils.save_checkpoint


def save_and_kill(path, step, *state):
    save(path, step, *state)
    while step == 1000 and len(sweep.read_rows({csv!r})) < 1:
        time.sleep(0.01)
    if step == 1000:
        sweeping = parent_process()
        os.kill(sweeping.pid if sweeping else os.getpid(), signal.SIGKILL)


utils.save_checkpoint = save_and_kill
if __name__ == '__main__':
    sweep.main()
"""


@pytest.mark.parametrize('workers', ['1', '2'])
def test_a_killed_sweep_goes_on_where_it_was(command, workers):
    """Killed within a run that has a checkpoint, with rows already there."""
    words = [*command, '--studies', 'grid', '--lr', '0.01', '--sizes', '8x1',
             '--budgets', '3e7,6e7,1.1e9', '--max-tokens', '1e6']  # fmt: skip
    path = Path(words[0])
    reference = path.with_name('reference.csv')
    assert sweep.main([str(reference), *words[1:]]) == 0
    script = path.with_name('victim.py')
    names = {'chapter': str(CHAPTER), 'root': str(CHAPTER.parent)}
    script.write_text(VICTIM.format(csv=str(path), **names))
    victim = start([*words, '--workers', workers], script=[script])
    assert victim.wait() == -signal.SIGKILL, victim.stderr.read()
    folder = Path(f'{path}.checkpoints')
    assert 1 <= len(sweep.read_rows(path)) <= 2 and list(folder.glob('*.pt'))
    assert sweep.main(words) == 0
    assert figures(path) == figures(reference)
    assert not folder.exists()


def test_nothing_stays_of_a_sweep_killed_after_a_row(command, monkeypatch):
    """Killed when the row was written and its checkpoint still there."""
    words = [*command, '--studies', 'lr']

    def killed(options, run):
        path = sweep.checkpoint_path(options, run)
        path.with_name(f'{path.name}.part').write_bytes(b'half')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep, 'forget', killed)
        assert sweep.main(words) == 130
    folder = Path(f'{words[0]}.checkpoints')
    assert len(sweep.read_rows(words[0])) == 1
    assert {path.suffix for path in folder.iterdir()} >= {'.pt', '.part'}
    assert sweep.main(words) == 0
    assert len(sweep.read_rows(words[0])) == 4
    assert not folder.exists()


def test_a_run_is_locked_while_it_is_trained(command, monkeypatch):
    train, refused = utils.train, []

    def train_with_a_rival(*inputs, checkpoint, **options):
        lock = FileLock(checkpoint.with_suffix('.0.lock'), timeout=0)
        with pytest.raises(Timeout), lock:
            pass
        refused.append(checkpoint)
        return train(*inputs, checkpoint=checkpoint, **options)

    monkeypatch.setattr(utils, 'train', train_with_a_rival)
    assert sweep.main([*command, '--studies', 'lr']) == 0
    assert len(set(refused)) == 4


@pytest.mark.parametrize('shard', [[], ['--shard']], ids=['ddp', 'fsdp'])
def test_torchrun_gives_the_same_rows(command, shard):
    words = [*command, '--studies', 'lr']
    path = Path(words[0])
    reference = path.with_name('reference.csv')
    assert sweep.main([str(reference), *words[1:]]) == 0
    two = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    process = start([*words, *shard], *two)
    assert process.wait() == 0, process.stderr.read()
    close(figures(path), figures(reference))
    assert set(sweep.read_runs(path).processes) == {2}


def test_a_run_that_diverges_has_infinite_loss(command, monkeypatch):
    def fail(*_, **__):
        raise FloatingPointError('loss is nan')

    monkeypatch.setattr(utils, 'train', fail)
    assert sweep.main([*command, '--studies', 'lr']) == 0
    losses = sweep.read_runs(command[0]).valid_loss
    assert len(losses) == 4 and (losses == math.inf).all()


def test_ctrl_c_writes_no_row(command, monkeypatch, capsys):
    train = utils.train

    def stop(model, batches, loss_fn, num_steps, *inputs, **options):
        return train(model, batches, loss_fn, 2, *inputs, **options)

    monkeypatch.setattr(utils, 'train', stop)
    assert sweep.main([*command, '--studies', 'lr']) == 130
    assert 'goes on from here' in capsys.readouterr().err
    assert not Path(command[0]).exists()


def test_errors_of_the_command(command, capsys, tmp_path):
    def error(*words):
        assert sweep.main([*command, *words]) == 1
        return capsys.readouterr().err

    assert 'no learning rate for 8x1' in error('--studies', 'grid')
    assert 'nothing is not a folder' in error(
        '--text', str(tmp_path / 'nothing')
    )
    (tmp_path / 'empty').mkdir()
    assert '0 .txt, .md or .rst files' in error(
        '--text', str(tmp_path / 'empty')
    )
    assert 'not a multiple of num_heads' in error('--sizes', '100x1')
    with FileLock(f'{command[0]}.lock'):
        assert 'another sweep is writing' in error()
    Path(command[0]).write_text('not,a,sweep\n')
    assert 'line 1: not the columns' in error()


@pytest.mark.parametrize(
    'words, message',
    [
        (['--sizes', '8'], 'not like 8x1,16x2'),
        (['--sizes', '8x0'], 'not like 8x1,16x2'),
        (['--budgets', '1e5,-1'], 'not like 1e5,3e5'),
        (['--budgets', 'many'], 'not like 1e5,3e5'),
        (['--studies', 'width'], "'width' is not one of"),
        (['--workers', '0'], 'workers is 0, below 1'),
        (['--optimizer', 'sgd'], 'invalid choice'),
    ],
)
def test_bad_options_are_refused(command, words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        sweep.main([*command, *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_workers_and_torchrun_do_not_go_together(command, monkeypatch, capsys):
    monkeypatch.setattr(sweep, 'processes', lambda: (0, 2))
    assert sweep.main([*command, '--workers', '2']) == 1
    assert '--workers 2 under torchrun' in capsys.readouterr().err


@pytest.mark.parametrize(
    'column, value, message',
    [
        ('lr', 'fast', "lr is 'fast', not float"),
        ('tokens', '1.5', "tokens is '1.5', not int"),
        ('tokens', '-64', 'tokens is -64, below'),
        ('valid_loss', 'nan', 'valid_loss is nan, below'),
        ('valid_loss', '0', 'valid_loss is 0, below'),
        ('study', 'grids', "study is 'grids', not one of"),
        (None, None, f'{len(sweep.COLUMNS) - 1} fields'),
        ('twice', None, 'the run of line 3 again'),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(
    tmp_path, column, value, message
):
    with RECORDED.open(newline='', encoding='utf-8') as file:
        lines = list(csv.reader(file))[:6]
    if column is None:
        del lines[3][-1]
    elif column == 'twice':
        lines[3] = lines[2]
    else:
        lines[3][sweep.COLUMNS.index(column)] = value
    path = tmp_path / 'bad.csv'
    with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(lines)
    with pytest.raises(ValueError, match=f'bad.csv, line 4: {message}'):
        sweep.read_runs(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'there is no file .*none\.csv'):
        sweep.read_runs(tmp_path / 'none.csv')


def test_the_recorded_runs():
    """At least 60 runs over the decades of size, data and compute."""
    data = sweep.read_runs(RECORDED)
    grid = data[data.study == 'grid']
    assert len(grid) >= 60

    def decades(values):
        return math.log10(values.max() / values.min())

    documentation = data[data.corpus == 'documentation']
    assert decades(documentation.non_embedding) > 3
    assert decades(documentation.unique_tokens) > 2.9
    assert decades(grid.non_embedding) > 4
    assert decades(grid.tokens) > 2.7
    assert decades(grid.flops_hoffmann) > 5
    for row in sweep.read_rows(RECORDED):
        counted = laws.count_parameters(row.config)
        assert counted == (row.non_embedding, row.parameters)
        assert row.flops_hoffmann == laws.train_flops(row.config, row.tokens)
    tuned = data[data.study == 'lr'].groupby(['corpus', 'num_hiddens'])
    assert tuned.lr.nunique().min() >= 4

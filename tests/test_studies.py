"""Studies: their rows, their plans, and how they go on when killed."""

import csv
import dataclasses
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

import corpora
import laws
import processes
import utils
from studies import derivatives, plateau, runner, scaling

CHAPTER = Path(scaling.__file__).parents[1]
RECORDED = CHAPTER / 'studies' / 'scaling.csv'
TEXT = 'north south east west hill wood stone rain snow wind red blue'


# ---- A study of the learning rate: what the next one has to say ----


@dataclasses.dataclass(frozen=True)
class Run:
    width: int
    lr: float
    note: str = ''
    cost = 100


@dataclasses.dataclass(frozen=True)
class Measured:
    loss: float
    steps: int
    seconds: float


def add_options(add):
    add('--lrs', type=runner.listed(runner.positive), default='0.01,0.02')
    add('--note', default='')


def plan(rows, options):
    return [Run(8, lr, options.note) for lr in options.lrs]


def execute(run, options, checkpoint):
    torch.manual_seed(0)
    history = runner.train(
        utils.GPT(utils.Config(11, run.width, 2, 1, 8)),
        itertools.repeat(torch.arange(9).repeat(4, 1)),
        utils.lm_loss,
        5,
        run.lr,
        eval_fn=lambda model: utils.evaluate(
            model, [torch.arange(9)[None]], utils.lm_loss
        ),
        checkpoint=checkpoint,
        shard=options.shard,
    )
    return Measured(
        history.eval_loss[-1], history.eval_step[-1], history.seconds[-1]
    )


RATES = runner.Study(
    name='rates',
    about='The loss against the learning rate.',
    Run=Run,
    Measured=Measured,
    add_options=add_options,
    plan=plan,
    execute=execute,
)


def go(path, *words):
    """The study of the learning rate as a command."""
    return runner.run_study(RATES, [str(path), '--device', 'cpu', *words])


def listing(folder):
    """All that a folder holds: what, when, and with which bytes."""
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob('*')
    }


@pytest.fixture
def path(tmp_path):
    """A CSV of four runs."""
    path = tmp_path / 'rates.csv'
    assert go(path, '--lrs', '0.01,0.02,0.03,0.04') == 0
    assert len(RATES.read(path)[0]) == 4
    return path


def test_a_study_in_a_few_lines(path, capsys):
    data = RATES.read_runs(path)
    assert list(data.columns) == RATES.columns
    assert list(data.lr) == [0.01, 0.02, 0.03, 0.04]
    assert (data.steps == 5).all() and (data.loss < math.log(11)).all()
    assert data.command[0].startswith(f'studies rates {path} --device cpu')
    assert re.fullmatch(r'20\d\d-\d\d-\d\d', data.date[0])
    before = listing(path.parent)
    assert go(path, '--lrs', '0.01,0.02') == 0
    assert 'has all 2 runs of the plan' in capsys.readouterr().out
    assert before[path] == listing(path.parent)[path]


@pytest.mark.slow
def test_workers_give_the_same_rows(path, tmp_path):
    other = tmp_path / 'other.csv'
    assert go(other, '--lrs', '0.01,0.02,0.03,0.04', '--workers', '2') == 0
    ours, theirs = RATES.read_runs(path), RATES.read_runs(other)
    theirs = theirs.sort_values('lr', ignore_index=True)
    assert ours.lr.equals(theirs.lr)
    assert list(theirs.loss) == pytest.approx(list(ours.loss), abs=1e-5)


def test_a_study_of_other_fields_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        done: bool

    @dataclasses.dataclass(frozen=True)
    class Twice:
        lr: float

    with pytest.raises(ValueError, match=r'done is a .*bool.*, not int'):
        dataclasses.replace(RATES, Measured=Odd)
    with pytest.raises(ValueError, match='lr is a column twice'):
        dataclasses.replace(RATES, Measured=Twice)


# ---- The command ----


def test_the_studies_are_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runner.main(['--help']) == 0
    assert 'scaling: The scaling study' in capsys.readouterr().out
    for words, problem in (
        ([], 'no study named'),
        (['runs.csv', '--workers', '2'], "there is no study 'runs.csv'"),
        (['runner', 'runs.csv'], "there is no study 'runner'"),
    ):
        assert runner.main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith(problem) and 'scaling: The' in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', runner.names())
def test_every_study_has_help_and_wants_a_path(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        runner.main([name, '--help'])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f'python -m studies {name}' in shown and '--dry-run' in shown
    with pytest.raises(SystemExit) as stopped:
        runner.main([name])
    assert stopped.value.code == 2
    assert 'required: csv' in capsys.readouterr().err


# ---- What the CSV is safe from ----


def harm(data):
    """Files that are not ours, or not any more, by what is wrong."""
    lines = data.splitlines(keepends=True)
    return {
        'no line end': b'a poem',
        'another file': b'name,age\nAda,36\nunfinished',
        'part of the header': lines[0][:30],
        'more columns': lines[0].strip() + b',more\n' + lines[1],
        'not text': b'\xff\xfe\x00\n',
        'a bad row': b''.join([*lines[:2], b'8,fast\n', lines[3][:-9]]),
        'a row twice': b''.join([*lines[:3], lines[2], lines[3][:-40]]),
        'no header': b''.join(lines[1:]),
        'an open quote': lines[0] + b'"' + b''.join(lines[1:]),
        'another study': RECORDED.read_bytes()[:-10],
    }


@pytest.mark.parametrize('what', harm(b'a\nb\nc\nd\n'))
@pytest.mark.parametrize('words', [[], ['--dry-run']])
def test_a_file_that_is_not_ours_stays_as_it_is(path, what, words, capsys):
    folder = path.parent / 'theirs'
    folder.mkdir()
    other = folder / 'file.csv'
    other.write_bytes(harm(path.read_bytes())[what])
    before = listing(folder)
    capsys.readouterr()
    assert go(other, *words) == 1
    assert listing(folder) == before
    assert f'studies rates: {other}, line ' in capsys.readouterr().err


def test_a_dry_run_writes_nothing(path, capsys):
    path.write_bytes(path.read_bytes()[:-60])
    before = listing(path.parent)
    capsys.readouterr()
    assert go(path, '--lrs', '0.01,0.04,0.05', '--dry-run') == 0
    shown = capsys.readouterr().out
    assert 'rates: 2 runs left of 3, 2e+02 FLOP\n' in shown
    assert 'an unfinished last line would be removed' in shown
    assert go(path.parent / 'new' / 'runs.csv', '--dry-run') == 0
    assert 'rates: 2 runs left of 2' in capsys.readouterr().out
    assert listing(path.parent) == before


def test_a_dry_run_beside_a_running_command(path, capsys):
    with FileLock(f'{path}.lock'):
        assert go(path, '--dry-run') == 0
        capsys.readouterr()
        assert go(path, '--lrs', '0.05') == 1
    assert 'another command is writing' in capsys.readouterr().err


@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_cut_anywhere_no_complete_row_is_lost(path, end):
    """Rows are read, kept and added to at every length of the file."""
    data = path.read_bytes().replace(b'\n', end.encode())
    whole, _ = RATES.read(path)
    starts = [m.end() for m in re.finditer(b'\n', data)]
    for size in range(starts[0], len(data) + 1):
        path.write_bytes(data[:size])
        RATES.repair(path)
        complete = sum(size >= start for start in starts[1:])
        rows, unfinished = RATES.read(path)
        assert unfinished == b'' and complete <= len(rows) <= complete + 1
        assert rows[:complete] == whole[:complete]
        if len(rows) > complete:  # at worst its command is shorter
            assert rows[-1][:2] == whole[complete][:2]
        kept = path.read_bytes()
        RATES.append(path, whole[0]._replace(run=Run(8, 0.5)))
        assert path.read_bytes().startswith(kept)
        assert RATES.read(path)[0][:-1] == rows


def test_a_last_row_without_line_end_is_kept(path, capsys):
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    capsys.readouterr()
    assert go(path, '--lrs', '0.04,0.05') == 0
    assert 'unfinished' not in capsys.readouterr().out
    assert path.read_bytes().startswith(data)
    assert list(RATES.read_runs(path).lr) == [0.01, 0.02, 0.03, 0.04, 0.05]


def test_an_unfinished_row_is_made_again(path, capsys):
    data = path.read_bytes()
    last = data.splitlines(keepends=True)[-1]
    path.write_bytes(data[: 20 - len(last)])
    capsys.readouterr()
    assert go(path, '--lrs', '0.04') == 0
    shown = capsys.readouterr().out
    assert f'removed an unfinished last line, {last[:20]!r}' in shown
    assert list(RATES.read_runs(path).lr) == [0.01, 0.02, 0.03, 0.04]


def test_a_header_alone_and_an_empty_file_are_begun(path):
    header = path.read_bytes().splitlines(keepends=True)[0]
    for start in (header, header.strip(), b''):
        path.write_bytes(start)
        assert go(path, '--lrs', '0.01') == 0
        assert path.read_bytes().startswith(header)
        assert len(RATES.read(path)[0]) == 1


@pytest.mark.parametrize('loss', [math.inf, -math.inf, math.nan, 1e-320, 3])
def test_what_is_written_can_be_read(path, loss):
    row = RATES.read(path)[0][0]
    hard = 'a "b", c\r\nd\0\udc80 \u3000é'
    row = runner.Row(
        Run(8, 0.5, 'a "b", c\u3000é\t'),
        Measured(loss, 5, 0.0),
        dataclasses.replace(row.made, command=hard),
    )
    RATES.append(path, row)
    rows, unfinished = RATES.read(path)
    assert rows[-1].run == row.run and len(rows) == 5 and not unfinished
    assert rows[-1].measured.loss == pytest.approx(loss, abs=0, nan_ok=True)
    assert rows[-1].made.command == 'a "b", c??d?? \u3000é'


@pytest.mark.parametrize('run', [Run(8, math.nan), Run(8, 0.1, 'a\nb')])
def test_a_run_that_cannot_be_read_back_is_not_made(path, run, capsys):
    study = dataclasses.replace(RATES, plan=lambda rows, options: [run])
    before = path.read_bytes()
    assert runner.run_study(study, [str(path), '--device', 'cpu']) == 1
    assert 'cannot be written to a CSV' in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_run_that_diverges_is_a_row(path, monkeypatch):
    def loss_fn(model, X):
        loss, n = real(model, X)
        return loss * (math.nan if loss < 2 else 1), n

    real = utils.lm_loss
    monkeypatch.setattr(utils, 'lm_loss', loss_fn)
    assert go(path, '--lrs', '0.3') == 0
    row = RATES.read(path)[0][-1]
    assert row.run.lr == 0.3 and row.measured.loss == math.inf
    assert 1 < row.measured.steps < 5 and row.measured.seconds > 0


# ---- The scaling study ----


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
    """The study of small models over the texts, as a list of words."""
    monkeypatch.setenv('CHAPTER_DATA', str(tmp_path / 'data'))
    monkeypatch.setattr('corpora.storage.DATA', tmp_path / 'data')
    options = (
        '--sizes 8x1,16x1 --vocab-size 300 --num-steps 8 --batch-size 4 '
        '--lr-tokens 640 --lrs 0.01,0.02 --min-tokens 100 --budgets 3e7,6e7 '
        '--unique 50,500 --epochs 8 --max-tokens 2000 --device cpu'
    )
    path = str(tmp_path / 'runs.csv')
    return ['scaling', path, '--text', str(texts), *options.split()]


def start(words, *launch, script=('-m', 'studies')):
    return subprocess.Popen(
        [sys.executable, *launch, *script, *words],
        cwd=CHAPTER,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def figures(path):
    """What was found, without what depends on time and place."""
    own = ['seconds', 'processes', 'command', 'date']
    rows = scaling.read_runs(path).drop(columns=own).to_dict('records')
    return sorted(rows, key=str)


def close(a, b):
    """Equal rows, but that a loss may differ by 1e-5."""
    assert len(a) == len(b) > 0
    for ours, theirs in zip(a, b, strict=True):
        for name in ours:
            if name.endswith('loss'):
                theirs[name] = pytest.approx(theirs[name], abs=1e-5)
        assert ours == theirs


def test_the_study_and_its_rows(command, capsys):
    path = Path(command[1])
    assert runner.main([*command, '--dry-run']) == 0
    shown = capsys.readouterr().out
    assert re.search('lr 0.02, seed 0: .* FLOP, [0-9]+ s\n', shown)
    assert 'the best lr, seed 0' in shown
    assert re.search(r'scaling: 10 runs left of 10, .* hours', shown)
    assert not path.exists()
    assert runner.main(command) == 0
    data = scaling.read_runs(path)
    assert list(data.columns) == scaling.STUDY.columns
    assert list(data.study) == ['lr'] * 4 + ['grid'] * 4 + ['data'] * 2
    assert data.machine.all() and data.python.all()
    assert set(data.torch) == {torch.__version__}
    assert set(data.corpus) == {'weather'}
    assert data.command[0].startswith(f'studies scaling {path} --text')
    for run, measured, _ in scaling.STUDY.read(path)[0]:
        with torch.device('meta'):
            model = utils.GPT(run.config)
        total = sum(p.numel() for p in model.parameters())
        tables = 300 * run.num_hiddens + 8 * run.num_hiddens
        assert measured.non_embedding == total - tables
        assert measured.parameters == total
        assert measured.flops_kaplan == 6 * (total - tables) * run.tokens
        flops = laws.train_flops(run.config, run.tokens)
        assert measured.flops_hoffmann == flops
        assert run.tokens % 32 == 0 < measured.best_tokens <= run.tokens
        assert 1 < measured.best_valid_loss <= measured.valid_loss
        assert measured.valid_loss < math.log(300) + 0.5
        assert measured.seconds > 0
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


def test_a_finished_study_makes_no_run_again(command):
    assert runner.main(command) == 0
    path = Path(command[1])
    whole = path.read_bytes()
    assert runner.main(command) == 0
    assert path.read_bytes() == whole
    before = figures(path)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b''.join([*lines[:2], *lines[3:]]))  # one run less
    assert runner.main(command) == 0
    assert figures(path) == before


# a command that kills itself after the first checkpoint of a long run
VICTIM = """
import os, signal, sys, time
from multiprocessing import parent_process
from pathlib import Path
sys.path[:0] = {chapter!r}, {root!r}
from studies import plateau, runner, scaling
import processes

save = processes.save_checkpoint


def save_and_kill(path, step, *state):
    save(path, step, *state)
    while step == 1000 and not scaling.STUDY.read(Path({csv!r}))[0]:
        time.sleep(0.01)
    if step == 1000:
        parent = parent_process()
        os.kill(parent.pid if parent else os.getpid(), signal.SIGKILL)


processes.save_checkpoint = save_and_kill
if __name__ == '__main__':
    sys.exit(runner.main())
"""
LONG = '--studies grid --lr 0.01 --sizes 8x1 --max-tokens 1e6 --budgets'


@pytest.mark.slow
@pytest.mark.parametrize('workers', ['1', '2'])
def test_a_killed_command_goes_on_where_it_was(command, workers):
    """Killed within a run that has a checkpoint, with rows already there."""
    words = [*command, *LONG.split(), '3e7,6e7,1.1e9']
    path = Path(words[1])
    reference = path.with_name('reference.csv')
    assert runner.main(['scaling', str(reference), *words[2:]]) == 0
    script = path.with_name('victim.py')
    names = {'chapter': str(CHAPTER), 'root': str(CHAPTER.parent)}
    script.write_text(VICTIM.format(csv=str(path), **names))
    victim = start([*words, '--workers', workers], script=[script])
    assert victim.wait() == -signal.SIGKILL, victim.stderr.read()
    folder = Path(f'{path}.checkpoints')
    assert 1 <= len(figures(path)) <= 2 and list(folder.glob('*.pt'))
    assert runner.main(words) == 0
    assert figures(path) == figures(reference)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures('ctrl_c')
def test_ctrl_c_stops_all_workers_at_once(command):
    """Four runs of many minutes: none is begun after Ctrl-C."""
    words = [*command, *LONG.split(), '1e12,2e12', '--seeds', '2']
    words += ['--max-tokens', '1e12', '--workers', '2']
    folder = Path(f'{words[1]}.checkpoints')
    process = start(words)
    while len(list(folder.glob('*.lock'))) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    try:  # until nobody is left who could write
        _, error = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 130
    # a stopped worker may leave Python's resource tracker something to say
    said, _, rest = error.partition('\n')
    assert said == 'stopped; the same command goes on from here'
    assert 'Traceback' not in rest
    assert not Path(words[1]).exists()


def test_ctrl_c_writes_no_row(command, monkeypatch, capsys):
    train = utils.train

    def stop(model, batches, loss_fn, num_steps, *inputs, **options):
        return train(model, batches, loss_fn, 2, *inputs, **options)

    monkeypatch.setattr(utils, 'train', stop)
    assert runner.main(command) == 130
    assert 'goes on from here' in capsys.readouterr().err
    assert not Path(command[1]).exists()


def killed(run, options, checkpoint):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_told(path, capsys):
    study = dataclasses.replace(RATES, execute=killed)
    words = [str(path), '--lrs', '0.05,0.06', '--device', 'cpu']
    assert runner.run_study(study, [*words, '--workers', '2']) == 1
    assert 'a worker was killed' in capsys.readouterr().err
    assert len(RATES.read(path)[0]) == 4


def test_nothing_stays_of_a_command_killed_after_a_row(command, monkeypatch):
    """Killed when the row was written and its checkpoint still there."""
    words = [*command, '--studies', 'lr']
    folder = Path(f'{words[1]}.checkpoints')

    def killed(options, runs):
        if runs:
            (folder / f'{runner.key(runs[0])}.pt.part').write_bytes(b'half')
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, 'forget', killed)
        assert runner.main(words) == 130
    assert len(figures(words[1])) == 1
    assert {path.suffix for path in folder.iterdir()} >= {'.pt', '.part'}
    assert runner.main(words) == 0
    assert len(figures(words[1])) == 4
    assert not folder.exists()


def test_a_run_is_locked_while_it_is_trained(command, monkeypatch):
    train, refused = utils.train, []

    def train_with_a_rival(*inputs, run, **options):
        lock = FileLock(run.checkpoint.with_suffix('.0.lock'), timeout=0)
        with pytest.raises(Timeout), lock:
            pass
        refused.append(run.checkpoint)
        return train(*inputs, run=run, **options)

    monkeypatch.setattr(utils, 'train', train_with_a_rival)
    assert runner.main([*command, '--studies', 'lr']) == 0
    assert len(set(refused)) == 4


@pytest.mark.slow
@pytest.mark.parametrize('shard', [[], ['--shard']], ids=['ddp', 'fsdp'])
def test_torchrun_gives_the_same_rows(command, shard):
    words = [*command, '--studies', 'lr']
    path = Path(words[1])
    reference = path.with_name('reference.csv')
    assert runner.main(['scaling', str(reference), *words[2:]]) == 0
    two = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    process = start([*words, *shard], *two)
    assert process.wait() == 0, process.stderr.read()
    close(figures(path), figures(reference))
    assert set(scaling.read_runs(path).processes) == {2}
    assert not list(path.parent.glob('*.checkpoints'))


def test_a_scaling_run_that_diverges(command, monkeypatch):
    """Infinite losses, the tokens it used, and never the best rate."""
    train = utils.train

    def fail(model, batches, loss_fn, num_steps, lr, *inputs, **options):
        if lr == 0.02:
            options['run'].step = 6
            raise FloatingPointError('loss is nan')
        return train(
            model, batches, loss_fn, num_steps, lr, *inputs, **options
        )

    monkeypatch.setattr(utils, 'train', fail)
    assert runner.main([*command, '--studies', 'lr,grid']) == 0
    data = scaling.read_runs(command[1])
    assert set(data[data.study == 'grid'].lr) == {0.01}
    diverged = data[data.lr == 0.02]
    losses = diverged[['train_loss', 'valid_loss', 'best_valid_loss']]
    assert len(diverged) == 2 and (losses == math.inf).all(axis=None)
    assert (diverged.best_tokens == 7 * 4 * 8).all()
    assert (diverged.seconds > 0).all()


def test_a_loss_that_is_not_a_number_is_not_the_best(command, monkeypatch):
    evaluate = utils.evaluate

    def broken(model, rows, loss_fn):
        wide = model.config.num_hiddens == 16
        return math.nan if wide else evaluate(model, rows, loss_fn)

    monkeypatch.setattr(utils, 'evaluate', broken)
    assert runner.main([*command, '--studies', 'lr']) == 0
    data = scaling.read_runs(command[1])
    assert data.valid_loss.isna().sum() == 2
    assert runner.main([*command, '--studies', 'grid', '--sizes', '8x1']) == 0
    assert runner.main([*command, '--studies', 'grid']) == 1


def test_errors_of_the_command(command, capsys, tmp_path):
    def error(*words):
        assert runner.main([*command, *words]) == 1
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
    if not torch.cuda.is_available():
        assert 'PyTorch finds no GPU' in error('--device', 'cuda')
    with FileLock(f'{command[1]}.lock'):
        assert 'another command is writing' in error()


@pytest.mark.parametrize(
    'words, message',
    [
        (['--sizes', '8'], 'not like 16x2'),
        (['--sizes', '16x2,8x0'], 'not like 16x2'),
        (['--budgets', '1e5,-1'], "'-1' is not a number above 0"),
        (['--budgets', 'many'], "'many' is not a number above 0"),
        (['--lr', 'nan'], "'nan' is not a number above 0"),
        (['--studies', 'lr,width'], "'width' is not one of"),
        (['--workers', '0'], "'0' is not 1, 2, 3"),
        (['--seeds', '1.5'], "'1.5' is not 1, 2, 3"),
        (['--optimizer', 'sgd'], 'invalid choice'),
    ],
)
def test_bad_options_are_refused(command, words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        runner.main([*command, *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_workers_and_torchrun_do_not_go_together(command, monkeypatch, capsys):
    monkeypatch.setattr(processes, 'rank_and_world', lambda: (0, 2))
    assert runner.main([*command, '--workers', '2']) == 1
    assert '--workers 2 under torchrun' in capsys.readouterr().err


@pytest.mark.parametrize(
    'column, value, message',
    [
        ('lr', 'fast', "lr is 'fast', not float"),
        ('lr', 'nan', 'lr is nan, below'),
        ('tokens', '1.5', "tokens is '1.5', not int"),
        ('tokens', '-64', 'tokens is -64, below'),
        ('valid_loss', '-0.1', 'valid_loss is -0.1, below'),
        ('study', 'grids', "study is 'grids', not one of"),
        (None, None, f'{len(scaling.STUDY.columns) - 1} fields'),
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
        lines[3][scaling.STUDY.columns.index(column)] = value
    path = tmp_path / 'bad.csv'
    with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(lines)
    with pytest.raises(ValueError, match=f'bad.csv, line 4: {message}'):
        scaling.read_runs(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'there is no file .*none\.csv'):
        scaling.read_runs(tmp_path / 'none.csv')


# ---- The recorded rows ----


def test_the_recorded_runs():
    """At least 60 runs over the decades of size, data and compute."""
    data = scaling.read_runs(RECORDED)
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
    for run, measured, _ in scaling.STUDY.read(RECORDED)[0]:
        counted = laws.count_parameters(run.config)
        assert counted == (measured.non_embedding, measured.parameters)
        flops = laws.train_flops(run.config, run.tokens)
        assert measured.flops_hoffmann == flops
    of_grid = data[data.parameters.isin(grid.parameters)]
    tuned = of_grid[of_grid.study == 'lr'].groupby(['corpus', 'num_hiddens'])
    assert tuned.lr.nunique().min() >= 4


@pytest.fixture
def recorded_texts(monkeypatch):
    """Rows of the record, and the name, digest and length of their texts."""
    rows, _ = scaling.STUDY.read(RECORDED)
    digests, lengths = {}, {}
    for run, _, _ in rows:
        digests[run.corpus] = run.corpus_digest
        longest = max(run.unique_tokens, lengths.get(run.corpus, 0))
        lengths[run.corpus] = longest

    def load(text, vocab_size):
        name = text or 'documentation'
        corpus = types.SimpleNamespace(name=name)
        return corpus, digests[name], range(lengths[name]), None

    monkeypatch.setattr(scaling, 'load', load)
    return rows


def runs_of(rows, *parts, text=None):
    words = [str(RECORDED), '--parts', ','.join(parts), '--device', 'cpu']
    words += ['--text', text] if text else []
    options = runner.arguments(scaling.STUDY, words)
    return runner.planned(scaling.STUDY, rows, options)[0]


def test_the_named_parts_are_what_was_recorded(recorded_texts):
    """The commands in PARTS plan every row, and none that is not there."""
    made = {row.run for row in recorded_texts}
    ours = 'small', 'rates', 'seeds', 'large', 'largest', 'few'
    linux = 'linux-doc-6.1.192'
    found = set(runs_of(recorded_texts, *ours))
    theirs = 'linux', 'linux-largest'
    found |= set(runs_of(recorded_texts, *theirs, text=linux))
    later = 'predicted', 'shapes', 'repeats', 'adamw'
    found |= set(runs_of(recorded_texts, *later))
    assert found == made
    for name in scaling.PARTS:
        text = linux if name in theirs else None
        assert runs_of(recorded_texts, name, text=text), name


def test_the_predicted_run_is_new_and_larger(recorded_texts):
    (run,) = runs_of(recorded_texts, 'predicted')
    others = [row.run for row in recorded_texts if row.run.study == 'grid']
    others = [other for other in others if other.corpus == run.corpus]
    assert run.num_hiddens > max(other.num_hiddens for other in others)
    assert run.tokens == 413_696 < run.unique_tokens and run.lr == 0.012


@pytest.mark.parametrize('law', scaling.PREDICTED, ids=' '.join)
def test_the_prediction_follows_from_the_rows(law):
    """It does not change when the run that it is about is recorded."""
    form, count, which = law
    data = scaling.read_runs(RECORDED)
    grid = data[(data.study == 'grid') & (data.corpus == 'documentation')]
    grid = grid.groupby(['num_hiddens', 'num_blks', 'tokens']).mean(
        numeric_only=True
    )
    grid = grid.reset_index()
    if which == 'one epoch':
        grid = grid[grid.tokens <= grid.unique_tokens]
    fit = getattr(laws, f'fit_{form}_law')
    fitted = fit(grid[count], grid.tokens, grid.valid_loss)
    config = utils.Config(1024, 384, 12, 4, 64)
    sizes = laws.count_parameters(config)
    size = sizes[0 if count == 'non_embedding' else 1]
    loss = fitted(size, 413_696)
    assert loss == pytest.approx(scaling.PREDICTED[law], abs=0.002)


def test_a_part_that_is_not_recorded_is_refused(capsys):
    with pytest.raises(SystemExit):
        runner.main(['scaling', 'none.csv', '--parts', 'small,huge'])
    assert "'huge' is not one of ['small'," in capsys.readouterr().err


def test_repeated_texts_and_amounts(command, texts):
    """Study `repeat` reads a text n times, study `tokens` any amount."""
    words = [*command, '--studies', 'lr,tokens,repeat', '--dry-run']
    words += ['--tokens', '640,1280', '--rounds', '1,3']
    options = runner.arguments(scaling.STUDY, words[1:])
    runs = scaling.plan([], options)
    shown = {study: [] for study in ('lr', 'tokens', 'repeat')}
    for run in runs:
        shown[run.study].append(run)
    assert len(shown['lr']) == 4
    assert sorted(r.tokens for r in shown['tokens']) == [640] * 2 + [1280] * 2
    for run in shown['repeat']:
        rounds = run.tokens / run.unique_tokens
        assert run.num_hiddens == 16 and round(rounds) in (1, 3)


@pytest.mark.slow
def test_the_cheapest_recorded_row_can_be_repeated():
    """To 3 % only: initialization and rounding changed since it was made."""
    rows = [
        row
        for row in scaling.STUDY.read(RECORDED)[0]
        if row.run.corpus == 'documentation' and row.made.device == 'cpu'
    ]
    row = min(rows, key=lambda row: row.run.cost)
    digest = corpora.fingerprint(corpora.documentation())
    if digest != row.run.corpus_digest:
        pytest.skip('the documentation of this Python is another text')
    again = runner.repeat(scaling.STUDY, row, device='cpu')
    assert again.best_tokens == row.measured.best_tokens
    assert again.parameters == row.measured.parameters
    assert again.valid_loss == pytest.approx(row.measured.valid_loss, rel=0.03)
    assert again.train_loss == pytest.approx(row.measured.train_loss, rel=0.03)


def test_a_row_of_any_text_can_be_repeated(command, texts):
    assert runner.main([*command, '--studies', 'lr']) == 0
    rows, _ = scaling.STUDY.read(Path(command[1]))
    row = rows[-1]
    again = runner.repeat(scaling.STUDY, row, device='cpu', text=str(texts))
    seconds = row.measured.seconds
    assert dataclasses.replace(again, seconds=seconds) == row.measured
    other = dataclasses.replace(row.run, seed=1)
    again = runner.repeat(
        scaling.STUDY, row._replace(run=other), device='cpu', text=str(texts)
    )
    assert again.valid_loss != row.measured.valid_loss


def test_a_row_of_another_text_is_not_repeated(command, texts):
    row = scaling.STUDY.read(RECORDED)[0][0]
    with pytest.raises(ValueError, match=r'weather is \w{12}, not 18455'):
        runner.repeat(scaling.STUDY, row, text=str(texts))
    with pytest.raises(ValueError, match='folder is no option of the study'):
        runner.repeat(scaling.STUDY, row, folder=str(texts))


# ---- The plateau ----


PLATEAU = CHAPTER / 'studies' / 'plateau.csv'


@pytest.fixture(scope='module')
def small_world():
    return corpora.SmallWorld()


def test_the_recorded_runs_of_the_plateau():
    """Every change with three seeds, and nothing else changed with it."""
    data = plateau.read_runs(PLATEAU)
    data = data[data.num_steps == plateau.NUM_STEPS]
    seeds = data.groupby('change').seed.apply(sorted)
    assert set(seeds.index) == set(plateau.CHANGES)
    assert all(each == [0, 1, 2] for each in seeds)
    for run, measured, _ in plateau.STUDY.read(PLATEAU)[0]:
        ours = plateau.Run('none', run.seed, run.num_steps)
        settings = {'change': run.change, **plateau.CHANGES[run.change]}
        assert run == dataclasses.replace(ours, **settings)
        assert measured.reached % plateau.EVERY == 0
        assert measured.reached <= run.num_steps
        for name in ('right', 'left', 'binding'):
            assert getattr(measured, name) <= 1
    named = plateau.PUBLISHED.values()
    changed = [name for settings in named for name in settings]
    assert len(changed) == len(set(changed))
    assert len(changed) == len(plateau.CHANGES['all'])


@pytest.mark.slow
def test_the_shortest_recorded_run_of_the_plateau_can_be_repeated():
    rows, _ = plateau.STUDY.read(PLATEAU)
    row = min(rows, key=lambda row: row.run.cost)
    assert row.run == plateau.Run('none', 0, plateau.FEW_STEPS)
    again = runner.repeat(plateau.STUDY, row, device='cpu')
    assert again.loss == pytest.approx(row.measured.loss, rel=0.01)
    for name in ('right', 'left', 'binding'):
        share = getattr(row.measured, name)
        assert getattr(again, name) == pytest.approx(share, abs=0.05)
    assert again.reached == row.measured.reached


@pytest.mark.slow
def test_a_run_of_the_plateau_that_diverges(tmp_path, monkeypatch):
    def fail(*inputs, run, **options):
        run.step = 6
        raise FloatingPointError('loss is nan')

    monkeypatch.setattr(utils, 'train', fail)
    words = ['plateau', str(tmp_path / 'runs.csv'), '--changes', 'head']
    assert runner.main([*words, '--seeds', '1', '--steps', '9']) == 0
    data = plateau.read_runs(words[1])
    assert list(data.change) == ['none', 'head']
    assert (data.loss == math.inf).all() and (data.reached == 0).all()
    assert (data[['right', 'left', 'binding']] == 0).all(axis=None)


def test_the_plan_of_the_plateau():
    """A short run, then each change with each seed: one setting, or all."""
    options = runner.arguments(plateau.STUDY, ['none.csv', '--seeds', '2'])
    first, *plan = plateau.plan([], options)
    assert first == plateau.Run('none', 0, plateau.FEW_STEPS)
    assert first.cost < sum(run.cost for run in plan) / 300
    assert len(set(plan)) == len(plan) == 2 * len(plateau.CHANGES)
    assert {run.num_steps for run in plan} == {plateau.NUM_STEPS}
    settings = {dataclasses.replace(run, change='', seed=0) for run in plan}
    assert len(settings) == len(plateau.CHANGES)
    twin = plateau.Run('causal twin', 1, mask='causal')
    assert twin in plan
    assert [run.mask for run in plan].count('causal') == 2


def test_the_models_of_the_plateau():
    ours = plateau.Run('none', 0).config(50)
    assert ours == plateau.small_config(50)
    assert (ours.num_blks, ours.num_hiddens, ours.max_len) == (3, 64, 128)
    other = plateau.Run('all', 0, **plateau.CHANGES['all']).config(50)
    assert other.mlm_transform and not other.pre_norm
    assert not other.scaled_init and other.init_std == 0.02


def test_the_texts_of_the_plateau(small_world):
    """Some with rivals, some without, and both texts of one document."""
    A, B = plateau.texts(small_world, 300)
    halves = small_world.documents(1200).halves()
    rivals = small_world.competing(300)
    for X, others, told in zip((A, B), halves, rivals, strict=True):
        n = len(others)
        assert len(X) == n + 300 and 0.8 < n / 300 < 1.2
        assert torch.equal(X[:n, : others.shape[1]], others)
        assert torch.equal(X[n:, : told.shape[1]], told)
        assert not X[:n, others.shape[1] :].any()
        assert not X[n:, told.shape[1] :].any()
    new, _ = plateau.texts(small_world, 300, seed=1)
    assert A.shape != new.shape or not torch.equal(A, new)
    X = corpora.join(A, B)[0]
    assert X.shape[1] <= plateau.small_config(9).max_len


def test_the_causal_twin_does_not_look_to_the_right():
    torch.manual_seed(0)
    model = utils.BERT(utils.Config(11, 16, 2, 1, 8)).eval()
    X = torch.randint(5, 11, (2, 6))
    other = X.clone()
    other[:, 4:] = 16 - other[:, 4:] - 1  # 5 for 10, and so on
    lens = torch.tensor([6, 6])
    labels = torch.full_like(X, -100)
    labels[:, 2] = 7
    for mask, equal in (('causal', True), ('padding', False)):
        run = plateau.Run('none', 0, mask=mask)
        losses = [
            plateau.loss(run, model, (Y, torch.zeros_like(X), lens, labels))
            for Y in (X, other)
        ]
        assert [num_labels for _, num_labels in losses] == [2, 2]
        assert (losses[0][0] == losses[1][0]).item() == equal
    batch = X, torch.zeros_like(X), lens, labels
    assert losses[0] == utils.mlm_loss(model, batch)


def test_probes_by_hand():
    """A polarity is that of the likelier words, a fact beats its rival."""

    class Model(torch.nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.rows = torch.nn.Parameter(torch.tensor(rows).log())

        def encode(self, X, segments, lens, mask):
            assert mask is None
            return self.rows[:, None].expand(-1, 2, -1)

        def mlm(self, H):
            return H

    world = corpora.SmallWorld()
    world.polarity = torch.tensor([0, 1, 1, -1])

    model = Model([[0.1, 0.3, 0.2, 0.4], [0.1, 0.1, 0.2, 0.6]])
    X = torch.zeros(2, 2, dtype=torch.long)
    lens = torch.tensor([2, 2])

    def probe(*labels):
        return corpora.Examples(X, X, lens, torch.tensor(labels))

    shares = plateau.read_probes(
        plateau.Run('none', 0),
        model,
        world,
        {
            'both': probe([1, 1], [0, 0]),
            'half': probe([1, 0], [0, 0]),
            'binding': probe([1, 3, 1], [0, 1, 3]),
        },
    )
    assert shares == {'both': 1.0, 'half': 0.5, 'binding': 0.5}


def test_bad_runs_of_the_plateau_are_refused(tmp_path, capsys):
    for name, value in {
        'norm': 'none',
        'scaled_init': 2,
        'head_layers': 0,
        'optimizer': 'sgd',
        'mask': 'none',
        'num_steps': 0,
        'mask_rate': 1.1,
        'init_std': math.nan,
        'lr': 0.0,
    }.items():
        with pytest.raises(ValueError, match=f'{name} is {value!r}'):
            plateau.Run('none', 0, **{name: value})
    measured = plateau.Measured(0, 0.5, 0.5, 0.5, 1.0, 1.0)
    for name in ('reached', 'right', 'left', 'binding', 'loss', 'seconds'):
        with pytest.raises(ValueError, match=f'{name} is -1, below 0'):
            dataclasses.replace(measured, **{name: -1})
    with pytest.raises(ValueError, match='loss is nan, below 0'):
        dataclasses.replace(measured, loss=math.nan)
    with pytest.raises(SystemExit):
        runner.main(['plateau', str(tmp_path / 'a.csv'), '--changes', 'tail'])
    assert "'tail' is not one of none, head" in capsys.readouterr().err


# ---- The derivatives of BERT ----


DERIVATIVES = CHAPTER / 'studies' / 'derivatives.csv'


def test_the_recorded_runs_of_the_derivatives():
    """Every change with three seeds, at equal compute, and no score twice."""
    data = derivatives.read_runs(DERIVATIVES)
    data = data[data.num_steps != derivatives.FEW_STEPS]
    seeds = data.groupby('change').seed.apply(sorted)
    assert set(seeds.index) == set(derivatives.CHANGES)
    assert all(each == [0, 1, 2] for each in seeds)
    untrained = data.change.isin(derivatives.UNTRAINED)
    assert (data.num_steps[untrained] == 0).all()
    longer = data.change == 'one block, twice as long'
    num_steps = derivatives.NUM_STEPS * (1 + longer)
    assert (data.num_steps == num_steps)[~untrained].all()
    replaced = data.change.str.startswith('replaced')
    fewer = replaced | (data.change == 'permuted')
    assert (data.steps[fewer] < data.num_steps[fewer]).all()
    assert (data.steps[~fewer] == data.num_steps[~fewer]).all()
    headless = replaced | (data.change == 'bag of words')
    assert data.loss[headless].isna().all()
    assert data.loss[~headless].notna().all()
    pairs = data.change.isin(['next sentence', 'sentence order'])
    assert (data.second.notna() == pairs).all()
    assert (
        data[['sentiment', 'opinions', 'tags', 'hidden']].le(1).all(axis=None)
    )


@pytest.mark.slow
def test_the_shortest_recorded_run_of_the_derivatives_can_be_repeated():
    rows, _ = derivatives.STUDY.read(DERIVATIVES)
    rows = [row for row in rows if row.run.num_steps == derivatives.FEW_STEPS]
    (row,) = rows
    again = runner.repeat(derivatives.STUDY, row, device='cpu')
    assert again.loss == pytest.approx(row.measured.loss, rel=0.01)
    assert again.parameters == row.measured.parameters
    assert math.isnan(again.second)
    for name in ('sentiment', 'opinions', 'tags', 'hidden', 'polarity'):
        value = getattr(row.measured, name)
        assert getattr(again, name) == pytest.approx(value, abs=0.05), name


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        'sentence order',
        'few texts, ten masks',
        'spans and borders',
        'one block, three',
        'replaced, chosen words',
        'permuted',
    ],
)
def test_a_derivative_can_be_trained_and_scored(change):
    found = derivatives.execute(derivatives.Run(change, 0, 2), None, None)
    assert found.steps == 2
    assert 0.4 < found.tags < 0.8
    derivatives.pretrained.cache_clear()


def test_fixed_masks_come_back():
    X = torch.arange(64)[:, None].expand(64, 40) + 5
    data = X, torch.zeros_like(X), torch.full((64,), 40)
    batches = derivatives.fixed_masks(data, 3, 90, seed=0)
    masks = {}
    for _ in range(12):  # two batches in a round, three masks, twice
        *_, labels = next(batches)
        for row in labels:
            known = masks.setdefault(row.max().item(), set())
            known.add(tuple((row >= 0).tolist()))
    assert len(masks) == 64 and all(len(each) == 3 for each in masks.values())


def test_bad_derivatives_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="change is 'x', not one of bag"):
        derivatives.Run('x', 0)
    with pytest.raises(ValueError, match='num_steps is 0, below 1'):
        derivatives.Run('none', 0, 0)
    with pytest.raises(ValueError, match='num_steps is -1, below 0'):
        derivatives.Run('untrained', 0, -1)
    nothing = dict.fromkeys(
        field.name for field in dataclasses.fields(derivatives.Measured)
    )
    nothing = dict.fromkeys(nothing, math.nan)
    derivatives.Measured(**nothing)
    with pytest.raises(ValueError, match='loss is -1, below 0'):
        derivatives.Measured(**{**nothing, 'loss': -1})
    words = ['derivatives', str(tmp_path / 'a.csv'), '--change', 'x']
    with pytest.raises(SystemExit):
        runner.main(words)
    assert "'x' is not one of bag of words; untr" in capsys.readouterr().err

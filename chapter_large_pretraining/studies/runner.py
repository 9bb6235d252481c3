"""Studies that go on where they were stopped: a row of a CSV for each run.

    python -m studies NAME runs.csv --workers 2
    torchrun --nproc-per-node 2 -m studies NAME runs.csv --shard

A study is a file beside this one that defines a `STUDY`. The runner asks it
for a plan, makes the runs of the plan that the CSV lacks, each with a
checkpoint, and asks again until the plan brings nothing new.
"""

import argparse
import collections
import contextlib
import csv
import dataclasses
import datetime
import hashlib
import importlib
import io
import math
import multiprocessing
import os
import pkgutil
import platform
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from tqdm import tqdm

import processes
import utils
from corpora.storage import write_whole

Row = collections.namedtuple('Row', ['run', 'measured', 'made'])


@dataclasses.dataclass(frozen=True)
class Made:
    """Where and how a row was made: the last columns of every study."""

    processes: int
    device: str
    machine: str
    python: str
    torch: str
    date: str
    command: str


# ---- A study and its CSV ----


def check_values(part, **allowed):
    """Raise ValueError for a field that is none of the values it may have."""
    for name, values in allowed.items():
        value = getattr(part, name)
        if value not in values:
            raise ValueError(f'{name} is {value!r}, not one of {values}')


def check_least(part, **limits):
    """Raise ValueError for a field below its least value."""
    for name, least in limits.items():
        value = getattr(part, name)
        if value < least:
            raise ValueError(f'{name} is {value}, below {least}')


def build(Part, texts):
    """A dataclass from the texts of its fields; ValueError for a bad one."""
    values = {}
    for field, text in zip(dataclasses.fields(Part), texts, strict=True):
        try:
            values[field.name] = field.type(text)
        except ValueError:
            raise ValueError(
                f'{field.name} is {text!r}, not {field.type.__name__}'
            ) from None
    return Part(**values)


def texts_of(part):
    """The fields of a dataclass as they stand in the CSV, on one line."""
    values = map(str, dataclasses.astuple(part))
    return [re.sub(r'[\r\n\0\ud800-\udfff]', '?', text) for text in values]


@dataclasses.dataclass(frozen=True)
class Study:
    """What the runner has to know about a study.

    `Run` is a frozen dataclass of what is chosen before a run, with a
    property `cost` in `unit`; equal runs are made once. `Measured` is one of
    what comes out, by custom with `seconds` last. Their fields are int,
    float or str, and both may raise ValueError for values out of range.

    `add_options(add)` adds the study's options as argparse does.
    `plan(rows, options)` returns the runs in order, given the rows so far.
    `execute(run, options, checkpoint)` makes one and returns a `Measured`;
    the checkpoint is a path for `train`, or None. In a dry run,
    `describe(run)` is printed, and `seconds(run, options)` is what the run
    would take here.

    Raises ValueError for a field of another type and for equal names.
    """

    name: str
    about: str
    Run: type
    Measured: type
    add_options: Callable
    plan: Callable
    execute: Callable
    describe: Callable = str
    seconds: Callable | None = None
    unit: str = 'FLOP'

    def __post_init__(self):
        for field in self.fields:
            if field.type not in (int, float, str):
                raise ValueError(
                    f'{field.name} is a {field.type}, not int, float or str'
                )
            if self.columns.count(field.name) > 1:
                raise ValueError(f'{field.name} is a column twice')

    @property
    def fields(self):
        parts = self.Run, self.Measured, Made
        return [field for part in parts for field in dataclasses.fields(part)]

    @property
    def columns(self):
        return [field.name for field in self.fields]

    def parse(self, texts):
        """The `Row` of one line's fields; ValueError says what is wrong."""
        if len(texts) != len(self.fields):
            raise ValueError(f'{len(texts)} fields, not {len(self.fields)}')
        num_chosen = len(dataclasses.fields(self.Run))
        num_made = len(dataclasses.fields(Made))
        return Row(
            build(self.Run, texts[:num_chosen]),
            build(self.Measured, texts[num_chosen:-num_made]),
            build(Made, texts[-num_made:]),
        )

    def as_written(self, run):
        """The run as its row will give it back; ValueError if none can."""
        again = build(self.Run, texts_of(run))
        if again != run:
            raise ValueError(f'{run} cannot be written to a CSV')
        return again

    def is_row(self, line):
        """Does a line, in bytes, hold a whole row?"""
        try:
            (texts,) = csv.reader([line.decode()], strict=True)
            self.parse(texts)
        except (ValueError, csv.Error):
            return False
        return True

    def read(self, path):
        """The rows of a CSV and, in bytes, its last line if unfinished.

        Without a file there are no rows. A last row that lacks only its line
        end is finished. Raises ValueError, with file and line, for other
        columns, for a malformed row and for a run that comes twice.
        """
        data = path.read_bytes() if path.exists() else b''
        begun = data.rfind(b'\n') + 1
        if begun == 0 or self.is_row(data[begun:]):
            begun = len(data)
        text = io.TextIOWrapper(io.BytesIO(data[:begun]), 'utf-8', newline='')
        reader, rows, seen = csv.reader(text, strict=True), [], {}
        try:
            if data and next(reader) != self.columns:
                raise ValueError(f'not the columns of the study {self.name}')
            for texts in filter(None, reader):
                row = self.parse(texts)
                if row.run in seen:
                    raise ValueError(f'the run of line {seen[row.run]} again')
                seen[row.run] = reader.line_num
                rows.append(row)
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f'{path}, line {max(1, reader.line_num)}: {error}'
            ) from None
        return rows, data[begun:]

    def read_runs(self, path):
        """A CSV as a pandas DataFrame, one row per run.

        Raises ValueError for a missing file and for what `read` refuses.
        """
        path = Path(path)
        if not path.exists():
            raise ValueError(f'there is no file {path}')
        values = [
            [value for part in row for value in dataclasses.astuple(part)]
            for row in self.read(path)[0]
        ]
        return pd.DataFrame(values, columns=self.columns)

    def repair(self, path):
        """Cut off a last line that was not finished, and say so.

        Raises ValueError for what `read` refuses, and then writes nothing.
        """
        _, unfinished = self.read(path)
        if unfinished:
            os.truncate(path, path.stat().st_size - len(unfinished))
            print(f'{path}: removed an unfinished last line, {unfinished!r}')

    def append(self, path, row):
        """Add one row to the CSV, or make one with the header."""
        new = not path.exists() or path.stat().st_size == 0
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerows([self.columns] * new)
        writer.writerow([text for part in row for text in texts_of(part)])
        line = text.getvalue().encode()
        if new:
            write_whole(path, lambda file: file.write(line))
            return
        with path.open('r+b') as file:
            file.seek(-1, os.SEEK_END)
            ended = file.read() == b'\n'
            file.write(line if ended else b'\n' + line)
            file.flush()
            os.fsync(file.fileno())


def study_of(name, **more):
    """The study that a module describes: `study_of(__name__, unit='steps')`.

    Its docstring and what it names `Run`, `Measured`, `add_options`, `plan`
    and `execute` are those of the `Study`; `more` are other fields. Raises
    ValueError like `Study`.
    """
    module = sys.modules[name]
    parts = 'Run', 'Measured', 'add_options', 'plan', 'execute'
    return Study(
        name.rpartition('.')[2],
        module.__doc__,
        *(getattr(module, part) for part in parts),
        **more,
    )


# ---- One run ----


def device_of(options):
    """The device that the options ask for; ValueError if it is not there."""
    found = torch.cuda.is_available()
    if options.device == 'cpu' or (options.device == 'auto' and not found):
        return torch.device('cpu')
    if not found:
        raise ValueError('device is cuda, but PyTorch finds no GPU')
    device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
    torch.cuda.set_device(device)
    return device


def train(
    model,
    batches,
    loss_fn,
    num_steps,
    *settings,
    checkpoint=None,
    checkpoint_every=100,
    shard=False,
    **more,
):
    """`utils.train` as a study needs it.

    Ctrl-C raises KeyboardInterrupt. The `History` of a run that diverged has
    one entry, with infinite losses, at the step where that was seen, and the
    seconds since this process began it.
    """
    run = processes.Run(checkpoint, checkpoint_every, shard)
    began = time.perf_counter()
    try:
        history = utils.train(
            model, batches, loss_fn, num_steps, *settings, run=run, **more
        )
    except FloatingPointError:
        return utils.History(
            loss=[math.inf],
            seconds=[time.perf_counter() - began],
            eval_step=[run.step + 1],
            eval_loss=[math.inf],
        )
    if len(history.loss) < num_steps:
        raise KeyboardInterrupt
    return history


def machine():
    """The processor's name and the number of cores."""
    name = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        lines = [s for s in info.read_text().split('\n') if 'model name' in s]
        name = lines[0].split(':')[1].strip() if lines else name
    return f'{name}, {os.cpu_count()} cores'


def made_here(options):
    """The `Made` of the rows of this command."""
    device = device_of(options)
    gpu = device.type == 'cuda'
    return Made(
        processes=processes.rank_and_world()[1],
        device=torch.cuda.get_device_name(device) if gpu else 'cpu',
        machine=machine(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
        command=options.command,
    )


def key(run):
    """Sixteen hexadecimal digits that stand for a run."""
    return hashlib.sha256(' '.join(texts_of(run)).encode()).hexdigest()[:16]


def checkpoint_folder(options):
    """Where unfinished runs are kept, beside the CSV."""
    return Path(f'{options.csv}.checkpoints')


def forget(options, runs):
    """Remove all that is kept of runs whose rows are in the CSV."""
    keys = set(map(key, runs))
    for path in checkpoint_folder(options).glob('*'):
        if path.name.split('.')[0] in keys:
            path.unlink(missing_ok=True)


def execute(study, run, options):
    """Make a run and return its `Measured`, one process at a time.

    The lock is for a worker that outlives its killed command a little.
    """
    folder = checkpoint_folder(options)
    folder.mkdir(exist_ok=True)
    with FileLock(folder / f'{key(run)}.{processes.rank_and_world()[0]}.lock'):
        measured = study.execute(run, options, folder / f'{key(run)}.pt')
    return build(study.Measured, texts_of(measured))


def repeat(study, row, **options):
    """Make the run of a recorded row again and return its `Measured`.

    `options` replace defaults of the command, such as `text` or `device`.
    Raises ValueError for an option that the study does not have.
    """
    defaults = vars(arguments(study, ['none.csv']))
    for name in options.keys() - defaults.keys():
        raise ValueError(f'{name} is no option of the study {study.name}')
    return study.execute(
        row.run, argparse.Namespace(**{**defaults, **options}), None
    )


# ---- All runs ----


def barrier():
    """Wait for the other processes, if there are any."""
    if dist.is_initialized():
        dist.barrier()


def start_worker(reader):
    """One thread, deaf to Ctrl-C; ends when the pipe's other end closes."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(
        target=lambda: (reader.poll(None), os._exit(1)), daemon=True
    ).start()


def results(study, runs, options):
    """Yield each run with its `Measured` as they are done, by all workers."""
    if options.workers == 1:
        yield from ((run, execute(study, run, options)) for run in runs)
        return
    context = multiprocessing.get_context('spawn')
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        options.workers, context, start_worker, (reader,)
    )
    try:
        jobs = {pool.submit(execute, study, run, options): run for run in runs}
        yield from ((jobs[job], job.result()) for job in as_completed(jobs))
    finally:
        writer.close()  # whatever a worker is doing
        pool.shutdown()


def planned(study, rows, options):
    """The runs of the plan, those of them with rows, and the others."""
    runs = study.plan(rows, options)
    runs = list(dict.fromkeys(map(study.as_written, runs)))
    made = {row.run for row in rows}
    done = [run for run in runs if run in made]
    return runs, done, [run for run in runs if run not in made]


def show_plan(study, options):
    """Print the runs that are left and what they cost; write nothing."""
    rows, unfinished = study.read(options.csv)
    runs, _, left = planned(study, rows, options)
    total = 0.0
    for run in left:
        line = f'{study.describe(run)}: {run.cost:.2g} {study.unit}'
        if study.seconds:
            seconds = study.seconds(run, options)
            total += seconds
            line += f', {seconds:.0f} s'
        print(line)
    line = f'{study.name}: {len(left)} runs left of {len(runs)}'
    line += f', {sum(run.cost for run in left):.2g} {study.unit}'
    if study.seconds:
        line += f', {total / 3600:.2g} hours of one process'
        line += f', {total / 3600 / options.workers:.2g}'
        line += f' with {options.workers}'
    print(line)
    if unfinished:
        print(f'{options.csv}: an unfinished last line would be removed')


def go_on(study, options):
    """Make the runs that are left; the CSV grows by a row per run."""
    first, made = processes.rank_and_world()[0] == 0, made_here(options)
    if first:
        study.repair(options.csv)
    while True:
        barrier()
        rows, _ = study.read(options.csv)
        runs, done, left = planned(study, rows, options)
        barrier()
        if first:  # it may have been killed before it forgot them
            forget(options, [row.run for row in rows])
        if not left:
            break
        bar = tqdm(
            desc=f'{study.name} {len(done)}/{len(runs)}',
            total=sum(run.cost for run in runs),
            initial=sum(run.cost for run in done),
            unit=study.unit,
            unit_scale=True,
            disable=None if first else True,  # None: off without a terminal
        )
        making = results(study, left, options)
        with bar, contextlib.closing(making):
            for i, (run, measured) in enumerate(making, len(done) + 1):
                if first:
                    study.append(options.csv, Row(run, measured, made))
                    forget(options, [run])
                    bar.set_description(f'{study.name} {i}/{len(runs)}')
                    bar.update(run.cost)
    if first:
        print(f'{options.csv} has all {len(runs)} runs of the plan')


# ---- The command ----


def whole(text):
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not 1, 2, 3, ...')
    return int(text)


def positive(text):
    """A number above 0, for argparse."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')


def one_of(values, separator=', '):
    """A type for argparse: one of `values`, as an error lists them."""

    def kind(text):
        if text not in values:
            raise argparse.ArgumentTypeError(
                f'{text!r} is not one of {separator.join(values)}'
            )
        return text

    return kind


def listed(kind):
    """A type for argparse: several of `kind`, separated by commas."""
    return lambda text: [kind(part) for part in text.split(',')]


def arguments(study, words):
    """The options of a command, as argparse returns them."""
    parser = argparse.ArgumentParser(
        prog=f'python -m studies {study.name}',
        description=study.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('csv', type=Path, help='the file that gets a row per run')
    study.add_options(add)
    add('--device', choices=['auto', 'cpu', 'cuda'], default='auto')
    add('--workers', type=whole, default=1, help='runs at a time')
    add('--shard', action='store_true', help='FSDP, under torchrun')
    add('--dry-run', action='store_true', help='print plan and cost only')
    options = parser.parse_args(words)
    options.command = shlex.join(['studies', study.name, *words])
    return options


def run_study(study, words):
    """Do what a command says; returns its exit status."""
    options = arguments(study, words)
    os.environ['TQDM_DISABLE'] = '1'  # of single runs, not of the study
    first = int(os.environ.get('RANK', 0)) == 0
    lock = FileLock(f'{options.csv}.lock')
    try:
        if options.workers > 1 and processes.rank_and_world()[1] > 1:
            raise ValueError(f'--workers {options.workers} under torchrun')
        device_of(options)
        study.read(options.csv)  # nothing is written beside another's file
        if options.dry_run:
            show_plan(study, options)
            return 0
        if first:
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        go_on(study, options)
    except Timeout:
        print(f'another command is writing {options.csv}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here', file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print(
            'a worker was killed, perhaps for want of memory; the same '
            'command goes on from here',
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError) as error:
        print(f'studies {study.name}: {error}', file=sys.stderr)
        return 1
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # kept while it holds a run
                checkpoint_folder(options).rmdir()
            lock.release()
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def names():
    """The names of all studies: of the files beside this one."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted({m.name for m in modules} - {'runner', '__main__'})


def find(name):
    """A study by name."""
    return importlib.import_module(f'studies.{name}').STUDY


def main(words=None):
    """The command `python -m studies`; returns its exit status."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] in names():
        return run_study(find(words[0]), words[1:])
    usage = 'usage: python -m studies NAME runs.csv [options]\n\nNAME is\n'
    for name in names():
        usage += f'  {name}: {find(name).about.splitlines()[0]}\n'
    usage += '\nOptions of a study: python -m studies NAME --help'
    if words[:1] in (['-h'], ['--help']):
        print(usage)
        return 0
    problem = f'there is no study {words[0]!r}' if words else 'no study named'
    print(f'{problem}\n\n{usage}', file=sys.stderr)
    return 2

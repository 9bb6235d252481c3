"""The scaling study: many GPTs of many sizes, one row of a CSV for each.

    python -m studies runs.csv --workers 2
    torchrun --nproc-per-node 2 -m studies runs.csv

Three studies, in this order. `lr`: every size with several learning rates.
`grid`: every size with every compute budget, at its best learning rate.
`data`: the largest size on few texts, again and again. A sweep that was
stopped goes on where it was; rows that the CSV has are not made again.
"""

import argparse
import contextlib
import csv
import dataclasses
import datetime
import functools
import hashlib
import math
import multiprocessing
import os
import platform
import shlex
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

import corpora
import laws
import utils
from utils import processes

STUDIES = ('lr', 'grid', 'data')
NUM_EVALUATED = 65_536  # validation tokens that a loss is the mean of


@dataclasses.dataclass(frozen=True)
class Run:
    """What is chosen before a run; two runs with equal fields are the same."""

    study: str
    corpus: str
    corpus_digest: str
    vocab_size: int
    num_hiddens: int
    num_heads: int
    num_blks: int
    num_steps: int
    batch_size: int
    unique_tokens: int
    tokens: int
    lr: float
    optimizer: str
    seed: int

    @property
    def config(self):
        return utils.Config(
            self.vocab_size, self.num_hiddens, self.num_heads, self.num_blks,
            self.num_steps,
        )  # fmt: skip

    @property
    def cost(self):
        """Operations in training, every matrix product counted."""
        return laws.train_flops(self.config, self.tokens)

    @property
    def key(self):
        values = map(str, dataclasses.astuple(self))
        return hashlib.sha256(' '.join(values).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Row(Run):
    """A run and what came out of it: one line of the CSV.

    Losses are in nats per token; `best_valid_loss` is the lowest one, seen
    after `best_tokens`. A run that diverged has infinite losses.
    """

    non_embedding: int
    parameters: int
    flops_kaplan: float
    flops_hoffmann: float
    train_loss: float
    valid_loss: float
    best_valid_loss: float
    best_tokens: int
    seconds: float
    processes: int
    device: str
    machine: str
    python: str
    torch: str
    date: str
    command: str


COLUMNS = [field.name for field in dataclasses.fields(Row)]


# ---- The CSV ----


def parse(fields):
    """The `Row` of one line's fields; ValueError says what is wrong."""
    if len(fields) != len(COLUMNS):
        raise ValueError(f'{len(fields)} fields, not {len(COLUMNS)}')
    values = {}
    for field, text in zip(dataclasses.fields(Row), fields, strict=True):
        try:
            values[field.name] = value = field.type(text)
        except ValueError:
            raise ValueError(
                f'{field.name} is {text!r}, not {field.type.__name__}'
            ) from None
        low = 0 if field.name in ('seed', 'lr', 'seconds') else 1e-9
        if isinstance(value, (int, float)) and not value >= low:
            raise ValueError(f'{field.name} is {text}, below {low:g}')
    if values['study'] not in STUDIES:
        raise ValueError(f'study is {values["study"]!r}, not one of {STUDIES}')
    return Row(**values)


def read_rows(path):
    """The rows of a CSV; ValueError names file and line of a bad one."""
    if not Path(path).exists():
        return []
    rows, seen = [], {}
    with open(path, newline='', encoding='utf-8') as file:
        lines = csv.reader(file)
        header = next(lines, None)
        if header != COLUMNS:
            raise ValueError(f'{path}, line 1: not the columns of a sweep')
        for fields in lines:
            try:
                row = parse(fields)
                run = run_of(row)
                if run in seen:
                    raise ValueError(f'the run of line {seen[run]} again')
            except ValueError as error:
                raise ValueError(
                    f'{path}, line {lines.line_num}: {error}'
                ) from None
            seen[run] = lines.line_num
            rows.append(row)
    return rows


def read_runs(path):
    """A CSV of runs as a pandas DataFrame with the columns of `Row`.

    Raises ValueError for a missing file and for a row that is malformed or
    comes twice, with its line number.
    """
    if not Path(path).exists():
        raise ValueError(f'there is no file {path}')
    rows = read_rows(path)
    return pd.DataFrame(map(dataclasses.asdict, rows), columns=COLUMNS)


def run_of(row):
    """The `Run` that a row is of."""
    names = [field.name for field in dataclasses.fields(Run)]
    return Run(**{name: getattr(row, name) for name in names})


def repair(path):
    """Cut off the line that a killed sweep was writing; say if there was."""
    data = path.read_bytes() if path.exists() else b''
    whole = data[: data.rfind(b'\n') + 1]
    if whole != data:
        utils.write_whole(path, lambda file: file.write(whole))
        print(f'{path}: removed an unfinished last line')


def append(path, row):
    """Add one row to the CSV, and the header to a new one."""
    new = not path.exists() or path.stat().st_size == 0
    with open(path, 'a', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerows([COLUMNS] * new + [dataclasses.astuple(row)])
        file.flush()
        os.fsync(file.fileno())


# ---- One run ----


def machine():
    """The processor's name and the number of cores."""
    name = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        lines = [s for s in info.read_text().split('\n') if 'model name' in s]
        name = lines[0].split(':')[1].strip() if lines else name
    return f'{name}, {os.cpu_count()} cores'


def choose_device(name):
    """A device by name; the best one there is for 'auto'."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    if name == 'cuda':
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
        torch.cuda.set_device(device)
        return device
    return torch.device(name)


def barrier():
    """Wait for the other processes, if there are any."""
    if dist.is_initialized():
        dist.barrier()


def checkpoint_folder(options):
    """Where unfinished runs are kept, beside the CSV."""
    return Path(f'{options.csv}.checkpoints')


def checkpoint_path(options, run):
    """Where this run is kept until its row is written."""
    return checkpoint_folder(options) / f'{run.key}.pt'


def run_lock(options, run):
    """A lock on this run: a worker may outlive its killed sweep a little."""
    name = f'{run.key}.{processes()[0]}.lock'
    return FileLock(checkpoint_folder(options) / name)


def forget(options, run):
    """Remove all that is kept of a run; its row is in the CSV."""
    for path in checkpoint_folder(options).glob(f'{run.key}.*'):
        path.unlink(missing_ok=True)


def outcome(history):
    """The measured columns of a run from its history."""
    last = max(1, len(history.loss) // 20)
    best = min(
        range(len(history.eval_loss)), key=history.eval_loss.__getitem__
    )
    return {
        'train_loss': sum(history.loss[-last:]) / last,
        'valid_loss': history.eval_loss[-1],
        'best_valid_loss': history.eval_loss[best],
        'best_tokens': history.tokens[history.eval_step[best] - 1],
        'seconds': history.seconds[-1],
    }


DIVERGED = {
    'train_loss': math.inf, 'valid_loss': math.inf,
    'best_valid_loss': math.inf, 'best_tokens': 1, 'seconds': 0.0,
}  # fmt: skip


def execute(run, tokens, options):
    """Train one model and return its `Row`.

    `tokens` holds the 'train' and the 'valid' part of the corpus as ids.
    """
    device = choose_device(options.device)
    torch.manual_seed(run.seed)
    model = utils.GPT(run.config).to(device)
    rows = corpora.blocks(tokens['valid'], run.num_steps)
    rows = rows[: max(1, NUM_EVALUATED // run.num_steps)].split(64)

    def eval_fn(model):
        return utils.evaluate(model, rows, utils.lm_loss)

    per_step = run.batch_size * run.num_steps
    num_steps = max(1, round(run.tokens / per_step))
    checkpoint = checkpoint_path(options, run)
    checkpoint.parent.mkdir(exist_ok=True)
    batches = corpora.windows(
        tokens['train'][: run.unique_tokens], run.batch_size, run.num_steps,
        run.seed,
    )  # fmt: skip
    eval_every = max(1, num_steps // 40) if run.study == 'data' else 0
    try:
        with run_lock(options, run):
            history = utils.train(
                model, batches, utils.lm_loss, num_steps, run.lr,
                run.optimizer, warmup=num_steps // 20, eval_fn=eval_fn,
                eval_every=eval_every, checkpoint=checkpoint,
                checkpoint_every=1000, shard=options.shard,
            )  # fmt: skip
        if len(history.loss) < num_steps:
            raise KeyboardInterrupt
        measured = outcome(history)
    except FloatingPointError:
        measured = DIVERGED
    non_embedding, parameters = laws.count_parameters(run.config)
    gpu = device.type == 'cuda'
    return Row(
        **dataclasses.asdict(run),
        non_embedding=non_embedding,
        parameters=parameters,
        flops_kaplan=laws.train_flops(run.config, run.tokens, rule='kaplan'),
        flops_hoffmann=run.cost,
        **measured,
        processes=processes()[1],
        device=torch.cuda.get_device_name(device) if gpu else 'cpu',
        machine=machine(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
        command=shlex.join(['sweep.py', *options.words]),
    )


# ---- The plan ----


def sizes_of(text):
    """'8x1,16x2' as [(8, 1), (16, 2)], widths and numbers of blocks."""
    try:
        sizes = [tuple(map(int, s.split('x'))) for s in text.split(',')]
        if all(len(size) == 2 and min(size) > 0 for size in sizes):
            return sizes
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'{text!r} is not like 8x1,16x2')


def numbers(text):
    """'1e5,3e5' as [100000.0, 300000.0]."""
    try:
        values = [float(s) for s in text.split(',')]
        if all(0 < value < math.inf for value in values):
            return values
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'{text!r} is not like 1e5,3e5')


def num_heads(width):
    """Heads are 32 wide; a narrower model has one."""
    return max(1, width // 32)


def affordable(size, options):
    """The numbers of tokens that the budgets pay for, within the limits."""
    config = utils.Config(
        options.vocab_size, size[0], num_heads(size[0]), size[1],
        options.num_steps,
    )  # fmt: skip
    per_token = laws.train_flops(config, 1)
    tokens = [budget / per_token for budget in options.budgets]
    low, high = options.min_tokens, options.max_tokens
    return [n for n in tokens if low <= n <= high]


def new_run(study, corpus, options, size, tokens, lr, unique=None, seed=0):
    """The run of one model on about `tokens` tokens, in whole steps."""
    per_step = options.batch_size * options.num_steps
    return Run(
        study, corpus['name'], corpus['digest'], options.vocab_size, size[0],
        num_heads(size[0]), size[1], options.num_steps, options.batch_size,
        min(corpus['num_tokens'], round(unique or corpus['num_tokens'])),
        max(1, round(tokens / per_step)) * per_step, lr, options.optimizer,
        seed,
    )  # fmt: skip


def best_rates(rows, corpus, options):
    """The learning rate of the lowest loss of each size in study `lr`."""
    if options.lr:
        return dict.fromkeys(options.sizes, options.lr)
    tried = [
        (row.valid_loss, row.lr, (row.num_hiddens, row.num_blks))
        for row in rows
        if (row.study, row.corpus_digest, row.optimizer)
        == ('lr', corpus['digest'], options.optimizer)
    ]
    rates = {size: lr for _, lr, size in sorted(tried, reverse=True)}
    for width, depth in options.sizes:
        if (width, depth) not in rates:
            raise ValueError(
                f'{options.csv} has no learning rate for {width}x{depth}: '
                'run study lr first, or give --lr'
            )
    return rates


def plan(study, rows, corpus, options):
    """The runs of one study, cheap ones first."""
    new = functools.partial(new_run, study, corpus, options)
    seeds, largest = range(options.seeds), options.sizes[-1]
    if study == 'lr':
        runs = [
            new(size, options.lr_tokens, lr)
            for size in options.sizes for lr in options.lrs
        ]  # fmt: skip
    elif study == 'grid':
        rates = best_rates(rows, corpus, options)
        runs = [
            new(size, tokens, rates[size], seed=seed)
            for size in options.sizes for tokens in affordable(size, options)
            for seed in seeds
        ]  # fmt: skip
    else:
        rate = best_rates(rows, corpus, options)[largest]
        runs = [
            new(largest, min(options.epochs * unique, options.max_tokens),
                rate, unique, seed)
            for unique in options.unique for seed in seeds
        ]  # fmt: skip
    return sorted(dict.fromkeys(runs), key=lambda run: run.cost)


def seconds_per_operation(run, tokens, options):
    """What training of this size takes here, measured on three steps."""
    model = utils.GPT(run.config).to(choose_device(options.device))
    batches = corpora.windows(tokens['train'], run.batch_size, run.num_steps)
    seconds = utils.train(
        model, batches, utils.lm_loss, 3, run.lr, run.optimizer
    ).seconds
    fastest = min(seconds[1] - seconds[0], seconds[2] - seconds[1])
    per_step = run.batch_size * run.num_steps
    return fastest / laws.train_flops(run.config, per_step)


def show_plan(study, runs, done, tokens, options):
    """Print the runs that are left and what they would cost here."""
    left = [run for run in runs if run not in done]
    rates = {
        run.config: seconds_per_operation(run, tokens, options)
        for run in {run.config: run for run in left}.values()
    }
    hours = 0.0
    for run in left:
        seconds = run.cost * rates[run.config]
        hours += seconds / 3600
        print(
            f'{study:5}{run.num_hiddens:5}x{run.num_blks:<3}'
            f'{run.tokens:12,} tokens of {run.unique_tokens:,}, '
            f'lr {run.lr:g}, seed {run.seed}: {run.cost:.2g} FLOPs, '
            f'{seconds:.0f} s'
        )
    print(
        f'{study}: {len(left)} runs left of {len(runs)}, '
        f'{sum(run.cost for run in left):.2g} FLOPs, {hours:.2g} hours of one '
        f'process, {hours / options.workers:.2g} with {options.workers}'
    )


# ---- Running it ----


def load(options):
    """The corpus: what names it, and its 'train' and 'valid' token ids."""
    if options.text:
        corpus = corpora.text_folder(options.text)
    else:
        corpus = corpora.documentation()
    tokenizer = corpora.documentation_tokenizer(corpus, options.vocab_size)
    tokens = {
        part: corpora.encode(tokenizer, getattr(corpus, part))
        for part in ('train', 'valid')
    }
    about = {
        'name': corpus.name,
        'digest': corpora.fingerprint(corpus),
        'num_tokens': len(tokens['train']),
    }
    return about, tokens


def start_worker(path):
    """Read the tokens once per process, and end when the sweep ends."""
    global worker_tokens
    torch.set_num_threads(1)
    worker_tokens = torch.load(path)
    parent = multiprocessing.parent_process()
    threading.Thread(
        target=lambda: (parent.join(), os._exit(1)), daemon=True
    ).start()


def work(run, options):
    return execute(run, worker_tokens, options)


def results(runs, tokens, options):
    """The rows of all runs as they are done, from several processes."""
    if options.workers == 1:
        yield from (execute(run, tokens, options) for run in runs)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/tokens.pt'
        torch.save(tokens, path)
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(
            options.workers, context, start_worker, (path,)
        ) as pool:
            jobs = [pool.submit(work, run, options) for run in runs]
            yield from (job.result() for job in as_completed(jobs))


def sweep(options):
    """Do what the options say; the CSV grows by a row per run."""
    rank, world = processes()
    if world > 1 and options.workers > 1:
        raise ValueError(f'--workers {options.workers} under torchrun')
    if rank == 0:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        repair(options.csv)
    corpus, tokens = load(options)
    for study in options.studies:
        barrier()
        rows = read_rows(options.csv)
        done = set(map(run_of, rows))
        for run in [] if rank else done:  # killed before it forgot them
            forget(options, run)
        runs = plan(study, rows, corpus, options)
        if options.dry_run:
            show_plan(study, runs, done, tokens, options)
            continue
        left = [run for run in runs if run not in done]
        barrier()
        bar = tqdm(
            total=sum(run.cost for run in runs), unit='FLOP', unit_scale=True,
            initial=sum(run.cost for run in runs if run in done),
            desc=f'{study} {len(runs) - len(left)}/{len(runs)}',
            disable=True if rank else None,  # None: off without a terminal
        )  # fmt: skip
        with bar:
            for i, row in enumerate(results(left, tokens, options)):
                if rank == 0:
                    append(options.csv, row)
                    run = run_of(row)
                    forget(options, run)
                    bar.set_description(
                        f'{study} {len(runs) - len(left) + i + 1}/{len(runs)}'
                    )
                    bar.update(run.cost)


def arguments(words):
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('csv', type=Path, help='the file that gets a row per run')
    add('--studies', default=','.join(STUDIES), help='which, comma-separated')
    add('--text', help='a folder of text files; default: documentation')
    add('--sizes', type=sizes_of, help='width x blocks, the smallest first',
        default='8x1,16x1,16x2,32x2,48x2,64x2,96x3,128x3')  # fmt: skip
    add('--budgets', type=numbers, help='operations of a training run',
        default='1e10,3e10,1e11,3e11,1e12,3e12,1e13')  # fmt: skip
    add('--lrs', type=numbers, default='3e-3,6e-3,1.2e-2,2.4e-2,4.8e-2')
    add('--lr', type=float, help='one learning rate for all, not tuned')
    add('--lr-tokens', type=float, default=5e5, help='tokens of study lr')
    add('--unique', type=numbers, help='tokens of text in study data',
        default='2.5e3,8e3,2.5e4,8e4,2.5e5,8e5,2.5e6')  # fmt: skip
    add('--epochs', type=float, default=40, help='rounds in study data')
    add('--min-tokens', type=float, default=5e4)
    add('--max-tokens', type=float, default=1e7)
    add('--seeds', type=int, default=1)
    add('--num-steps', type=int, default=64)
    add('--batch-size', type=int, default=16)
    add('--vocab-size', type=int, default=1024)
    add('--optimizer', choices=['muon', 'adamw'], default='muon')
    add('--device', choices=['auto', 'cpu', 'cuda'], default='auto')
    add('--workers', type=int, default=1, help='runs at a time')
    add('--shard', action='store_true', help='FSDP, under torchrun')
    add('--dry-run', action='store_true', help='print plan and cost only')
    options = parser.parse_args(words)
    options.words = list(words)
    options.studies = options.studies.split(',')
    for study in options.studies:
        if study not in STUDIES:
            parser.error(f'study {study!r} is not one of {STUDIES}')
    for name in ('workers', 'seeds', 'num_steps', 'batch_size'):
        if getattr(options, name) < 1:
            parser.error(f'{name} is {getattr(options, name)}, below 1')
    return options


def main(words=None):
    """Run the command; returns its exit status."""
    options = arguments(sys.argv[1:] if words is None else words)
    os.environ['TQDM_DISABLE'] = '1'  # of single runs, not of the sweep
    lock = FileLock(f'{options.csv}.lock')
    try:
        if int(os.environ.get('RANK', 0)) == 0:
            lock.acquire(timeout=0)
        sweep(options)
    except Timeout:
        print(f'another sweep is writing {options.csv}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here', file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f'sweep.py: {error}', file=sys.stderr)
        return 1
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # kept while it holds a run
            checkpoint_folder(options).rmdir()
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0

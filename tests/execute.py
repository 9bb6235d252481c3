"""Re-executes notebooks in place: python tests/execute.py [notebook ...]

A notebook is written back whole, with clean metadata, or not at all. Weights
that it holds in a page stay as they are stored, unless the first argument is
--new-weights; see tests/frames.py. Where the environment variable
CHAPTER_SEED is set, that number is added to every seed, and nothing is
written.
"""

import os
import platform
import re
import sys
import time
from pathlib import Path
from unittest import mock

import nbformat
from frames import frames_of, keep_weights
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / 'chapter_large_pretraining'
# Wider vector instructions add in another order, and a long training makes
# another model of it. Processors that have them are asked not to use them.
ARITHMETIC = {
    name: os.environ.get(name, value)
    for name, value in (
        ('ATEN_CPU_CAPABILITY', 'avx2'),
        ('MKL_ENABLE_INSTRUCTIONS', 'AVX2'),
        ('ONEDNN_MAX_CPU_ISA', 'AVX2'),
        ('OPENBLAS_CORETYPE', 'Haswell'),
    )
    if platform.machine() in ('x86_64', 'AMD64')
}
KERNEL_ENV = ARITHMETIC | {
    'OMP_NUM_THREADS': '1',
    'TQDM_DISABLE': '1',
    'MPLBACKEND': 'module://matplotlib_inline.backend_inline',
    'CHAPTER_CLAIMS': 'raise',
}
# as JupyterLab writes it: it would mark another as a change on opening
KERNELSPEC = {
    'display_name': 'Python 3 (ipykernel)',
    'language': 'python',
    'name': 'python3',
}
SEEDED = Path(__file__).with_name('seeded')  # what moves the seeds
METADATA = {'tags', 'reason', 'jupyter', 'cellView'}


def notebooks(chapter=CHAPTER):
    """The paths of the chapter's notebooks, then those of the solutions."""
    return [
        *sorted(chapter.glob('*.ipynb')),
        *sorted(chapter.glob('solutions/*.ipynb')),
    ]


def name_of(path):
    """What a notebook is called in the chapter: 'solutions/gpt.ipynb'."""
    inside = path.parent.name == 'solutions'
    return f'solutions/{path.name}' if inside else path.name


class NotebookError(Exception):
    """A notebook that cannot be written back, and why."""


WIDGET_VIEW = 'application/vnd.jupyter.widget-view+json'
UNSTORED = {'OutputModel', 'FloatProgressModel', 'IntProgressModel'}


def refusal(msg):
    """Says why a cell that sends this message is refused; None if it is not.

    A stored output is what the cell has sent, in this order. A front end
    would clear or update it, also in earlier cells; and what a progress bar
    or an Output widget shows is not in the file. Other widgets are stored as
    the text of their names.
    """
    kind, content = msg['msg_type'], msg['content']
    if kind == 'clear_output':
        return 'The cell clears its output: print less, or later'
    if (content.get('transient') or {}).get('display_id'):
        return 'The cell updates an output (display_id): show it when done'
    state = content.get('data', {}).get('state', {})
    if kind == 'comm_open' and state.get('_model_name') in UNSTORED:
        widget = state['_model_name']
        return f'The cell makes a widget, {widget}, whose content is not kept'
    return None


class Client(NotebookClient):
    """Executes a notebook, and notes why a cell is refused."""

    refused = None

    def process_message(self, msg, cell, cell_index):
        if why := refusal(msg):
            self.refused = self.refused or why
            return None
        return super().process_message(msg, cell, cell_index)


class CurrentKernel(AsyncKernelManager):
    """Starts the interpreter that runs this file, whatever is installed."""

    def __init__(self, **kwargs):
        manager = NbvalKernelspecManager()
        super().__init__(kernel_spec_manager=manager, **kwargs)


def kernel_env():
    """What is set for a kernel: KERNEL_ENV, and a path if seeds move."""
    seed = os.environ.get('CHAPTER_SEED')
    if not seed:
        return KERNEL_ENV
    if not re.fullmatch(r'-?\d+', seed):
        raise ValueError(f'CHAPTER_SEED is {seed!r}, not a whole number')
    paths = [str(SEEDED), *filter(None, [os.environ.get('PYTHONPATH')])]
    return KERNEL_ENV | {'PYTHONPATH': os.pathsep.join(paths)}


def peak_mib(pid):
    """Peak memory (MiB) of a running process; None where unknown."""
    try:
        status = Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) / 1024
    return None


def cpu_seconds(pid):
    """CPU seconds of a running process and of those that it has waited for.

    None where unknown.
    """
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return None
    ticks = map(int, stat.rpartition(')')[2].split()[11:15])
    return sum(ticks) / os.sysconf('SC_CLK_TCK')


def write_whole(path, text):
    """Writes a text file whole or not at all."""
    temporary = path.with_name(path.name + '.tmp')
    try:
        temporary.write_text(text, encoding='utf-8', newline='\n')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def join_streams(outputs):
    """Joins stream outputs of one name that follow each other."""
    joined = []
    for out in outputs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and out.output_type == last.output_type == 'stream'
            and out.name == last.name
        ):
            last.text += out.text
        else:
            joined.append(out)
    return joined


def clean(nb):
    """Removes what differs from run to run or from editor to editor.

    JupyterLab writes its own Python version over language_info, and keeps
    the one that recorded the outputs.
    """
    nb.nbformat, nb.nbformat_minor = 4, 5
    info = nb.metadata.language_info
    nb.metadata = nbformat.from_dict(
        {
            'kernelspec': KERNELSPEC,
            'language_info': info,
            'recorded': {'python': info.version},
        }
    )
    for i, cell in enumerate(nb.cells):
        cell.setdefault('id', f'cell-{i:03d}')
        for key in set(cell.metadata) - METADATA:
            del cell.metadata[key]
        if cell.cell_type == 'code':
            cell.outputs = join_streams(cell.outputs)
            for out in cell.outputs:
                out.get('data', {}).pop(WIDGET_VIEW, None)
    return nb


def execute(path, timeout=300, new_weights=False):
    """Runs one notebook in a fresh kernel and writes it back.

    Weights in its pages stay as they are unless `new_weights`. Returns
    seconds and peak MiB. Raises NotebookError, which names the code
    cell (counted from 1), and leaves the file as it was if a cell raises,
    kills the kernel, writes to stderr, shows what cannot be stored or takes
    more than `timeout` seconds.
    """
    path = Path(path)
    nb = nbformat.read(path, as_version=4)
    code_cells = [c for c in nb.cells if c.cell_type == 'code']
    number = {id(cell): i for i, cell in enumerate(code_cells, 1)}
    stored = {cell.get('id'): frames_of(cell) for cell in code_cells}
    now, peaks = [0], [0.0]
    for cell in code_cells:
        cell.outputs, cell.execution_count = [], None

    def started(cell, cell_index):
        now[0] = number.get(id(cell), now[0])

    def executed(cell, cell_index, execute_reply):
        if client.refused:
            raise NotebookError(client.refused)
        peaks.append(peak_mib(client.km.provisioner.pid) or 0.0)

    client = Client(
        nb,
        timeout=timeout,
        kernel_name=CURRENT_ENV_KERNEL_NAME,
        kernel_manager_class=CurrentKernel,
        extra_arguments=['--log-level=ERROR'],
        resources={'metadata': {'path': str(path.resolve().parent)}},
        store_widget_state=False,
        force_raise_errors=True,
        on_cell_start=started,
        on_cell_executed=executed,
    )
    start = time.monotonic()
    try:
        with mock.patch.dict(os.environ, kernel_env()):
            client.execute()
    except DeadKernelError:
        message = f'{path}: code cell {now[0]}: the kernel died'
        raise NotebookError(message) from None
    except (CellExecutionError, NotebookError) as error:
        raise NotebookError(f'{path}: code cell {now[0]}: {error}') from None
    except Exception as error:  # a cell took too long
        raise NotebookError(f'{path}: code cell {now[0]}: {error!r}') from None
    for cell in code_cells:
        for out in cell.outputs:
            if out.get('name') == 'stderr':
                raise NotebookError(
                    f'{path}: code cell {number[id(cell)]} wrote to stderr:\n'
                    f'{out.text}'
                )
    for cell in code_cells if not new_weights else []:
        for pair in zip(frames_of(cell), stored[cell.get('id')], strict=False):
            keep_weights(*pair)
    if not os.environ.get('CHAPTER_SEED'):
        text = nbformat.writes(clean(nb))
        write_whole(path, text.rstrip('\n') + '\n')
    return time.monotonic() - start, max(peaks)


def main(arguments):
    new_weights = arguments[:1] == ['--new-weights']
    arguments = arguments[new_weights:]
    paths = [Path(a) for a in arguments] or notebooks()
    for path in paths:
        try:
            seconds, peak = execute(path, new_weights=new_weights)
        except (NotebookError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
        line = f'{name_of(path)}: {seconds:.0f} s, {peak:.0f} MiB'
        print(line, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

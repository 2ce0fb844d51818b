"""Before and after: the same suite on another revision of kanfast and on the files as they are.

A custom op can be registered once in a process, so the two run in processes of their own, in turns.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import records
from bench.records import Record
from bench.report import table

ROOT = Path(__file__).parent.parent
PASSES = 3


class BaseError(RuntimeError):
    """A revision that cannot be measured."""


@contextmanager
def checkout(revision: str, native: bool = True) -> Iterator[Path]:
    """A work tree of this revision with today's suite in it, removed afterwards.

    Unless it should not be `native`, the code for CPUs is compiled in it, where it has any.

    Raises:
        BaseError: git does not know the revision.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        _command(["git", "worktree", "add", "--detach", str(tree), revision], ROOT)
        try:
            shutil.rmtree(tree / "bench", ignore_errors=True)
            shutil.copytree(ROOT / "bench", tree / "bench")
            # An installation maps the folder; here the import has to find it.
            (tree / "kanfast" / "kernels").symlink_to(tree / "kernels")
            if native and "ext_modules" in (tree / "setup.py").read_text():
                _command([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], tree)
            yield tree
        finally:
            _command(["git", "worktree", "remove", "--force", str(tree)], ROOT)


def compare(
    revision: str, arguments: Sequence[str], passes: int = PASSES, native: bool = True
) -> str:
    """A Markdown table of both sides, from passes in turns with these arguments of the suite."""
    before: list[list[Record]] = []
    after: list[list[Record]] = []
    with checkout(revision, native) as tree:
        for _ in range(passes):
            before.append(_measure(tree, arguments))
            after.append(_measure(ROOT, arguments))
    return _table(before, after)


def _measure(tree: Path, arguments: Sequence[str]) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder, "results.csv")
        command = [sys.executable, "-m", "bench", *arguments, "--csv", str(csv), "--only-measure"]
        _command(command, tree)
        return records.read(csv)


def _command(command: Sequence[str], folder: Path) -> None:
    # From the work tree's own folder, as `python -m` finds the package there first.
    environment = {name: value for name, value in os.environ.items() if name != "GIT_DIR"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise BaseError(f"{' '.join(command)} failed: {lines[-1] if lines else ''}")


def _table(before: list[list[Record]], after: list[list[Record]]) -> str:
    first, second = before[0][0], after[0][0]
    head = ["case", "what", "provider", f"{first.commit}, ms", f"{second.commit}, ms"]
    rows = []
    for record in after[0]:
        old, new = _median(before, record), _median(after, record)
        speed = f"{old / new:.2f}" if old and new else ""
        texts = [f"{time:.3g}" if time else record.status for time in (old, new)]
        rows.append([str(record.case), record.what, record.provider, *texts, speed])
    return table([*head, "times as fast"], rows)


def _median(passes: list[list[Record]], like: Record) -> float | None:
    times = [r.p50 for one in passes for r in one if r.key == like.key and r.p50 is not None]
    return statistics.median(times) if times else None

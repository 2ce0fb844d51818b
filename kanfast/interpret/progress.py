"""A progress bar where tqdm is installed (`pip install 'kanfast[run]'`), and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(steps: int | None, *, quiet: bool) -> Iterator[Callable[[str | None], None]]:
    """A function to be called after each step, with a line to show or None to leave it as it is.

    With `steps` None it is not known how many there will be.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        quiet = True
    if quiet:
        yield lambda line: None
        return
    with tqdm(total=steps) as bar:

        def show(line: str | None) -> None:
            if line is not None:
                bar.set_description_str(line, refresh=False)
            bar.update()

        yield show

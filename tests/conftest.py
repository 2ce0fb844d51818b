"""Without a GPU the kernels run in Triton's interpreter, unless the environment already decides.

The variable is set here, before triton is imported.
"""

import os
import warnings

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a GPU, and torch.cuda.is_available() is False")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def poisoned():
    """Fresh memory is NaN: whatever a kernel leaves unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def fresh_compiler():
    """Nothing is compiled yet: torch stops compiling a function that it compiled too often."""
    torch.compiler.reset()


@pytest.fixture
def pykan():
    """pykan in float64. It warns when imported, and reseeds the global generators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("kan", reason="pykan is not installed", exc_type=ImportError)
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        yield module
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def leaves_pyplot_alone():
    """No figure of pyplot is made, no setting of Matplotlib changed."""
    import matplotlib as mpl
    import matplotlib.pyplot

    settings = dict(mpl.rcParams)
    with torch.random.fork_rng(devices=[]):
        yield
    assert matplotlib.pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == settings


@pytest.fixture
def run(capsys, monkeypatch):
    """Calls the program `kanfast` and gives its exit code, stdout and stderr."""
    from kanfast.cli.main import main

    monkeypatch.setenv("KINETO_LOG_LEVEL", "9")
    threads, state = torch.get_num_threads(), torch.get_rng_state()

    def call(*arguments):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as end:
            code = end.code
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    yield call
    torch.set_num_threads(threads)
    torch.set_rng_state(state)

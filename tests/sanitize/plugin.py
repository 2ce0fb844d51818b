"""The tests with another build of the native library: `pytest -p plugin --native-library DIR`."""

from pathlib import Path

import pytest

from kanfast.engine import native


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--native-library",
        type=Path,
        required=True,
        help="the folder with the library to test, in the place of the installed one",
    )
    parser.addoption(
        "--native-cases", type=int, default=600, help="how many random calls test_native_fuzz makes"
    )


def pytest_configure(config: pytest.Config) -> None:
    folder = str(config.getoption("native_library"))
    native.__path__.insert(0, folder)
    library = native._library()
    if not library._name.startswith(folder):
        raise pytest.UsageError(
            f"--native-library must hold the library that this processor takes, got {folder}, and "
            f"{library._name} was loaded: build it there"
        )

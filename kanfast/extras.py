"""What is installed with an extra only, and what to do where it is missing."""

from __future__ import annotations

import importlib

# Distributions whose name is not that of the module.
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


class MissingExtra(ImportError):
    """A module of the extra "run" is not installed; the message says how to install it."""


def require(*modules: str) -> None:
    """Raise MissingExtra unless all of these modules, which the extra "run" brings, are there."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            name = _DISTRIBUTIONS.get(module, module)
            raise MissingExtra(f'{name} is not installed: pip install "kanfast[run]"') from error

"""The examples in the docstrings of what people use most run, and give what they say."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch

import kanfast
from kanfast import KAN, KANLinear

USED_MOST = [
    KAN,
    KANLinear,
    kanfast.kan_linear,
    kanfast.edge_statistics,
    KAN.prune,
    KAN.refine,
    KAN.plot,
    KAN.auto_symbolic,
    KAN.explain,
]


@pytest.mark.parametrize("subject", USED_MOST, ids=lambda subject: subject.__name__)
def test_the_example_gives_what_it_says(subject: Any) -> None:
    names = {"torch": torch, "kanfast": kanfast, "KAN": KAN, "KANLinear": KANLinear}
    test = doctest.DocTestParser().get_doctest(
        subject.__doc__, names, subject.__qualname__, subject.__module__, None
    )
    assert any(example.want for example in test.examples)
    report: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)

"""Every entry of the native library in random calls; `make sanitize` runs more of them.

What native code reads and writes is the subject, and sanitizers see it. Here it shows where it
makes other numbers: fresh memory is NaN, so what is read beyond the numbers or not written is, too.
"""

import pytest
import torch
from native_calls import RandomCalls

from kanfast.engine import native

pytestmark = [
    pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        count = metafunc.config.getoption("native_cases", 40)
        metafunc.parametrize("seed", range(count))


@pytest.mark.usefixtures("poisoned")
def test_calls(seed, monkeypatch):
    case = RandomCalls(seed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: case.threads)
    monkeypatch.setattr(native, "SERIAL_WORK", 0)
    for call in case.calls():
        for got, want in zip(call.native(), call.plain(), strict=True):
            assert (got is None) == (want is None), call.entry
            if got is None:
                continue
            assert (got.shape, got.dtype) == (want.shape, want.dtype), call.entry
            if not case.overflows:
                assert got[want.isfinite()].isfinite().all(), call.entry
            # Of equal extremes native code takes the first row, and plain torch one or another.
            if case.tame and want.numel() and call.entry != "statistics_grad":
                bound = 1e-9 * want.abs().max().item()
                torch.testing.assert_close(got, want, rtol=0, atol=bound, msg=call.entry)

"""No launch waits for the GPU: nothing reads a tensor's values, or moves a tensor off its device.

The launchers and a network's backward pass run on a GPU that is not here (bench.aot): kernels are
compiled and not executed, and whatever would synchronise raises. In a process of its own, since
compiling needs Triton's compiler and the other tests its interpreter. With a GPU a capture in a
CUDA graph shows the same (tests/test_kernels.py).
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS_VALUES = {
    "_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "equal", "is_nonzero",
    "unique_consecutive", "unique_dim", "_unique2", "bincount", "allclose",
}  # fmt: skip
METHODS = ("cpu", "cuda", "item", "numpy", "tolist", "__bool__", "__float__", "__int__")


class Synchronised(RuntimeError):
    pass


class NoSynchronisation(TorchDispatchMode):
    """Raises on operations whose result, or its size, the host has to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        moved = name == "_to_copy" and kwargs.get("device") is not None
        if name in READS_VALUES or masked or moved:
            raise Synchronised(f"{name} waits for the device")
        return func(*args, **kwargs)


@contextlib.contextmanager
def no_synchronisation():
    """`NoSynchronisation`, and the methods that do without a dispatch where tensors are the
    CPU's."""

    def forbidden(name):
        def method(*args, **kwargs):
            raise Synchronised(f"Tensor.{name} waits for the device")

        return method

    with pytest.MonkeyPatch.context() as patch, NoSynchronisation():
        for name in METHODS:
            patch.setattr(torch.Tensor, name, forbidden(name))
        yield


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.to("meta"),
        lambda x: float(x[0]),
        lambda x: x if x.any() else -x,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.unique(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.ops.aten._local_scalar_dense(x[0]),
    ],
)
def test_what_synchronises_is_seen(read):
    with no_synchronisation(), pytest.raises(Synchronised):
        read(torch.ones(3))


def launch_all():
    """Every launcher, and forward and backward pass of a network; prints how many kernels there
    were."""
    from bench import aot
    from kanfast import KAN, Basis, kernels

    x, c, g = torch.ones(40, 5), torch.ones(9, 5, 6), torch.ones(40, 6)
    with aot.compile_for("sm_90") as launches, no_synchronisation():
        for uniform in (True, False):
            basis, grid = Basis(5, 3, "silu", uniform), torch.ones(5, 12)
            keywords = {"basis": basis, "deriv": 1, "precision": "tf32x3"}
            keywords["out_dtype"] = torch.bfloat16
            kernels.forward(x, c, x, grid, **keywords)
            kernels.input_grad(g, x, c, grid, **keywords)
            kernels.weight_grad(g, x, x, grid, **keywords)
        statistics = kernels.edge_statistics(x, c, None, grid, basis=basis)
        needs = (True, True, False)
        kernels.edge_statistics_grad(x, c, None, grid, statistics, statistics, needs, basis=basis)
    sys.stdout.write(f"{len(launches)} ")
    model = KAN([5, 6, 1], backend="triton")
    with aot.compile_for("sm_90") as launches, no_synchronisation():
        model(x).square().mean().backward()
    sys.stdout.write(f"{len(launches)} ")


@pytest.mark.slow
def test_launchers_and_a_network_do_not_synchronise():
    pytest.importorskip("triton", reason="the kernels are written in Triton")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    launchers, step = map(int, run.stdout.split())
    assert launchers >= 10
    assert step >= 4


if __name__ == "__main__":
    launch_all()

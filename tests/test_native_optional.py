"""Native CPU kernels are optional: which calls take them, and what is said if none can."""

import os
import subprocess
import sys

import pytest
import torch
from cases import make_basis, make_case

from kanfast import KAN, kan_linear
from kanfast.engine import native
from kanfast.engine.backends import resolve_backend

built = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


@built
def test_16_bit_tensors_with_float32_arithmetic():
    basis = make_basis()
    x, c, _, _, grid = make_case((20, 4, 3), basis, "bfloat16")
    keywords = {"basis": basis, "precision": "ieee"}
    got = kan_linear(x, c, grid, backend="native", **keywords)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, kan_linear(x, c, grid, backend="reference", **keywords))


@built
def test_what_auto_takes():
    x = torch.zeros(1)
    assert resolve_backend("auto", x) == "native"
    assert resolve_backend("auto", x, "float64") == "native"
    assert resolve_backend("auto", x, "bfloat16") == "reference"
    assert resolve_backend("auto", x.to("meta")) == "reference"


@built
def test_by_name_it_never_falls_back():
    with pytest.raises(RuntimeError, match=r"CPU tensors, got meta"):
        resolve_backend("native", torch.zeros(1, device="meta"))
    basis = make_basis()
    x, c, _, _, grid = make_case((5, 2, 2), basis, "bfloat16")
    with pytest.raises(RuntimeError, match=r"float32 or float64, got the precision 'bfloat16'"):
        kan_linear(x, c, grid, basis=basis, backend="native")


NOT_BUILT = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if "native._" in name else find(name, *a)
import torch, kanfast
assert not kanfast.native.available()
model = kanfast.KAN([2, 3, 1])
model(torch.zeros(4, 2)).sum().backward()
model.backend = "native"
x, weight = torch.zeros(4, 2), model.layers[0].spline_weight
for call in (lambda: model(x), lambda: kanfast.native.pack(weight, None, None)):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


def test_without_the_library_plain_torch_does_the_work(tmp_path):
    command = [sys.executable, "-c", NOT_BUILT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    by_name, launcher = done.stdout.splitlines()
    reason = "must be built, but it was not compiled for this processor when kanfast was"
    assert by_name.startswith(f'backend "native" {reason}')
    assert by_name.endswith('or use backend="auto"')
    assert launcher.startswith(f"kanfast.native {reason}")


OUT_OF_MEMORY = """
import resource, torch, kanfast
torch.set_num_threads(1)
basis = kanfast.Basis(1, 0, "none")
x, grid = torch.zeros(1, 8192), torch.tensor([-1.0, 1.0]).expand(8192, 2)
c = torch.empty(1, 8192, 8192)  # 256 MiB; the statistics of all edges are five times as much
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# A layer takes its coefficients a tile at a time. The statistics' buffers do not fit.
for call, results in ((kanfast.kan_linear, 0), (kanfast.edge_statistics, 5)):
    room = used + (results * 256 + 128) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    try:
        call(x, c, grid, basis=basis, backend="native")
    except MemoryError as error:
        print(error)
"""


@built
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as on Linux")
def test_without_memory_for_its_buffers_it_says_so():
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    message = (
        "kanfast.native needs buffers for 8192 inputs and 8192 outputs, got no memory for them: "
        'use backend="reference", which needs less'
    )
    assert done.stdout.splitlines() == [message]


@built
def test_every_instruction_set_gives_the_same():
    """The build for older processors, in a process that takes it, to rounding."""
    program = (
        "import torch, kanfast\n"
        "torch.manual_seed(0)\n"
        "model = kanfast.KAN([9, 20, 3], backend='native').double()\n"
        "x = torch.linspace(-1.5, 1.5, 900, dtype=torch.float64).view(100, 9)\n"
        "model(x).square().sum().backward()\n"
        "print(torch.backends.cpu.get_cpu_capability())\n"
        "print(*(p.grad.norm().item() for p in model.parameters()))\n"
    )
    seen = {}
    capabilities = ("avx2", "avx512")
    processor = torch.backends.cpu.get_cpu_capability().lower()
    if processor in capabilities:  # torch takes a set that the processor lacks at its word
        capabilities = capabilities[: capabilities.index(processor) + 1]
    for capability in capabilities:
        env = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        name, norms = done.stdout.splitlines()
        seen[name] = torch.tensor([float(n) for n in norms.split()], dtype=torch.float64)
    first, *others = seen.values()
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-12)


@built
def test_a_model_trains_on_it():
    torch.manual_seed(0)
    model = KAN([2, 5, 1], backend="native")
    x = torch.rand(256, 2) * 2 - 1
    y = (x[:, :1] * x[:, 1:]).sin()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = None
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first

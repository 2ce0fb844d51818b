"""The kernels of the edge statistics, compiled for GPUs that are not here: no spills, all fits.

A process for each target, as in tests/test_compile.py. `python -m bench.edges --wide` goes through
degrees, residual functions and shapes.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

import torch
from cases import make_basis
from kanfast.kernels import launch

from bench import aot, edges

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_every_kernel_fits_its_target(target):
    missing = [name for name in ("nvdisasm", "cuobjdump") if not aot.tool(name).exists()]
    if missing and target.startswith("sm_"):
        pytest.skip(
            f"this Triton carries no {' and no '.join(missing)}, which read the machine code"
        )
    command = [sys.executable, "-W", "ignore", "-m", "bench.edges", "--json", "--targets", target]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    compiled = {(kernel["kernel"], kernel["dtype"], kernel["knots"]) for kernel in kernels}
    assert compiled == set(itertools.product(edges.KERNELS, edges.DTYPES, edges.KNOTS))
    wrong = [kernel for kernel in kernels if kernel["problems"]]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("rows", [1, 100, 10**6])
@pytest.mark.parametrize("outputs", [1, 5, 300])
def test_tiles_have_the_places_of_the_table_and_no_more_than_the_shape(outputs, rows):
    for op, dtype, *_ in launch.EDGE_TILES:
        tile, structure, limit = launch.edges(op, make_basis(), dtype, rows, outputs)
        places, widest, _, _ = launch.EDGE_TILES[op, dtype]
        assert tile["BLOCK_B"] * tile["BLOCK_O"] <= places
        assert tile["BLOCK_B"] < 2 * rows
        assert tile["BLOCK_O"] <= widest
        assert tile["BLOCK_O"] < 2 * outputs
        assert structure["CHUNKS"] * structure["CHUNK"] + structure["TAIL"] == 8
        assert max(structure["CHUNK"], structure["TAIL"]) <= limit
        assert structure["TYPE"].name == {torch.float32: "fp32", torch.float64: "fp64"}[dtype]

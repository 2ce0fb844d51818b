"""The local kernels, compiled for GPUs that are not here: no spills, 128-bit loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from bench import aot, codegen, grids

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ops", "precisions", "sizes"),
    [
        # To forward and input_grad tf32 and tf32x3 are "ieee".
        (("forward", "input_grad"), ("bfloat16", "ieee", "float64"), (100, 500)),
        (("weight_grad",), ("bfloat16", "tf32", "tf32x3", "ieee", "float64"), (500,)),
    ],
    ids=["gathering", "weight_grad"],
)
@pytest.mark.parametrize("target", grids.TARGETS)
def test_local_kernels_fit_their_target(target, ops, precisions, sizes):
    missing = [name for name in ("nvdisasm", "cuobjdump") if not aot.tool(name).exists()]
    if missing and target.startswith("sm_"):
        pytest.skip(
            f"this Triton carries no {' and no '.join(missing)}, which read the machine code"
        )
    if target.startswith("gfx"):
        precisions = [name for name in precisions if name != "tf32x3"]  # there it is "ieee"
    command = ["-W", "ignore", "-m", "bench.grids", "--check", "--json", "--targets"]
    arguments = ["--ops", *ops, "--precisions", *precisions, "--grid-sizes", *map(str, sizes)]
    run = subprocess.run(
        [sys.executable, *command, target, *arguments],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    found = {(kernel["name"].split()[1]) for kernel in kernels}
    assert {f"local_{op}_kernel" for op in ops} <= found
    structures = sum(len(list(grids.structures(op))) for op in ops)
    main = [kernel for kernel in kernels if kernel["name"].split()[1].startswith("local")]
    assert len(main) == structures * len(precisions) * len(codegen.KNOTS) * len(sizes)
    wrong = [
        f"{kernel['name']}: {'; '.join(kernel['problems'])}"
        for kernel in kernels
        if kernel["problems"]
    ]
    assert not wrong, "\n".join(wrong)

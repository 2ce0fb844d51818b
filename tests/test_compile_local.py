"""The local kernels, compiled for GPUs that are not here: no spills, 128-bit loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from bench import aot, codegen

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_local_kernels_fit_their_target(target):
    missing = [name for name in ("nvdisasm", "cuobjdump") if not aot.tool(name).exists()]
    if missing and target.startswith("sm_"):
        pytest.skip(
            f"this Triton carries no {' and no '.join(missing)}, which read the machine code"
        )
    precisions = ("bfloat16", "ieee", "float64")  # the others are "ieee"
    arguments = f"--check --json --targets {target} --grid-sizes 100 500 --precisions".split()
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.grids", *arguments, *precisions],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(kernels) == 2 * len(precisions) * len(codegen.KNOTS) * 2
    wrong = [
        f"{kernel['name']}: {'; '.join(kernel['problems'])}"
        for kernel in kernels
        if kernel["problems"]
    ]
    assert not wrong, "\n".join(wrong)

"""What the launch table picks, compiled for GPUs that are not here: it fits, and uses what the
hardware has.

One process for each target and operation, because compiling needs Triton's compiler and the other
tests its interpreter. `python -m bench.codegen --check --wide` does the same over all degrees,
derivatives, activations and small shapes.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from kanfast.kernels import launch

from bench import aot, codegen, fit

ROOT = Path(__file__).parents[1]
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


@pytest.mark.slow
@pytest.mark.parametrize("op", codegen.OPS)
@pytest.mark.parametrize("target", TARGETS)
def test_what_the_table_picks_fits_its_target(target, op):
    """No spills, shared and tensor memory within the limits, tensor-core instructions, 128-bit
    loads of the weights."""
    missing = [name for name in ("nvdisasm", "cuobjdump") if not aot.tool(name).exists()]
    if missing and target.startswith("sm_"):
        pytest.skip(
            f"this Triton carries no {' and no '.join(missing)}, which read the machine code"
        )
    run = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "bench.codegen",
            "--check",
            "--json",
            "--targets",
            target,
            "--ops",
            op,
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    compiled = {(kernel["precision"], kernel["knots"]) for kernel in kernels}
    cases = fit.cases([target], [op], codegen.PRECISIONS, codegen.KNOTS, wide=False)
    assert compiled == {case[2:] for case in cases}
    wrong = [
        f"{kernel['name']}: {'; '.join(kernel['problems'])}"
        for kernel in kernels
        if kernel["problems"]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "tf32x3"])
def test_a_layer_takes_at_most_three_launches_forward_and_five_backward(precision):
    """Counted by compiling for a GPU that is not here, with uniform knots."""
    code = f"""
from bench import codegen
from kanfast.basis import Basis
count = lambda op, n: len(codegen.launches("sm_90", op, {precision!r}, Basis(5, 3, "silu"), n))
print(count("forward", 0), count("input_grad", 1) + count("weight_grad", 0))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    forward, backward = map(int, run.stdout.split())
    assert 1 <= forward <= 3
    assert 2 <= backward <= 5


@pytest.mark.parametrize("group", launch.TILES)
def test_the_table_has_every_operation_and_precision(group):
    wanted = set(itertools.product(codegen.OPS, set(codegen.PRECISIONS) - {"float16"}))
    if group == "mfma":
        wanted -= set(
            itertools.product(codegen.OPS, {"tf32x3"})
        )  # float32 matrix instructions serve
    assert {key[:2] for key in launch.TILES[group] if len(key) == 2} == wanted
    assert {key[2] for key in launch.TILES[group] if len(key) == 3} <= {"demanding"}


@pytest.mark.parametrize("size", [1, 16, 17, 1000])
def test_blocks_are_no_wider_than_the_shape_needs(size):
    tile, _ = launch.tile("forward", "bfloat16", None, size, size, size, demanding=False)
    full, _ = launch.tile("forward", "bfloat16", None, 10**6, 10**6, 10**6, demanding=False)
    for axis in ("BLOCK_B", "BLOCK_I", "BLOCK_O"):
        assert tile[axis] <= full[axis]
        assert tile[axis] < max(2 * size, 17)


def test_the_split_of_the_batch_covers_every_row_once():
    for rows, tiles, block in itertools.product((1, 100, 4096, 65537), (1, 48, 10**4), (16, 64)):
        parts, part = launch.split_batch(rows, tiles, block)
        assert (parts - 1) * part < rows <= parts * part
        assert part % block == 0

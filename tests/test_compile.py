"""What the launch table picks, compiled for GPUs that are not here: it fits, and uses what the
hardware has.

One process for each target and operation, because compiling needs Triton's compiler and the other
tests its interpreter. Compiled are training's calls and the worst of each class of entries: for
every target where a kernel or Triton changed since `python -m bench.codegen --check --sample
--record` wrote down that all fit, and otherwise in turn, each for one target. `--check --wide` does
the same over all degrees, derivatives, activations, scales, grid sizes and small shapes.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from cases import KNOTS, make_basis
from kanfast.kernels import launch

from bench import aot, codegen, fit

ROOT = Path(__file__).parents[1]
KNOWN = fit.RECORD.exists() and fit.RECORD.read_text() == fit.fingerprint()
EXTENT = "turn" if KNOWN else "sample"


def skip_without_disassembler():
    missing = [name for name in ("nvdisasm", "cuobjdump") if not aot.tool(name).exists()]
    if missing:
        pytest.skip(
            f"this Triton carries no {' and no '.join(missing)}, which read the machine code"
        )


def compiling(*arguments, codes=(0,)):
    """What a Python prints in which Triton compiles and does not interpret."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in codes, run.stderr[-2000:]
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("op", codegen.OPS)
@pytest.mark.parametrize("target", codegen.TARGETS)
def test_what_the_table_picks_fits_its_target(target, op):
    """No spills, shared and tensor memory within the limits, tensor-core instructions, 128-bit
    loads of the weights."""
    if target.startswith("sm_"):
        skip_without_disassembler()
    check = f"-m bench.codegen --check --{EXTENT} --json --targets {target} --ops {op}"
    output = compiling(*check.split(), codes=(0, 1))
    kernels = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    compiled = {(kernel["precision"], kernel["knots"]) for kernel in kernels}
    cases = fit.cases([target], [op], codegen.PRECISIONS, codegen.KNOTS, EXTENT)
    calls = {case[2:] for case in cases}
    assert compiled == calls if EXTENT == "sample" else compiled
    assert compiled <= calls
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
from kanfast.engine.basis import Basis
count = lambda op, n: len(codegen.launches("sm_90", op, {precision!r}, Basis(5, 3, "silu"), n))
print(count("forward", 0), count("input_grad", 1) + count("weight_grad", 0))
"""
    forward, backward = map(int, compiling("-c", code).split())
    assert 1 <= forward <= 3
    assert 2 <= backward <= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deriv", "knots", "unrolled"), [(3, "uniform", True), (1, "general", False)]
)
def test_the_profiler_counts_every_product_once(deriv, knots, unrolled):
    """Where the compiler unrolls the loop over functions, and where it does not. A float64
    tensor-core instruction is 8 x 8 x 4 multiply-adds."""
    skip_without_disassembler()
    code = f"""
from bench import codegen, sass
from kanfast.engine.basis import Basis
basis = Basis(5, 3, "silu", {knots == "uniform"})
launches = codegen.launches("sm_80", "forward", "float64", basis, {deriv})
(launch,) = [its for its in launches if its.kernel.name == "forward_kernel"]
code = sass.parse(launch.kernel.machine_code, False)
assert launch.arguments["ROLLED"] and bool(code.outer) != {unrolled}
need, trips = codegen.profile("forward", launch)
(first, end), = code.loops
dots = sum(name.startswith("DMMA") for name, _ in code.instructions[first:end])
print(trips * dots * launch.kernel.warps * 256, codegen.work("forward", launch.arguments)[2])
"""
    counted, needed = compiling("-c", code).split()
    assert counted == needed


@pytest.mark.parametrize("group", launch.TILES)
def test_the_table_has_every_operation_and_precision(group):
    wanted = set(itertools.product(codegen.OPS, set(codegen.PRECISIONS) - {"float16"}))
    if group == "mfma":
        wanted -= set(
            itertools.product(codegen.OPS, {"tf32x3"})
        )  # float32 matrix instructions serve
    keys = launch.TILES[group]
    assert {key for key in keys if len(key) == 2} == wanted
    for name in ("high", "narrow"):
        assert {key[:2] for key in keys if key[2:] == (name,)} == wanted


def test_in_turn_every_structure_has_one_target():
    for place in range(20):
        takers = [fit.in_turn("turn", target, place) for target in codegen.TARGETS]
        assert sum(takers) == 1


@pytest.mark.parametrize("group", launch.TILES)
def test_the_sample_takes_every_entry(group):
    table, taken = launch.TILES[group], set()
    for op, precision, knots in itertools.product(codegen.OPS, codegen.PRECISIONS, KNOTS):
        if precision == "float16" or (op, precision) not in table:
            continue
        for case in fit.structures("sample", precision, knots):
            grid_size, degree, deriv, activation, scale, (_, inputs, outputs) = case
            basis = make_basis(grid_size, degree, activation, knots)
            deriv, scale = deriv + (op == "input_grad"), scale and op != "input_grad"
            name = launch.demanding(op, basis, deriv, scale)
            name = launch.entry_name(op, precision, torch.device("cpu"), inputs, outputs, name)
            name = launch.entry(table, op, precision, name)[1]
            taken.add((op, precision) if name == "common" else (op, precision, name))
    assert taken == table.keys()


@pytest.mark.parametrize(("inputs", "outputs"), [(500, 512), (512, 500), (40, 10)])
def test_sizes_that_16_does_not_divide_need_more_registers(inputs, outputs):
    classes = "common", "demanding", "highest", "highest"
    for name, more in itertools.pairwise(classes):
        at = "forward", "tf32", torch.device("cpu")
        assert launch.entry_name(*at, 512, 512, name) == name
        assert launch.entry_name(*at, inputs, outputs, name) == more
    assert launch.entry_name(*at, 512, 512, "general") == "general"
    assert launch.entry_name(*at, inputs, outputs, "general") == "highest"
    assert launch.entry_name(*at, inputs, outputs, "high") == "highest"


@pytest.mark.parametrize("op", codegen.OPS)
def test_narrow_layers_have_entries_of_their_own(op):
    entry = launch.TILES["mma"][op, "tf32", "narrow"]
    for name in ("common", "demanding")[: 1 if op == "forward" else 2]:
        tile = launch.tile(op, "tf32", None, 10**6, 16, 16, demanding=name)
        assert (tile[0]["BLOCK_B"], tile[0]["num_warps"], tile[1]) == (entry[0], *entry[3::2])
    for wide in ((10**6, 16, 32), (10**6, 32, 16)):
        other = launch.TILES["mma"][op, "tf32"]
        tile = launch.tile(op, "tf32", None, *wide, demanding="common")
        assert (tile[0]["BLOCK_B"], tile[0]["num_warps"], tile[1]) == (other[0], *other[3::2])


@pytest.mark.parametrize("size", [1, 16, 17, 1000])
def test_blocks_are_no_wider_than_the_shape_needs(size):
    tile, _ = launch.tile("forward", "bfloat16", None, size, size, size, demanding="common")
    full, _ = launch.tile("forward", "bfloat16", None, 10**6, 10**6, 10**6, demanding="common")
    for axis in ("BLOCK_B", "BLOCK_I", "BLOCK_O"):
        assert tile[axis] <= full[axis]
        assert tile[axis] < max(2 * size, 17)


def test_the_split_of_the_batch_covers_every_row_once():
    for rows, tiles, block in itertools.product((1, 100, 4096, 65537), (1, 48, 10**4), (16, 64)):
        parts, part = launch.split_batch(rows, tiles, block)
        assert (parts - 1) * part < rows <= parts * part
        assert part % block == 0


@pytest.mark.parametrize(("limit", "at_least"), [(2, 2), (3, 2), (8, 2), (8, 3)])
def test_the_chunks_hold_every_function_once(limit, at_least):
    for functions in range(1, 60):
        count, chunk, tail = launch.chunks(functions, limit, at_least=at_least)
        assert count * chunk + tail == functions
        assert 0 < tail <= limit
        assert chunk <= limit
        assert count == 0 or count + 1 >= at_least

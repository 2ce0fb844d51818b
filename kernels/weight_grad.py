"""W_n: dc[j, i, o] = sum_b g[b, o] s[b, i] f_ij^(n)(x[b, i]), summed in a fixed order."""

import torch
import triton
import triton.language as tl

from . import basis, launch, local, runtime, sums
from .local_weight_grad import local_weight_grad


@triton.jit
def weight_grad_kernel(
    g_ptr,  # [B, O]
    x_ptr,  # [B, I]
    s_ptr,  # [B, I] or unused
    grid_ptr,  # [I, G + 2k + 1]
    out_ptr,  # [SPLIT, J, I, O] partial sums
    B,
    I,
    O,
    J,  # functions in out; the residual is the last one
    ROWS,  # of the batch, for one program
    J_BEGIN,
    stride_gb,
    stride_go,
    stride_xb,
    stride_xi,
    stride_sb,
    stride_si,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    DERIV: tl.constexpr,
    COUNT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: the tiles [BLOCK_I, BLOCK_O] of COUNT bases (and the residual), over ROWS of
    the batch.

    The bases are made once for each block of rows, in registers, already transposed: [BLOCK_I,
    BLOCK_B].
    """
    TYPE: tl.constexpr = tl.float64 if PRECISION == "float64" else tl.float32
    RESIDUAL: tl.constexpr = ACTIVATION != "none"
    tiles_o = tl.cdiv(O, BLOCK_O)
    first_i, first_o = tl.program_id(0) // tiles_o * BLOCK_I, tl.program_id(0) % tiles_o * BLOCK_O
    row, local_o = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_O)
    i, o = first_i + tl.arange(0, BLOCK_I), first_o + local_o
    j0 = J_BEGIN + tl.program_id(1) * COUNT
    split = tl.program_id(2).to(tl.int64)
    mask_i, mask_o = i < I, o < O
    begin = split * ROWS
    end = tl.minimum(begin + ROWS, B)
    column, valid = i[:, None], mask_i[:, None]

    accs = ()
    for _ in tl.static_range(COUNT + RESIDUAL):
        accs = accs + (tl.zeros([BLOCK_I, BLOCK_O], TYPE),)
    for b0 in tl.range(begin, end, BLOCK_B, disable_licm=True):
        # Within a block of rows offsets fit in 32 bits (the launcher sees to it): pointers would
        # spill.
        mask_b = row < tl.minimum(end - b0, BLOCK_B).to(tl.int32)
        mask_x = valid & mask_b[None, :]
        x_tile = x_ptr + b0 * stride_xb + (row[None, :] * stride_xb + column * stride_xi)
        x = tl.load(x_tile, mask=mask_x, other=0.0).to(TYPE)
        # Zeros already. The choice makes Triton evaluate the bases where x was loaded, once, and
        # move the results to the tensor cores through shared memory, instead of moving x and
        # evaluating them in every warp.
        x = tl.where(valid, x, 0.0)
        g_tile = g_ptr + b0 * stride_gb + (row[:, None] * stride_gb + o[None, :] * stride_go)
        g = tl.load(g_tile, mask=mask_b[:, None] & mask_o[None, :], other=0.0)
        g = runtime.parts(g, PRECISION, INTERPRETED)
        scale = x
        if HAS_SCALE:
            s_tile = s_ptr + b0 * stride_sb + (row[None, :] * stride_sb + column * stride_si)
            scale = tl.load(s_tile, mask=mask_x, other=0.0).to(TYPE)
        new = ()
        if COUNT > 0:
            state = basis.start(x, column, valid, grid_ptr, j0, I, UNIFORM, G, DEGREE, DERIV)
            for step in tl.static_range(COUNT):
                state = basis.advance(
                    state, j0 + step, column, valid, grid_ptr, I, UNIFORM, G, DEGREE, DERIV
                )
                f = state[0]
                if HAS_SCALE:
                    f = f * scale
                if KEEP_NAN and step == 0:
                    f += x * 0.0
                f = runtime.parts(
                    f, PRECISION, INTERPRETED, FINITE=not HAS_SCALE and not (KEEP_NAN and step == 0)
                )
                new = new + (runtime.dot(f, g, accs[step], PRECISION),)
        if RESIDUAL:
            f = basis.residual(x, ACTIVATION, DERIV)
            if HAS_SCALE:
                f = f * scale
            new = new + (
                runtime.dot(runtime.parts(f, PRECISION, INTERPRETED), g, accs[COUNT], PRECISION),
            )
        accs = new

    CONSTANT: tl.constexpr = basis.constant(UNIFORM, DEGREE, DERIV)
    factor = basis.input_factor(column, valid, grid_ptr, TYPE, UNIFORM, G, DEGREE, DERIV) * CONSTANT
    mask = valid & mask_o[None, :]
    out = out_ptr + (split * J * I + first_i) * O + first_o
    tile = tl.arange(0, BLOCK_I)[:, None] * O + local_o[None, :]
    for step in tl.static_range(COUNT + RESIDUAL):
        j = J - 1 if step == COUNT else j0 + step
        acc = accs[step] if step == COUNT else accs[step] * factor
        target = out + tl.cast(j, tl.int64) * I * O + tile
        tl.store(target, acc.to(out_ptr.dtype.element_ty), mask=mask)


def weight_grad(g, x, s, grid, *, basis, deriv, precision, out_dtype):
    """[J, I, O] from g [B, O], x [B, I], input scale s [B, I] or None, grid [I, M].

    Bit-for-bit reproducible: the batch is split by the shapes alone and the parts are added in
    order.
    """
    shape, splines = (basis.num_functions, x.shape[1], g.shape[1]), basis.num_splines
    out = torch.empty(shape, dtype=runtime.storage_dtype(out_dtype), device=x.device)
    precision = runtime.supported_precision(precision, x.device)
    call = {"basis": basis, "deriv": deriv, "precision": precision}
    if out.numel() == 0:
        return out.to(out_dtype)
    if deriv > basis.degree:  # the splines' derivatives vanish
        out[:splines] = 0
        _dense(g, x, s, grid, out[splines:], 0, **call)
    elif local.pays_to_sort(basis, precision, x, g.shape[1]):
        local_weight_grad(g, x, s, grid, out[:splines], **call)
        _dense(g, x, s, grid, out[splines:], 0, **call)
    else:
        _dense(g, x, s, grid, out, splines, **call)
    return out.to(out_dtype)


def _dense(g, x, s, grid, out, splines, *, basis, deriv, precision):
    """Writes out [functions, I, O]: splines, or none of them, and the residual function."""
    if out.numel() == 0:
        return
    (rows, inputs), outputs = x.shape, g.shape[1]
    demanding = launch.demanding("weight_grad", basis, deriv, s is not None)
    tile, limit = launch.tile(
        "weight_grad", precision, x.device, rows, inputs, outputs, demanding=demanding
    )
    shape = launch.structure(basis, deriv)
    residual = basis.activation != "none"
    chunks, chunk, tail = launch.chunks(splines + residual, limit)
    tiles = triton.cdiv(inputs, tile["BLOCK_I"]) * triton.cdiv(outputs, tile["BLOCK_O"])
    split, part = launch.split_batch(rows, tiles * (chunks + 1), tile["BLOCK_B"])
    x, g = (runtime.narrow(t, tile["BLOCK_B"], t.shape[1]) for t in (x, g))
    scale = x if s is None else runtime.narrow(s, tile["BLOCK_B"], inputs)
    with runtime.on_device(x), sums.over(out, split, runtime.basis_dtype(precision)) as partial:
        knots = launch.knots(grid, basis, precision)

        def run(programs, begin, count, activation):
            weight_grad_kernel[(tiles, programs, split)](
                g, x, scale, knots, partial, rows, inputs, outputs, len(out), part, begin,
                *g.stride(), *x.stride(), *scale.stride(),
                HAS_SCALE=s is not None, PRECISION=precision, COUNT=count,
                **{**shape, "ACTIVATION": activation}, **tile,
            )  # fmt: skip

        if chunks:
            run(chunks, 0, chunk, "none")
        run(1, chunks * chunk, tail - residual, basis.activation)

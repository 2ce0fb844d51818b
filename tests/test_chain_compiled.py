"""Layers one after the other under torch.compile: one native op in each direction."""

import pytest
import torch
from cases import LEFT_TO_PYTHON, tangent
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import forward_ad

from kanfast import KAN, KANLinear
from kanfast.engine import native
from kanfast.engine.native.layers import describe

pytestmark = [
    pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}"),
    pytest.mark.usefixtures("fresh_compiler"),
    # torch loads the rules of its own forward mode by a module that it has deprecated.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning"),
]


def test_one_op_in_each_direction():
    torch.manual_seed(0)
    model = KAN([3, 20, 2])
    x = torch.rand(50, 3) * 2 - 1
    ops = []

    def note(graph, inputs):
        targets = (str(node.target) for node in graph.graph.nodes)
        ops.extend(target for target in targets if "kanfast" in target)
        return make_boxed_func(graph)

    def call(x):
        y = model(x)
        return [y, *torch.autograd.grad(y.square().sum(), model.parameters())]

    compiled = torch.compile(model, backend=aot_autograd(fw_compiler=note), fullgraph=True)
    y = compiled(x)
    got = [y, *torch.autograd.grad(y.square().sum(), model.parameters())]
    assert ops == ["kanfast.layers_values.default", "kanfast.layers_grad.default"]
    for a, b in zip(got, call(x), strict=True):
        assert a.equal(b)


def test_layers_that_do_more_are_called_one_by_one():
    model = KAN([3, 4, 2], dtype=torch.float64)
    x = torch.rand(9, 3, dtype=torch.float64)
    plain = model(x)
    model.kan_layers[1].register_forward_hook(lambda module, inputs, y: 2 * y)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), 2 * plain)


@pytest.mark.parametrize("shape", [(9, 3), (2, 5, 3), (0, 3), (3,)], ids=str)
@pytest.mark.parametrize("trained", [0, 1, 2])
def test_inference_and_frozen_layers(shape, trained):
    """Gradients of the last layers alone, or none."""
    model = KAN([3, 20, 2], dtype=torch.float64).requires_grad_(False)
    for layer in model.kan_layers[2 - trained :]:
        layer.requires_grad_()
    x = torch.rand(shape, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    parameters = [p for p in model.parameters() if p.requires_grad]
    both = []
    for call in (compiled, model):
        y = call(x)
        grads = torch.autograd.grad(y.square().sum(), parameters) if parameters else ()
        both.append([y.detach(), *grads])
        with torch.no_grad():
            both[-1].append(call(x))
    for got, want in zip(*both, strict=True):
        assert got.equal(want)


@pytest.mark.parametrize("op", ["layers", "layers_values", "layers_grad"])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_ops_keep_torchs_rules(op, scaled):
    layers = [
        KANLinear(*size, enable_standalone_scale_spline=scaled, dtype=torch.float64)
        for size in ((3, 4), (4, 2))
    ]
    parts = [layer.compiled_part() for layer in layers]
    tensors = [t.detach() for part in parts for t in part[:4] if t is not None]
    chain = ";".join(describe(part.basis, part.weight, part.grid, scaled) for part in parts)
    x, g = (torch.rand(9, n, dtype=torch.float64) for n in (3, 2))
    if op == "layers_grad":
        hidden, _ = torch.ops.kanfast.layers_values(x, tensors, chain)
        of_layer = [True, True, *[False] * scaled, False]
        needs = [True, *of_layer, *of_layer]
        arguments = (g, [x, hidden, *tensors], needs, chain)
    else:
        arguments = (x, tensors, chain)
    bare = getattr(torch.ops.kanfast, op).default
    torch.library.opcheck(bare, arguments)
    first, *others = arguments
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"forward-mode .* bare op"):
        bare(forward_ad.make_dual(first, first), *others)


@LEFT_TO_PYTHON
@pytest.mark.parametrize("before", [False, True], ids=["first", "after a plain call"])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_forward_mode(trained, before):
    model = KAN([3, 4, 2], dtype=torch.float64).requires_grad_(trained)
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.rand(5, 3, dtype=torch.float64)
    if before:
        compiled(x)
    torch.testing.assert_close(tangent(compiled, x), tangent(model, x))

"""Symbolic edges in layers and models: values, gradients, statistics, states, and the formula."""

import copy
import io
import pickle
from typing import Any

import pytest
import sympy
import torch
from cases import make_kan, rows
from torch import Tensor, nn

from kanfast import KAN, KANLinear, create_dataset
from kanfast.nn import symbols
from kanfast.symbolic import Library, default_library

DOUBLE = torch.float64


def fixed(x: Tensor | None = None) -> KAN:
    """[3, 2, 2] with three symbolic edges, one of them fitted."""
    model = make_kan(3, 2, 2)
    model.get_act(rows(80, 3) if x is None else x)
    model.fix_symbolic(0, 1, 0, "sin", fit_params_bool=False)
    model.fix_symbolic(0, 2, 1, "x^2")
    model.fix_symbolic(1, 0, 1, "exp", fit_params_bool=False)
    with torch.no_grad():
        model.kan_layers[1].symbolic.affine[1, 0] = torch.tensor([0.5, 0.1, -2.0, 3.0])
    return model


def dense(layer: KANLinear, x: Tensor) -> Tensor:
    """phi [rows, O, I], an edge at a time through layers with all other edges removed."""
    phi = x.new_zeros(len(x), layer.out_features, layer.in_features)
    for o in range(layer.out_features):
        for i in range(layer.in_features):
            only, alive = copy.deepcopy(layer), torch.zeros(phi.shape[1:], dtype=torch.bool)
            alive[o, i] = True
            symbols.keep_edges(only, alive)
            phi[:, o, i] = only(x)[:, o]
    return phi


def test_a_symbolic_edge_replaces_its_spline() -> None:
    model, x = make_kan(3, 2), rows(20, 3)
    before = dense(model.kan_layers[0], x)
    model.fix_symbolic(0, 1, 0, "sin", fit_params_bool=False)
    before[:, 0, 1] = torch.sin(x[:, 1])
    torch.testing.assert_close(model(x), before.sum(-1), rtol=0, atol=1e-13)
    layer = model.kan_layers[0]
    assert layer.mask.tolist() == [[True, False, True], [True, True, True]]
    assert layer.edge_mask.all()
    assert model.n_edge == 6


def test_unfixing_brings_the_spline_back() -> None:
    model, x = make_kan(3, 2), rows(20, 3)
    expected, names = model(x), list(model.state_dict())
    model.fix_symbolic(0, 1, 0, "sin", x=x)
    model.fix_symbolic(0, 2, 1, "tanh", x=x)
    assert not torch.allclose(model(x), expected)
    model.unfix_symbolic(0, 1, 0)
    assert list(model.kan_layers[0].symbolic.functions) == [(1, 2)]
    model.unfix_symbolic_all()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert list(model.state_dict()) == names
    assert model.kan_layers[0].symbolic is None


@pytest.mark.parametrize("unfused", [False, True])
@pytest.mark.parametrize("both", [False, True], ids=["symbolic", "with its spline"])
def test_statistics_are_those_of_dense_activations(both: bool, unfused: bool) -> None:
    x = rows(300, 3)
    model = make_kan(3, 2, base_activation=nn.ELU if unfused else nn.SiLU)
    model.fix_symbolic(0, 1, 0, "sin", fit_params_bool=False)
    model.fix_symbolic(0, 2, 1, "x^2", x=x)
    layer = model.kan_layers[0]
    phi = dense(layer, x)
    if both:
        other = make_kan(3, 2, base_activation=nn.ELU if unfused else nn.SiLU).kan_layers[0]
        phi[:, 0, 1] += dense(other, x)[:, 0, 1]
        symbols.set_numeric(layer, 0, 1, True)
    torch.testing.assert_close(layer(x), phi.sum(-1), rtol=0, atol=1e-12)
    found = layer.edge_statistics(x)
    expected = (phi.mean(0), phi.abs().mean(0), phi.std(0), phi.amin(0), phi.amax(0))
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12, msg=name)
    single = layer.edge_statistics(x[:1])
    torch.testing.assert_close(single.mean, phi[0], rtol=0, atol=1e-12)
    assert (single.std == 0).all()


def test_statistics_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = fixed(), rows(50, 3)
    model.fix_symbolic(0, 0, 0, "sin", x=x)
    whole = model.kan_layers[0].edge_statistics(x)
    monkeypatch.setattr(symbols, "CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(model.kan_layers[0].edge_statistics(x), whole, rtol=0, atol=1e-15)


def test_gradients_of_statistics() -> None:
    model = fixed()
    layer = model.kan_layers[0]
    symbols.set_numeric(layer, 0, 1, True)
    x = rows(9, 3, seed=3).requires_grad_()
    weights = [torch.randn(2, 3, dtype=DOUBLE) for _ in range(5)]

    def total(x: Tensor, affine: Tensor, weight: Tensor) -> Tensor:
        values = {"symbolic.affine": affine, "spline_weight": weight}
        state = {f"layer.{n}": values.get(n, p.detach()) for n, p in layer.named_parameters()}
        found = torch.func.functional_call(_Statistics(layer), state, (x,))
        return sum((w * s).sum() for w, s in zip(weights, found, strict=True))

    affine = layer.symbolic.affine.detach().clone().requires_grad_()
    weight = layer.spline_weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(total, (x, affine, weight))


class _Statistics(nn.Module):
    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.layer.edge_statistics(x))


def test_state_dicts_copies_and_pickles() -> None:
    model, x = fixed(), rows(20, 3)
    expected = model(x)
    other = make_kan(3, 2, 2)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.refine(4)):
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=1e-13)
        assert twin.n_edge == 10
    assert model.float()(x.float()).dtype == torch.float32
    torch.testing.assert_close(model(x.float()).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_symbolic_edges_are_trained_and_differentiable(fresh_compiler: None) -> None:
    model, x = fixed(), rows(20, 3)
    model(x).square().sum().backward()
    grad = model.kan_layers[0].symbolic.affine.grad
    assert (grad[0, 1] != 0).any()
    assert (grad[0, 0] == 0).all()
    assert torch.autograd.gradgradcheck(model, (x.requires_grad_(),))
    hessian = torch.func.vmap(torch.func.hessian(lambda row: model(row).sum()))(x)
    assert hessian.shape == (20, 3, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-12)


def test_all_edges_symbolic() -> None:
    model, x = make_kan(2, 1), rows(10, 2)
    model.fix_symbolic(0, 0, 0, "x^2", fit_params_bool=False)
    model.fix_symbolic(0, 1, 0, "sin", fit_params_bool=False)
    expected = x[:, :1] ** 2 + x[:, 1:].sin()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-14)
    assert model(x[:0]).shape == (0, 1)
    half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected, rtol=0.02, atol=0.02)


def test_pruning_keeps_and_removes_symbolic_edges() -> None:
    model, x = fixed(), rows(80, 3)
    kept = model.prune_node(mode="manual", active_neurons_id=[[0]])
    assert list(kept.kan_layers[0].symbolic.functions) == [(0, 1)]
    assert list(kept.kan_layers[1].symbolic.functions) == [(1, 0)]
    only = copy.deepcopy(model)
    only.remove_node(1, 1)
    torch.testing.assert_close(kept(x), only(x), rtol=0, atol=1e-13)
    assert only.n_edge == 5
    narrow = model.prune_input(active_inputs=[1, 2])
    assert set(narrow.kan_layers[0].symbolic.functions) == {(0, 0), (1, 1)}
    model.remove_edge(0, 1, 0)
    assert list(model.kan_layers[0].symbolic.functions) == [(1, 2)]
    assert model.n_edge == 9
    assert not model.kan_layers[0].edge_mask[0, 1]
    model.remove_edge(0, 2, 1)
    assert model.kan_layers[0].symbolic is None
    model.prune_edge(0.0)
    assert model.n_edge == 8


def test_the_prune_of_a_symbolic_model_scores_its_symbolic_edges() -> None:
    model, x = make_kan(2, 1), rows(60, 2)
    model.fix_symbolic(0, 0, 0, "sin", fit_params_bool=False)
    model.fix_symbolic(0, 1, 0, "x", fit_params_bool=False)
    with torch.no_grad():
        model.kan_layers[0].symbolic.affine[0, 1, 2] = 1e-6
    pruned = model.prune_edge(x=x)
    assert list(pruned.kan_layers[0].symbolic.functions) == [(0, 0)]


def test_fits_of_an_edge_are_as_good_as_its_samples() -> None:
    model, x = make_kan(1, 1), rows(200, 1)
    model.fix_symbolic(0, 0, 0, "sin", fit_params_bool=False)
    with torch.no_grad():
        model.kan_layers[0].symbolic.affine[0, 0] = torch.tensor([3.1, 0.4, -2.0, 1.5])
    report = model.suggest_symbolic(0, 0, 0, x=x)
    assert report.best.name == "sin"
    assert report.best.r2 > 1 - 1e-12
    assert len(model.suggest_symbolic(0, 0, 0, lib=["sin", "x"], topk=9, x=x).candidates) == 2
    expected = model(x)
    assert model.fix_symbolic(0, 0, 0, "cos", x=x) > 1 - 1e-12
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-8)


def test_ranges_are_kept_to() -> None:
    model, x = make_kan(1, 1), rows(200, 1)
    model.fix_symbolic(0, 0, 0, "sin", fit_params_bool=False)
    with torch.no_grad():
        model.kan_layers[0].symbolic.affine[0, 0] = torch.tensor([3.1, 0.4, -2.0, 1.5])
    far = copy.deepcopy(model)
    r2 = model.fix_symbolic(0, 0, 0, "sin", a_range=(-4, -2), b_range=(-1, 1), x=x)
    a, b, c, d = model.kan_layers[0].symbolic.affine[0, 0].tolist()
    assert r2 > 1 - 1e-9
    assert (a, b, c, d) == pytest.approx((-3.1, -0.4, 2.0, 1.5), abs=1e-4)
    r2 = far.fix_symbolic(0, 0, 0, "sin", a_range=(0, 2), x=x)
    assert 0 <= far.kan_layers[0].symbolic.affine[0, 0, 0] <= 2
    assert r2 < 0.99
    with pytest.raises(ValueError, match=r"a_range of finite numbers low <= high, got \(1, 0\)"):
        far.fix_symbolic(0, 0, 0, "sin", a_range=(1, 0), x=x)


def formula_model() -> tuple[KAN, Any]:
    dataset = create_dataset(
        lambda x: torch.sin(2 * x[:, [0]]) + x[:, [1]] ** 2, train_num=400, dtype=DOUBLE
    )
    model = make_kan(2, 1, grid_size=10, scale_noise=0.1)
    model.fit(dataset, steps=20, log=0)
    return model, dataset


def test_from_a_fit_to_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    model, dataset = formula_model()
    reports = model.auto_symbolic()
    assert list(reports) == [(0, 0, 0), (0, 1, 0)]
    assert [report.best.name for report in reports.values()] == ["sin", "x^2"]
    assert model.auto_symbolic() == {}
    assert capsys.readouterr().out == ""
    history = model.fit(dataset, steps=20, log=0)
    assert history["test_loss"][-1] < 1e-10
    formula = model.symbolic_formula(var=["u", "v"])
    u, v = sympy.symbols("u v")
    assert sympy.simplify(formula.rounded(4).outputs[0] - (sympy.sin(2 * u) + v**2)) == 0
    expressions, variables = formula
    assert (expressions, variables) == (list(formula.outputs), [u, v])
    assert formula[0][0] == formula.outputs[0]
    x = dataset["test_input"]
    torch.testing.assert_close(formula(x), model(x).detach(), rtol=0, atol=1e-10)


def test_reports_are_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = formula_model()
    model.suggest_symbolic(0, 0, 0, verbose=True)
    assert "edge (0, 0, 0)" in capsys.readouterr().out
    model.fix_symbolic(0, 0, 0, "sin", verbose=True)
    assert "edge (0, 0, 0) is sin, r2 = 0.99" in capsys.readouterr().out
    model.auto_symbolic(verbose=1)
    assert "edge (0, 1, 0) is x^2, r2 = " in capsys.readouterr().out


def test_a_threshold_leaves_splines_and_the_formula_names_them() -> None:
    model, _ = formula_model()
    reports = model.auto_symbolic(lib=["abs", "x^2"], r2_threshold=0.99)
    assert set(reports) == {(0, 0, 0), (0, 1, 0)}
    with pytest.raises(ValueError, match=r"1 edges are still splines.*: \(0, 0, 0\); call auto"):
        model.symbolic_formula()
    model.remove_edge(0, 0, 0)
    assert model.symbolic_formula().outputs[0].free_symbols == {sympy.Symbol("x_2")}


def test_formulas_undo_normalisers_and_selected_inputs() -> None:
    model, x = make_kan(3, 1), rows(10, 3)
    for i, name in enumerate(("x", "x^2", "sin")):
        model.fix_symbolic(0, i, 0, name, fit_params_bool=False)
    narrow = model.prune_input(active_inputs=[0, 2])
    expected = narrow((x - 1) / 2).detach() * 3 + 4
    formula = narrow.symbolic_formula(
        ["a", "b", "c"], normalizer=(torch.ones(3), [2, 2, 2]), output_normalizer=([4], [3])
    )
    assert formula.outputs[0].free_symbols == set(sympy.symbols("a c"))
    torch.testing.assert_close(formula(x), expected, rtol=0, atol=1e-12)


def test_functions_of_a_library_of_ones_own() -> None:
    library = Library([default_library()["x"]])
    library.add("cube", lambda x: x**3, sympy_fun=lambda x: x**3)
    model, x = make_kan(1, 1), rows(50, 1)
    model.auto_symbolic(lib=library, x=x)
    assert model.kan_layers[0].symbolic.library is library
    model.symbolic_formula()
    with pytest.raises(KeyError, match="no symbolic function 'sin' in this library"):
        model.fix_symbolic(0, 0, 0, "sin", x=x)


def test_errors() -> None:
    model = make_kan(3, 2)
    with pytest.raises(ValueError, match="this needs samples"):
        model.fix_symbolic(0, 0, 0, "sin")
    with pytest.raises(KeyError, match="no symbolic function 'sine'"):
        model.fix_symbolic(0, 0, 0, "sine")
    own = Library()
    with pytest.raises(KeyError, match=r"another function is called 'sin' .* a name of its own"):
        model.fix_symbolic(0, 0, 0, own.add("sin", torch.sin, overwrite=True), x=rows(9, 3))
    for call in (model.suggest_symbolic, model.unfix_symbolic):
        with pytest.raises(IndexError, match="output j of layer 0 must be 0 to 1, got 2"):
            call(0, 0, 2)
    with pytest.raises(IndexError, match="layer l must be 0 to 0, got 1"):
        model.unfix_symbolic(1, 0, 0)
    with pytest.raises(ValueError, match="6 edges are still splines"):
        model.symbolic_formula()
    assert all(layer.symbolic is None and layer.mask is None for layer in model.kan_layers)

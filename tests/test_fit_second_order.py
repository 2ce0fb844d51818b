"""`fit` by Levenberg-Marquardt: what it reaches, and all that the contract of `fit` says."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import unchanged_generators
from torch import Tensor, nn

from kanfast import KAN, create_dataset
from kanfast.interpret import fit as fitting


def toy(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)


def product(x: Tensor) -> Tensor:
    return x[:, [0]] * x[:, [1]]


def dataset(f: Any = toy, rows: int = 200, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return create_dataset(f, train_num=rows, test_num=100, dtype=dtype)


def make(widths: Any = (2, 1, 1), **options: Any) -> KAN:
    torch.manual_seed(0)
    return KAN(widths, **{"grid_size": 3, "dtype": torch.float64} | options)


def loss(model: KAN, data: dict[str, Tensor], split: str = "test") -> float:
    with torch.no_grad():
        error = model(data[f"{split}_input"]) - data[f"{split}_label"]
    return float(error.double().square().mean().sqrt())


def test_grids_are_refined_as_long_as_held_out_rows_say_so() -> None:
    model, data = make(), dataset(rows=600)
    history = model.fit(data, restarts=12, grids=(3, 5, 10, 20), log=0)
    sizes = [stage.grid_size for stage in history.stages]
    assert sizes == [3, 5, 10, 20][: len(sizes)]
    best = min(history.stages, key=lambda stage: stage.held_out_loss)
    assert model.grid_size == best.grid_size >= 10
    assert loss(model, data) < 1e-3
    assert history["train_loss"][-1] == pytest.approx(loss(model, data, "train"), rel=1e-6)
    assert history["test_loss"][-1] == pytest.approx(loss(model, data), rel=1e-6)
    assert len(history.starts) == 12


def test_noise_keeps_grids_coarse() -> None:
    data = dataset(rows=200)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(data["train_label"].shape, generator=generator, dtype=torch.float64)
    data["train_label"] = data["train_label"] + 0.3 * noise
    model = make()
    model.fit(data, restarts=8, grids=(3, 6, 12, 24, 48), log=0)
    assert model.grid_size <= 12
    assert loss(model, data) < 0.3


def test_the_best_start_is_kept_and_nothing_global_is_reseeded() -> None:
    data, runs = dataset(), []
    for seed in (1, 1, 2):
        model = make()
        with unchanged_generators():
            history = model.fit(data, "LM", restarts=6, steps=40, seed=seed, log=0)
        assert min(history.starts) == pytest.approx(history["train_loss"][-1], rel=1e-6)
        runs.append((history["train_loss"], [p.tolist() for p in model.parameters()]))
    assert runs[0] == runs[1] != runs[2]


def test_a_trained_model_is_its_own_first_start() -> None:
    data = dataset()
    model = make()
    model.fit(data, "LM", restarts=8, log=0)
    reached = loss(model, data, "train")
    history = model.fit(data, log=0)
    assert len(history.starts) == 1
    assert loss(model, data, "train") <= reached * (1 + 1e-9)
    model.fit(data, "LM", restarts=4, log=0)
    assert loss(model, data, "train") <= reached * (1 + 1e-9)


SCALES = [(1e30, 1.0), (1e-30, 1.0), (1.0, 1e30), (1.0, 1e-30), (1e30, 1e-30), (3e5, 2e5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("inputs", "labels"), SCALES)
def test_any_units_train_alike(inputs: float, labels: float, dtype: torch.dtype) -> None:
    def relative_error(x_unit: float, y_unit: float) -> float:
        data = dataset(dtype=dtype)
        data |= {key: data[key] * (x_unit if "input" in key else y_unit) for key in data}
        model = make((2, 2, 1), dtype=dtype, base_activation=None)
        model.fit(data, steps=30, restarts=6, log=0)
        return loss(model, data, "train") / y_unit

    assert relative_error(inputs, labels) < 1.1 * relative_error(1.0, 1.0) + 1e-6


def test_float32_models_stay_float32() -> None:
    model, data = make((2, 2, 1), dtype=torch.float32), dataset(product, dtype=torch.float32)
    model.fit(data, log=0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.layers[0].grid.dtype == torch.float32
    assert loss(model, data) < 2e-3


def test_rank_deficient_equations() -> None:
    """Fewer rows than parameters, an input without effect on the rows, one that is constant."""
    data = dataset(rows=20)
    for key in ("train_input", "test_input"):
        constant = torch.full_like(data[key][:, :1], 0.5)
        data[key] = torch.cat([data[key], constant, data[key][:, :1]], -1)
    model = make((4, 3, 1))
    history = model.fit(data, log=0)
    assert loss(model, data, "train") < 1e-2
    assert all(p.isfinite().all() for p in model.parameters())
    assert torch.tensor(history["test_loss"]).isfinite().all()


def test_labels_that_are_all_the_same() -> None:
    data = dataset(lambda x: 0 * x[:, [0]] + 3.0)
    model = make()
    model.fit(data, log=0, grids=(3, 5))
    assert loss(model, data) < 1e-6


def test_frozen_parameters_keep_every_bit() -> None:
    model, data = make((2, 3, 1)), dataset()
    model.layers[0].requires_grad_(False)
    before = copy.deepcopy(model.layers[0].state_dict())
    model.fit(data, grids=(3, 6), restarts=3, log=0)
    for name, tensor in model.layers[0].state_dict().items():
        assert torch.equal(before[name], tensor)
    assert model.layers[1].grid_size in (3, 6)


def test_knots_stay_without_updates_of_the_grid() -> None:
    model, data = make((2, 3, 1)), dataset()
    grids = [layer.grid.clone() for layer in model.layers]
    model.fit(data, "LM", update_grid=False, restarts=4, log=0)
    assert all(torch.equal(a, b.grid) for a, b in zip(grids, model.layers, strict=True))
    assert loss(model, data) < 0.3


def test_weights_are_as_repeated_rows() -> None:
    data = dataset(rows=60)
    weight = torch.arange(60) % 3
    repeated = data | {
        key: data[key].repeat_interleave(weight, 0) for key in ("train_input", "train_label")
    }
    options: dict[str, Any] = {"steps": 6, "log": 0, "update_grid": False, "restarts": 1}
    first, second = make((2, 2, 1)), make((2, 2, 1))
    a = first.fit(data, "LM", sample_weight=weight, **options)
    b = second.fit(repeated, "LM", **options)
    assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
    first, second = make((2, 2, 1)), make((2, 2, 1))
    options = {"steps": 5, "log": 0, "update_grid": False, "lr": 0.1}
    a = first.fit(data, "SGD", sample_weight=weight, **options)
    b = second.fit(repeated, "SGD", **options)
    assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)


def test_ctrl_c_leaves_the_best_so_far() -> None:
    model, data, seen = make(), dataset(), []

    def interrupt() -> float:
        seen.append(loss(model, data, "train"))
        if len(seen) == 7:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        model.fit(data, "LM", metrics=[interrupt], restarts=3, log=0)
    assert loss(model, data, "train") <= min(seen) * (1 + 1e-9)


def test_labels_that_are_not_finite_end_training_with_a_warning() -> None:
    model, data = make(), dataset()
    data["train_label"][3] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(RuntimeWarning, match="stopped at step 0: the training loss is nan"):
        history = model.fit(data, "LM", update_grid=False, log=0)
    assert history["train_loss"] == []
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_rows_drawn_for_each_step() -> None:
    model, data = make((2, 2, 1)), dataset(rows=400)
    model.fit(data, "LM", batch=100, steps=30, restarts=1, log=0)
    assert loss(model, data) < 0.5


def test_ensembles_are_all_of_the_starts() -> None:
    model, data = make(), dataset()
    networks, history = model.fit_starts(data, restarts=5, steps=10)
    assert len(networks) == len(history.starts) == 5
    losses = [loss(network, data, "train") for network in networks]
    assert losses == sorted(losses)
    assert losses == pytest.approx(sorted(history.starts), rel=1e-6)
    assert model.samples is None


def test_second_order_is_taken_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = [], fitting.train

    def train(*args: Any) -> Any:
        seen.append(True)
        return original(*args)

    monkeypatch.setattr(fitting, "train", train)
    data = dataset(rows=40)
    make().fit(data, steps=1, log=0)
    assert len(seen) == 1
    for options in ({"lamb": 1e-3}, {"batch": 10}, {"loss_fn": nn.MSELoss()}, {"opt": "LBFGS"}):
        make().fit(data, steps=1, log=0, **options)
    make((2, 40, 1), grid_size=20).fit(data, steps=1, log=0)
    model = make()
    model.extra = nn.Parameter(torch.zeros(1))
    model.fit(data, steps=1, log=0, opt="SGD", lr=1e-3)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opt": "LM", "loss_fn": nn.MSELoss()}, "minimises the mean squared error"),
        ({"opt": "LM", "lamb": 1e-3}, "has no penalty"),
        ({"opt": "LM", "restarts": 0}, "restarts must be 1 or more, got 0"),
        ({"opt": "Adam", "restarts": 3}, "restarts and grids need opt=\"LM\", got opt='Adam'"),
        ({"lamb": 0.1, "grids": (3, 5)}, "a training that is left to L-BFGS"),
        ({"grids": (5, 3)}, "ascending"),
        ({"grids": ()}, "ascending"),
        ({"sample_weight": torch.ones(3)}, r"sample_weight must be \[200\], got \[3\]"),
        ({"sample_weight": -torch.ones(200)}, "finite numbers of 0 or more"),
        ({"sample_weight": torch.ones(200), "loss_fn": nn.MSELoss()}, "weigh in it"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().fit(dataset(), log=0, **options)


def test_other_parameters_are_an_obstacle() -> None:
    model = make(base_activation=lambda: nn.PReLU(dtype=torch.float64))
    with pytest.raises(ValueError, match=r"base_activation.weight is none of the parameters"):
        model.fit(dataset(), "LM", log=0)


def test_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make().fit(dataset(), steps=2, log=0)
    assert list(tmp_path.iterdir()) == []

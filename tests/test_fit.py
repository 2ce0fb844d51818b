"""Training: pykan's numbers where it is installed, and behaviour pykan lacks."""

import contextlib
import copy
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import unchanged_generators
from torch import Tensor, nn

from kanfast import KAN, create_dataset
from kanfast.interpret import descent, optimizer


def product(x: Tensor) -> Tensor:
    return x[:, [0]] * x[:, [1]]


def small_dataset(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return create_dataset(product, train_num=60, test_num=40, dtype=dtype)


def make(widths: tuple[int, ...] = (2, 2, 1), **options: Any) -> KAN:
    torch.manual_seed(0)
    return KAN(widths, **{"grid_size": 3, "dtype": torch.float64} | options)


@pytest.mark.parametrize("lamb", [0.0, 1e-3])
def test_the_first_step_is_pykans(lamb: float, pykan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 iterations; later ones amplify differences of rounding."""
    # Units change the length of the first trial step.
    monkeypatch.setattr(optimizer, "_LBFGS_START", {})
    monkeypatch.setattr(descent, "scale_of", lambda labels: 1.0)
    monkeypatch.setattr(optimizer, "_LBFGS_HISTORY", 10)
    theirs = pykan.KAN([2, 3, 1], grid=4, k=3, seed=1, auto_save=False)
    ours = KAN.from_pykan(theirs)
    data = small_dataset()
    with contextlib.redirect_stderr(io.StringIO()):
        expected = theirs.fit(data, steps=1, lamb=lamb, update_grid=False)
    found = ours.fit(data, "LBFGS", steps=1, lamb=lamb, update_grid=False, log=0)
    assert found.keys() == expected.keys()
    for name in ("train_loss", "test_loss", *(["reg"] if lamb else [])):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_lbfgs_learns_to_the_precision_of_float64() -> None:
    """Splines of degree 2 can represent this; a loss of 1e-20 does not stop torch's L-BFGS."""
    data = create_dataset(
        lambda x: x[:, [0]] ** 2 - x[:, [1]], train_num=80, test_num=40, dtype=torch.float64
    )
    model = make((2, 1), spline_order=2)
    history = model.fit(data, steps=25, update_grid=False, log=0)
    assert history["train_loss"][-1] < 1e-9
    assert history["test_loss"][-1] < 1e-9
    assert len(history["test_loss"]) == 25


@pytest.mark.parametrize(
    "opt",
    [
        "Adam",
        "AdamW",
        torch.optim.NAdam,
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
        lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"),
    ],
    ids=["Adam", "AdamW", "class", "SGD instance", "LBFGS instance"],
)
def test_any_optimizer_of_torch(opt: Any) -> None:
    model = make()
    if not isinstance(opt, (str, type)):
        opt = opt(model.parameters())
    history = model.fit(small_dataset(), opt=opt, steps=25, lr=0.02, log=0, update_grid=False)
    assert history["train_loss"][-1] < 0.99 * history["train_loss"][0]
    assert history["test_loss"][-1] < 0.99 * history["test_loss"][0]


def test_recorded_losses_are_those_of_the_model() -> None:
    model, data = make(), small_dataset()
    history = model.fit(data, steps=3, lamb=1e-3, log=0)
    with torch.no_grad():
        for split in ("train", "test"):
            error = model(data[f"{split}_input"]) - data[f"{split}_label"]
            assert history[f"{split}_loss"][-1] == pytest.approx(error.square().mean().sqrt())
        assert history["reg"][-1] == pytest.approx(model.regularization().item())


def test_history_of_other_losses_and_metrics() -> None:
    model, data = make(), small_dataset()

    def steps_so_far() -> Tensor:
        return torch.tensor(float(next(counter)))

    counter = iter(range(100))
    history = model.fit(
        data, opt="Adam", steps=4, lr=0.01, loss_fn=nn.L1Loss(), metrics=[steps_so_far], log=0
    )
    assert history["steps_so_far"] == [0, 1, 2, 3]
    with torch.no_grad():
        error = (model(data["test_input"]) - data["test_label"]).abs().mean()
    assert history["test_loss"][-1] == pytest.approx(error.item())
    assert history["reg"] == [0, 0, 0, 0]


def test_penalties_make_edges_smaller() -> None:
    model, data = make((2, 4, 1)), small_dataset()
    plain, sparse = copy.deepcopy(model), model
    plain.fit(data, steps=8, log=0)
    sparse.fit(data, steps=8, log=0, lamb=0.05, reg_metric="edge_forward_l1")
    assert sparse.regularization(reg_metric="edge_forward_l1") < 0.5 * plain.regularization(
        reg_metric="edge_forward_l1"
    )


def test_grid_updates_happen_when_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    model, step, updates = make(), iter(range(100)), []

    def count() -> float:
        return next(step)

    original = KAN.update_grid_from_samples

    def update(self: KAN, x: Tensor) -> None:
        updates.append(len(updates_seen["count"]))
        original(self, x)

    history: dict[str, list[float]] = {}
    updates_seen = {"count": history.setdefault("count", [])}
    monkeypatch.setattr(KAN, "update_grid_from_samples", update)

    def tick() -> float:
        history["count"].append(0)
        return count()

    options: dict[str, Any] = {"opt": "Adam", "steps": 12, "lr": 0.01, "log": 0, "metrics": [tick]}
    schedule = {"grid_update_num": 3, "start_grid_update_step": 2, "stop_grid_update_step": 9}
    model.fit(small_dataset(), **options, **schedule)
    assert updates == [3, 6]  # every 9 // 3 steps, from 2 on, before 9
    model.fit(small_dataset(), **options, **schedule, update_grid=False)
    assert len(updates) == 2


def test_knots_follow_the_samples() -> None:
    data = create_dataset(product, ranges=[2, 3], train_num=50, test_num=20, dtype=torch.float64)
    model = make()
    model.fit(data, "LBFGS", steps=1, log=0)
    low, high = model.layers[0].grid[:, 3], model.layers[0].grid[:, -4]
    torch.testing.assert_close(low, data["train_input"].min(0).values)
    torch.testing.assert_close(high, data["train_input"].max(0).values)


def test_batches_are_drawn_from_a_generator_of_their_own() -> None:
    data, runs = small_dataset(), []
    arguments = copy.deepcopy(data)
    for seed in (1, 1, 2):
        model, sizes = make(), []
        model.layers[0].register_forward_pre_hook(lambda _, args, s=sizes: s.append(len(args[0])))
        with unchanged_generators():
            history = model.fit(
                data, opt="SGD", steps=3, lr=0.1, batch=45, seed=seed, log=0, update_grid=False
            )
        assert set(sizes) == {45, 40}  # there are no more test rows than 40
        runs.append(history["train_loss"])
    assert runs[0] == runs[1] != runs[2]
    assert all(torch.equal(data[key], arguments[key]) for key in data)


def test_frozen_parameters_stay() -> None:
    model = make()
    model.layers[0].requires_grad_(False)
    before = copy.deepcopy(model.layers[0].state_dict())
    model.fit(small_dataset(), steps=2, log=0, update_grid=False)
    assert all(torch.equal(before[k], v) for k, v in model.layers[0].state_dict().items())


@pytest.mark.parametrize("opt", ["LBFGS", "SGD"])
def test_stops_at_nan_with_the_last_good_parameters(opt: str) -> None:
    model, data = make(), small_dataset()
    model.fit(data, opt="Adam", lr=0.01, steps=2, log=0)
    good = copy.deepcopy(model.state_dict())
    spoiled = {"when": 3}

    def loss(prediction: Tensor, label: Tensor) -> Tensor:
        value = (prediction - label).square().mean()
        return value * torch.nan if spoiled["when"] <= 0 else value

    def count() -> float:
        nonlocal good
        spoiled["when"] -= 1
        good = copy.deepcopy(model.state_dict())
        return 0.0

    with pytest.warns(
        RuntimeWarning, match=r"stopped at step 3: the training loss is nan.*as it was"
    ):
        history = model.fit(
            data, opt=opt, lr=0.1, steps=9, loss_fn=loss, metrics=[count], log=0, update_grid=False
        )
    assert len(history["train_loss"]) == len(history["count"]) == 3
    assert all(torch.equal(good[k], v) for k, v in model.state_dict().items())
    assert model(data["test_input"]).isfinite().all()


def test_diverging_training_stops_by_itself() -> None:
    model = make(dtype=torch.float32)
    data = small_dataset(torch.float32)
    with pytest.warns(RuntimeWarning, match="Try a smaller lr"):
        model.fit(data, opt="SGD", lr=1e25, steps=20, log=0, update_grid=False)
    assert model(data["train_input"]).isfinite().all()


def test_no_files_and_no_output_without_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make().fit(small_dataset(), steps=2, log=0)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_losses(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    make().fit(small_dataset(), steps=3, log=2)
    shown = capsys.readouterr().err
    assert "train_loss: " in shown
    assert "test_loss: " in shown
    assert "3/3" in shown


def test_without_tqdm(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert len(make().fit(small_dataset(), steps=2)["train_loss"]) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dataset": {"train_input": torch.zeros(1, 2)}}, ValueError, "'train_label' is missing"),
        ({"dataset": small_dataset() | {"test_label": [1]}}, TypeError, "must be a tensor"),
        (
            {"dataset": small_dataset() | {"test_label": torch.zeros(3, 1)}},
            ValueError,
            "same number of rows, at least one, got 40 and 3",
        ),
        (
            {"dataset": small_dataset() | {"train_label": torch.zeros(60)}},
            ValueError,
            r"shape of the model's output, \[60, 1\], got \[60\]",
        ),
        ({"opt": "Newton"}, ValueError, "opt must be .*got 'Newton'"),
        ({"opt": 3}, TypeError, "opt must be .*got 3"),
        ({"reg_metric": "l1"}, ValueError, "reg_metric must be one of .*got 'l1'"),
        ({"grid_update_num": 0}, ValueError, "use update_grid=False"),
        ({"batch": 0}, ValueError, "batch must be -1"),
        ({"steps": -1}, ValueError, "steps must be 0 or more"),
    ],
)
def test_fit_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make().fit(**{"dataset": small_dataset(), "log": 0} | change)


def test_errors_about_parameters() -> None:
    model = make()
    with pytest.raises(ValueError, match="holds no parameter of this model"):
        model.fit(small_dataset(), opt=torch.optim.Adam(make().parameters()))
    with pytest.raises(ValueError, match="nothing to train: no parameter of the model requires"):
        model.requires_grad_(False).fit(small_dataset())


def test_the_end_of_a_line_search_is_no_failure() -> None:
    dataset = create_dataset(lambda x: x[:, [0]], n_var=1, train_num=20, dtype=torch.float64)
    model, steps = KAN([1, 1], dtype=torch.float64), [0]
    before = copy.deepcopy(model.state_dict())

    def flat(prediction: Tensor, label: Tensor) -> Tensor:
        """A loss that nothing lowers, and NaN in one step."""
        return 0 * prediction.sum() + (torch.nan if steps[0] == 3 else 1.0)

    def count() -> int:
        steps[0] += 1
        return steps[0]

    history = model.fit(dataset, steps=4, log=0, loss_fn=flat, metrics=[count], update_grid=False)
    assert history["train_loss"] == history["test_loss"] == [1.0] * 4
    assert history["count"] == [1, 2, 3, 4]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    steps[0] = 2  # the loss before the NaN is not known to have settled
    with pytest.warns(RuntimeWarning, match="training stopped at step 1"):
        model.fit(dataset, steps=4, log=0, loss_fn=flat, metrics=[count], update_grid=False)


def test_lbfgs_on_one_vector_takes_the_steps_of_lbfgs_on_the_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit: the same optimizer, on the same numbers."""
    monkeypatch.setattr(optimizer, "_unit_of", lambda value, dtype: 2.0**60)
    data = small_dataset()
    fitted = []
    for own in (True, False):
        model = make((2, 3, 1))
        model.layers[0].base_weight.requires_grad_(False)
        opt: Any = "LBFGS"
        if not own:
            vector = optimizer.make_optimizer(model, "LBFGS", 1.0)
            settings = dict(vector._lbfgs.defaults)
            opt = torch.optim.LBFGS([p for p in model.parameters() if p.requires_grad], **settings)

        def loss(prediction: Tensor, label: Tensor, own: bool = own) -> Tensor:
            unit = 1.0 if own else 2.0**60
            return unit * nn.functional.mse_loss(prediction, label)

        model.fit(
            data, opt=opt, steps=4, log=0, loss_fn=loss, grid_update_num=2, stop_grid_update_step=3
        )
        fitted.append(list(model.parameters()))
    assert all(map(torch.equal, *fitted))


def test_the_point_between_two_steps_is_evaluated_once_and_only_if_nothing_changed() -> None:
    data = small_dataset()
    model = make()
    steps = optimizer.make_optimizer(model, "LBFGS", 1.0)
    seen = []

    def evaluate() -> Tensor:
        seen.append([p.detach().clone() for p in model.parameters()])
        return nn.functional.mse_loss(model(data["train_input"]), data["train_label"])

    assert steps.step(evaluate, same=False)  # the line search ended where it last was
    after = [p.detach().clone() for p in model.parameters()]
    assert all(map(torch.equal, seen[-1], after))
    first = len(seen)
    steps.step(evaluate, same=True)
    assert not all(map(torch.equal, seen[first], after))
    after, first = [p.detach().clone() for p in model.parameters()], len(seen)
    steps.step(evaluate, same=False)
    assert all(map(torch.equal, seen[first], after))


SCALES = [(1e30, 1.0), (1e-30, 1.0), (1.0, 1e30), (1.0, 1e-30), (1e30, 1e-30), (3e5, 2e5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("inputs", "labels"), SCALES)
def test_lbfgs_trains_in_any_units(inputs: float, labels: float, dtype: torch.dtype) -> None:
    def relative_error(x_unit: float, y_unit: float) -> float:
        data = create_dataset(product, train_num=200, test_num=50, dtype=dtype)
        data |= {key: data[key] * (x_unit if "input" in key else y_unit) for key in data}
        history = make((2, 3, 1), dtype=dtype).fit(data, "LBFGS", steps=10, log=0)
        assert len(history["train_loss"]) == 10
        return history["train_loss"][-1] / y_unit

    # Far from 1 a SiLU is a ReLU, with a bend that splines have to smooth.
    assert relative_error(inputs, labels) < 5 * relative_error(1.0, 1.0) + 3e-2 * (inputs > 1)


def objective(model: KAN, data: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(data["train_input"]), data["train_label"]))


@pytest.mark.parametrize("opt", ["LBFGS", "Adam", "SGD"])
@pytest.mark.parametrize("call", [1, 2, 7, 25, 26, 40, 57])
def test_an_exception_leaves_the_best_parameters_seen(opt: str, call: int) -> None:
    model, data, seen = make(), small_dataset(), []

    def loss(prediction: Tensor, label: Tensor) -> Tensor:
        value = nn.functional.mse_loss(prediction, label)
        if len(prediction) == 60:
            seen.append(value.item())
            if len(seen) == call:
                raise KeyboardInterrupt
        return value

    lr = 1.0 if opt == "LBFGS" else 0.9  # far too large for the others: losses go up and down
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, opt, steps=60, lr=lr, loss_fn=loss, log=0, update_grid=False)
    assert objective(model, data) <= min(seen[: max(call - 1, 1)]) * (1 + 1e-9)


def test_entries_of_the_history_are_numbers_with_an_item() -> None:
    entry = make().fit(small_dataset(), steps=1, log=0)["train_loss"][-1]
    assert isinstance(entry, float)
    assert type(entry.item()) is float
    assert entry.item() == entry


def test_arrays_and_data_frames_are_datasets() -> None:
    pandas = pytest.importorskip("pandas")
    data = small_dataset()
    expected = make().fit(data, "SGD", steps=2, lr=0.1, log=0)
    arrays = {key: value.numpy() for key, value in data.items()}
    frames = {key: pandas.DataFrame(value) for key, value in arrays.items()}
    columns = frames | {key: frames[key][0] for key in ("train_label", "test_label")}
    for found in (arrays, frames, columns):
        assert make().fit(found, "SGD", steps=2, lr=0.1, log=0) == expected


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (torch.zeros(3, 2), r"got Tensor: use kanfast.create_dataset_from_data\(inputs, labels"),
        (np.zeros((3, 2)), r"got ndarray: use kanfast.create_dataset_from_data\(inputs, labels"),
        (torch.utils.data.TensorDataset(torch.zeros(3, 2)), r"from_data\(\*dataset.tensors\)"),
        (
            torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(3, 2))),
            r"from_data\(\*loader.dataset.tensors\)",
        ),
        (small_dataset() | {"test_label": np.array(["a"] * 40)}, "must hold numbers"),
    ],
    ids=["tensor", "array", "TensorDataset", "DataLoader", "strings"],
)
def test_what_is_no_dataset_is_told_what_is_expected(dataset: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make().fit(dataset)

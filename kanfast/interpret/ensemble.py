"""All the networks that second-order training makes of several starts."""

from __future__ import annotations

from typing import Any

from kanfast.interpret.dataset import Dataset, check_dataset, check_weight
from kanfast.interpret.descent import Settings
from kanfast.interpret.fit import check_second_order
from kanfast.interpret.history import History
from kanfast.interpret.newton.train import Search, train_all
from kanfast.nn.network import AnyNetwork


def fit_starts(
    network: AnyNetwork,
    dataset: Dataset,
    restarts: int,
    steps: int = 100,
    *,
    update_grid: bool = True,
    seed: int = 0,
    sample_weight: Any = None,
) -> tuple[list[AnyNetwork], History]:
    """Networks trained from several starts at once by `fit`'s "LM", of which none is dropped.

    For ensembles, and for code that chooses among minima itself:

        networks, history = model.fit_starts(dataset, restarts=8)
        spread = torch.stack([network(x) for network in networks]).std(0)

    Args:
        network: It is not changed; the first start is this network as it is.
        dataset, steps, update_grid, seed, sample_weight: As in `fit`.
        restarts: How many starts, at least 1.

    Returns:
        Copies of the network, that of the lowest training loss first, and the history of the best
        one; its `starts` are the losses in the order of the starts.

    Raises:
        ValueError, TypeError: As `fit`.
    """
    dataset = check_dataset(dataset, like=next(network.parameters()))
    settings = Settings(
        steps=steps,
        log=0,
        lamb=0.0,
        penalty=(0.0, 0.0, 0.0, 0.0),
        reg_metric="edge_forward_spline_n",
        update_grid=update_grid,
        grid_update_num=10,
        grid_update_steps=(-1, steps),
        loss_fn=None,
        batch=-1,
        metrics=(),
        seed=seed,
    )
    check_second_order(network, settings, restarts)
    weight = check_weight(sample_weight, dataset)
    return train_all(network, dataset, settings, Search(restarts, None, weight, keep_all=True))

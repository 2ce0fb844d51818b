"""A picture of a trained KAN: what it learned on every edge, and which edges matter.

    python examples/plot_kan.py

The network learns exp(sin(pi x) + y^2), with a penalty that leaves few edges. Writes kan.png, and
the training and one edge next to it. Needs `pip install "kanfast[run]"`.
"""

import torch
from matplotlib.figure import Figure

from kanfast import KAN, plot
from kanfast.interpret.dataset import create_dataset


def train(steps: int) -> tuple[KAN, dict[str, torch.Tensor], dict[str, list[float]]]:
    torch.manual_seed(0)
    dataset = create_dataset(
        lambda x: torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2), dtype=torch.float64
    )
    model = KAN([2, 5, 1], grid_size=3, dtype=torch.float64)
    history = model.fit(dataset, opt="LBFGS", steps=steps, lamb=0.002)
    return model, dataset, history


def draw(steps: int = 20) -> tuple[dict[str, Figure], float]:
    """The pictures by name, and the root mean squared error on the test rows."""
    model, dataset, history = train(steps)
    x = dataset["train_input"]
    title = r"$\exp(\sin(\pi x) + y^2)$"
    figures = {
        "kan.png": plot.network(model, x, in_vars=["x", "y"], out_vars=["f(x, y)"], title=title),
        "kan-edge.png": plot.edge(model, 0, i=0, o=0, x=x),
        "kan-training.png": plot.history(history),
    }
    return figures, history["test_loss"][-1]


def main(steps: int = 20) -> float:
    """The root mean squared error on the test rows."""
    return draw(steps)[1]


if __name__ == "__main__":
    figures, error = draw()
    for name, figure in figures.items():
        figure.savefig(name, dpi=120)
    print(f"root mean squared error: {error:.1e}; wrote {', '.join(figures)}")

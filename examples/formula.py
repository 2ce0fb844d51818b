"""From data to a formula in one call, and the picture of it.

    python examples/formula.py

1000 samples of exp(sin(pi x) + y^2) become a network of splines, and that becomes a formula. Writes
formula.png. Needs `pip install "kanfast[run]"`.
"""

import torch
from matplotlib.figure import Figure

from kanfast import KAN, create_dataset


def find(steps: int) -> tuple[str, Figure, float]:
    """The report as text, its picture, and the formula's root mean squared test error."""
    torch.manual_seed(0)
    dataset = create_dataset(
        lambda x: torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2), dtype=torch.float64
    )
    model = KAN([2, 5, 1], grid_size=5, dtype=torch.float64)
    report = model.explain(dataset, var=["x", "y"], steps=steps)
    return str(report), report.figure(), report.formula_accuracy.rmse


def main(steps: int = 20) -> float:
    """The formula's root mean squared error on the test rows."""
    return find(steps)[2]


if __name__ == "__main__":
    text, figure, _ = find(steps=20)
    figure.savefig("formula.png", dpi=120)
    print(f"{text}\n\nwrote formula.png")

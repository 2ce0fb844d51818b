"""Handwritten digits, with a training loop for efficient-kan in which only an import changed.

    python examples/digits.py

Needs `pip install "kanfast[run]"`.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

from kanfast import KAN  # was: from efficient_kan import KAN


def main(steps: int = 20) -> float:
    """Train for `steps` epochs; the accuracy on the test rows."""
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x / 8 - 1, dtype=torch.float32)
    rows, test_rows, labels, test_labels = train_test_split(
        x, torch.tensor(y), test_size=0.2, random_state=0, stratify=y
    )
    batches = DataLoader(TensorDataset(rows, labels), batch_size=64, shuffle=True)

    model = KAN([64, 32, 10])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    for epoch in range(steps):
        for batch, target in batches:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch), target)
            loss.backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            accuracy = (model(test_rows).argmax(1) == test_labels).float().mean().item()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()

"""`kanfast explain`: the formula it prints, the picture, and a line of help for bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from kanfast import create_dataset_from_data
from kanfast.cli.data import InputError, numbers

Run = Callable[..., tuple[int, str, str]]


def write(path: Path, rows: int = 150) -> Path:
    """Areas of circles beside a column that has nothing to do with them, and one of words."""
    rng = np.random.default_rng(0)
    radius, other = rng.uniform(20, 90, rows), rng.integers(0, 9, rows)
    lines = [
        f"{r:.3f},{k},word,{np.pi * float(f'{r:.3f}') ** 2:.12g}"
        for r, k in zip(radius, other, strict=True)
    ]
    path.write_text("\n".join(["radius,other,name,area", *lines]) + "\n")
    return path


@pytest.mark.slow
def test_a_formula_in_the_units_of_the_table(run: Run, tmp_path: Path) -> None:
    table, picture = write(tmp_path / "circles.csv"), tmp_path / "p.png"
    code, out, err = run(
        *("explain", "--csv", table, "--target", "area", "--drop", "name", "--hidden", 2),
        *("--functions", "x", "x^2", "x^3", "exp", "--seconds", 600, "--output", picture),
    )
    assert code == 0
    assert out.splitlines()[0] == "area = pi*radius**2"
    assert "on the test rows" in out
    assert out.endswith(f"Picture: {picture}\n")
    assert "constants" in err  # the progress
    height, width, _ = matplotlib.image.imread(picture).shape
    assert (width, height) == (1200, 624)


BAD = {
    "no table": ((), "the following arguments are required: --csv, --target"),
    "missing file": (
        ("--csv", "nowhere.csv", "--target", "area"),
        "cannot read nowhere.csv: No such file or directory; give a CSV file",
    ),
    "no column": (
        ("--csv", "circles.csv", "--target", "volume"),
        "has no column 'volume'; it has radius, other, name, area",
    ),
    "words": (
        ("--csv", "circles.csv", "--target", "area"),
        "line 2: 'name' holds 'word', not a number; encode the column as numbers or leave it out",
    ),
    "words as target": (
        ("--csv", "circles.csv", "--target", "name"),
        "line 2: 'name' holds 'word', not a number",
    ),
    "unknown function": (
        ("--csv", "circles.csv", "--target", "area", "--functions", "sine"),
        "--functions: no function 'sine'; there are x, x^2, ",
    ),
    "no functions": (
        ("--csv", "circles.csv", "--target", "area", "--drop", "name", "--functions", "0"),
        "lib must have a function that is not a constant, got ['0']",
    ),
    "no nodes": (
        ("--csv", "circles.csv", "--target", "area", "--hidden", "0"),
        "argument --hidden: expected a number of at least 1, got 0",
    ),
    "picture": (
        ("--csv", "circles.csv", "--target", "area", "--output", "p.xyz"),
        "cannot write p.xyz: end its name in one of .",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "circles.csv")
    code, out, err = run("explain", *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.splitlines()[-1].startswith("kanfast: error: ")


def test_missing_extra(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(tmp_path / "circles.csv")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("explain", "--csv", table, "--target", "area")
    assert code == 2
    assert 'matplotlib is not installed: pip install "kanfast[run]"' in err


def test_one_value_in_the_training_rows(run: Run, tmp_path: Path) -> None:
    index = torch.arange(40)[:, None]
    tested = int(create_dataset_from_data(index, index, seed=0)["test_input"][0])
    cells = [f"{row},{int(row == tested)}" for row in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *cells]) + "\n")
    code, out, err = run("explain", "--csv", tmp_path / "t.csv", "--target", "b", "--seed", 0)
    assert (code, out) == (2, "")
    assert "t.csv has one value in 'b' in all of its training rows, 0: nothing to learn" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_picture_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.png").symlink_to("/dev/full")
    cells = [f"{row},{2 * row}" for row in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *cells]) + "\n")
    code, out, err = run(
        *("explain", "--csv", tmp_path / "t.csv", "--target", "b", "--hidden", 1),
        *("--functions", "x", "--seconds", 60, "--output", tmp_path / "p.png"),
    )
    assert (code, out) == (2, "")
    assert err.endswith(f"cannot write {tmp_path / 'p.png'}: No space left on device\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n" + "1,2,3\n" * 19, "has 19 rows: give at least 20"),
        ("a,b,c\n" + "1,2,3\n" * 20, "has one value in 'a', 1.0: leave it out with --drop"),
        (
            "a,b,c\n" + "".join(f"{i},{-i},3\n" for i in range(20)),
            "has one value in 'c', 3.0: nothing to learn",
        ),
    ],
)
def test_tables_without_information(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        numbers(table, "c")


def test_numbers_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b,c\n" + "".join(f"{i},x,{i / 8}\n" for i in range(25)))
    names, x, y = numbers(table, "c", drop=("b",))
    assert names == ["a"]
    assert (x[:, 0] == np.arange(25)).all()
    assert (y == np.arange(25) / 8).all()

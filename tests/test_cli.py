"""The program `kanfast`: what it prints and draws, and a line of help for input it cannot use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pytest
import torch

from kanfast import extras
from kanfast.engine import native

Run = Callable[..., tuple[int, str, str]]


def write(path: Path, header: str = "a,b,c", rows: int = 60, cell: str = "{i}.5,{j},{k}") -> Path:
    """A CSV file in which c = (i + j) % 3 unless `cell` says otherwise."""
    lines = [
        cell.format(i=i, j=j, k=(i + j) % 3, word="xyz"[(i + j) % 3])
        for i, j in ((row, row * 7 % 11) for row in range(rows))
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def row(output: str, name: str) -> list[str]:
    """The KAN's and the MLP's cell in a line of the printed table."""
    line = next(line for line in output.splitlines() if line.startswith(name))
    return line[len(name) :].split()


def test_digits(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "digits.png"
    code, out, err = run("compare", "--epochs", 20, "--device", "cpu", "--output", picture)
    assert code == 0
    assert "handwritten digits: classification, features 64, outputs 10; 1257 training" in out
    kan, mlp = (float(cell.rstrip("%")) for cell in row(out, "test accuracy"))
    assert kan >= 95
    assert mlp >= 95
    # 10 numbers an edge: 8 splines, base weight and scaler.
    assert row(out, "parameters") == [
        f"{(64 * 32 + 32 * 10) * 10:,}",
        f"{(64 + 1 + 10) * 316 + 10:,}",
    ]
    for name in ("forward [samples/s]", "training [samples/s]", "peak memory [MB]"):
        assert all(float(cell.replace(",", "")) > 0 for cell in row(out, name))
    assert row(out, "backend") == ["native" if native.available() else "reference", "torch"]
    assert "KAN: 100%" in err
    assert "MLP: 100%" in err
    height, width, _ = matplotlib.image.imread(picture).shape
    assert (width, height) == (1200, 504)


def test_the_same_seed_gives_the_same_scores(run: Run, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv")
    arguments = (
        "compare",
        "--csv",
        table,
        "--target",
        "c",
        "--epochs",
        3,
        "--output",
        tmp_path / "p.png",
    )
    scores = [row(run(*arguments, "--seed", seed)[1], "test accuracy") for seed in (0, 0, 1, 2)]
    assert scores[0] == scores[1]
    assert len(set(map(tuple, scores))) > 1


@pytest.mark.parametrize(
    ("cell", "options", "task", "outputs"),
    [
        ("{i},{j},{k}", (), "classification", 3),
        ("{i},{j},{k}", ("--task", "regression"), "regression", 1),
        ("{i},{j},{word}", (), "classification", 3),
        ("{i},{j},{i}", (), "regression", 1),
        ("{i},{j},{k}.25", (), "regression", 1),
        ("{i},{j},{k}.25", ("--task", "classification"), "classification", 3),
    ],
)
def test_task_of_a_table(
    run: Run, tmp_path: Path, cell: str, options: tuple[str, ...], task: str, outputs: int
) -> None:
    table = write(tmp_path / "t.csv", cell=cell)
    picture = tmp_path / "p.svg"
    code, out, _ = run(
        "compare", "--csv", table, "--target", "c", "--epochs", 2, "--output", picture, *options
    )
    assert code == 0
    assert f"t.csv: {task}, features 2, outputs {outputs}; 42 training" in out
    assert row(out, "widths")[:3] == ["2", "32", str(outputs)]
    assert "test accuracy" in out if task == "classification" else "test R2" in out
    assert picture.read_text().lstrip().startswith("<?xml")


def test_a_dropped_column_is_not_read(run: Run, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", header="a,name,b,c", cell="{i},{word},{j},{k}")
    arguments = (
        "compare",
        "--csv",
        table,
        "--target",
        "c",
        "--epochs",
        1,
        "--output",
        tmp_path / "p.png",
    )
    code, out, _ = run(*arguments, "--drop", "name")
    assert code == 0
    assert "features 2, outputs 3" in out


def test_arguments_reach_the_network(run: Run, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv")
    code, out, _ = run(
        *(
            "compare",
            "--csv",
            table,
            "--target",
            "c",
            "--epochs",
            1,
            "--output",
            tmp_path / "p.png",
        ),
        *("--widths", 2, 4, 5, 3, "--grid-size", 7, "--spline-order", 2, "--threads", 2),
    )
    assert code == 0
    assert row(out, "parameters")[0] == str((2 * 4 + 4 * 5 + 5 * 3) * (7 + 2 + 2))
    assert "2 threads" in out


BAD_ARGUMENTS = {
    "unknown device": (("--device", "abacus"), "no device 'abacus' here: use --device cpu"),
    "no such device": (("--device", "cuda:99"), "no device 'cuda:99' here: use --device cpu"),
    "too few features": (
        ("--widths", 32, 10),
        "--widths 32 10 does not fit handwritten digits, which has 64 features and needs 10"
        " outputs: use, say, --widths 64 32 10",
    ),
    "too many outputs": (("--widths", 64, 8, 11), "use, say, --widths 64 8 10"),
    "one width": (("--widths", 64), "use, say, --widths 64 32 10"),
    "width of zero": (
        ("--widths", 64, 0, 10),
        "argument --widths: expected a number of at least 1, got 0",
    ),
    "width of a word": (("--widths", "wide"), "argument --widths: invalid int value: 'wide'"),
    "no epochs": (("--epochs", 0), "argument --epochs: expected a number of at least 1, got 0"),
    "too many threads": (
        ("--threads", 100_000),
        "argument --threads: expected a number of at most",
    ),
    "negative rate": (("--lr", -1), "argument --lr: expected a number above 0, got -1"),
    "NaN rate": (("--lr", "nan"), "argument --lr: expected a number above 0, got nan"),
    "degree": (("--spline-order", 8), "argument --spline-order: invalid choice: 8"),
    "unknown argument": (("--width", 3), "unrecognized arguments: --width 3 (see kanfast --help)"),
    "target alone": (
        ("--target", "c"),
        "--target is about a table of yours: give it with --csv FILE",
    ),
    "picture nowhere": (
        ("--output", "no/such/folder/p.png"),
        "cannot write no/such/folder/p.png: name a file in a folder that exists and is yours",
    ),
    "picture in no format": (("--output", "p.xyz"), "cannot write p.xyz: end its name in one of ."),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments(run: Run, arguments: tuple[object, ...], message: str) -> None:
    check_error(run("compare", *arguments), message)


def test_picture_in_the_place_of_a_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "p.png"
    folder.mkdir()
    check_error(run("compare", "--output", folder), "name a file in a folder that exists")


BAD_TABLES = {
    "no rows": ("a,b,c\n", "has no rows: the first line names the columns, then the data"),
    "empty": ("", "has no rows"),
    "one column": ("a;b;c\n1;2;3\n", "has one column: separate the columns by commas"),
    "ragged": ("a,b,c\n1,2,3\n1,2\n", "line 3: 2 cells where the header has 3"),
    "twin columns": ("a,a,c\n1,2,3\n", "names 'a' twice: give every column its own name"),
    "no such column": ("a,b,d\n1,2,3\n", "has no column 'c'; it has a, b, d"),
    "word": (
        "a,b,c\n1,2,3\n1,red,3\n",
        "line 3: 'b' holds 'red', not a number; encode the column as numbers or leave it out with"
        " --drop",
    ),
    "empty cell": (
        "a,b,c\n1,,3\n",
        "line 2: no finite value in 'b'; fill the cell in or remove the line",
    ),
    "NaN": ("a,b,c\n1,2,3\nnan,2,3\n", "line 3: no finite value in 'a'"),
    "infinite": ("a,b,c\n1,inf,3\n", "line 2: no finite value in 'b'"),
    "NaN target": ("a,b,c\n1,2,3\n1,2,nan\n", "line 3: no finite value in 'c'"),
    "few rows": ("a,b,c\n" + "1,2,3\n" * 19, "has 19 rows: give at least 20"),
    "constant target": (
        "a,b,c\n" + "1,2,3\n" * 20,
        "has one value in its target, 3.0: nothing to learn",
    ),
    "quotes": ('a,b,c\n1,"2,3\n', "is not a CSV file in UTF-8"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(run: Run, tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    check_error(run("compare", "--csv", table, "--target", "c"), message)


def test_other_bad_tables(run: Run, tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.csv", tmp_path / "binary.csv"
    binary.write_bytes(b"a,b\n\xff\xfe,1\n")
    words = write(tmp_path / "words.csv", cell="{i},{j},{word}")
    for arguments, message in (
        (("--csv", missing, "--target", "c"), "No such file or directory; give a CSV file"),
        (("--csv", tmp_path, "--target", "c"), "Is a directory; give a CSV file"),
        (("--csv", binary, "--target", "b"), "is not a CSV file in UTF-8"),
        (("--csv", words), "--csv needs --target COLUMN: the column to predict"),
        (("--csv", words, "--target", "c", "--task", "regression"), "'c' holds 'x', not a number"),
        (("--csv", words, "--target", "c", "--drop", "z"), "has no column 'z'; it has a, b, c"),
        (
            ("--csv", words, "--target", "c", "--drop", "a", "b"),
            "no column left to predict 'c' from",
        ),
    ):
        check_error(run("compare", *arguments), message)


@pytest.mark.parametrize(
    ("module", "name"),
    [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib"), ("tqdm", "tqdm")],
)
def test_missing_extra(run: Run, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    check_error(run("compare"), f'{name} is not installed: pip install "kanfast[run]"')


def test_an_extra_that_lacks_something_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_extra.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there_at_all'") as raised:
        extras.require("broken_extra")
    assert not isinstance(raised.value, extras.MissingExtra)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_triton_without_a_gpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    check_error(run("compare", "--backend", "triton"), "--backend triton: ")


def test_module_and_version() -> None:
    command = [sys.executable, "-m", "kanfast", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("kanfast 0.")
    assert "native library: " + ("built" if native.available() else "none: ") in done.stdout


def check_error(result: tuple[int, str, str], message: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr with `message` in it."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("kanfast: error: ")
    assert message in err
    assert err.count("\n") == 1

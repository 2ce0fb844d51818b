"""What a table's cells are taken for: missing values, classes, numbers, lines without anything."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from kanfast.cli.data import InputError, numbers, table

# What pandas takes for missing, and what people write besides.
MISSING = sorted(
    {"", "#N/A", "#NA", "-NaN", "-nan", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None"}
    | {"n/a", "nan", "null", "#N/A N/A", "1.#IND", "-1.#IND", "-1.#QNAN"}
)
ALSO = ["-", "?", "--", ".", "  NA ", "Null", "inf", "-inf", "Infinity"]


def readers() -> dict[str, Callable[[Path, str], object]]:
    return {
        "compare": table,
        "compare, classification": lambda path, target: table(path, target, task="classification"),
        "compare, regression": lambda path, target: table(path, target, task="regression"),
        "explain": numbers,
    }


def write(path: Path, cells: list[str], column: int) -> Path:
    rows = [[str(i), str(i * i % 17), f"{i / 7:.3f}"] for i in range(len(cells))]
    for row, cell in zip(rows, cells, strict=True):
        row[column] = cell
    path.write_text("\n".join(["a,b,c", *map(",".join, rows)]) + "\n")
    return path


def test_pandas_takes_them_for_missing() -> None:
    text = "a,b\n" + "".join(f"{cell},1\n" for cell in MISSING)
    assert pandas.read_csv(io.StringIO(text))["a"].isna().all()


@pytest.mark.parametrize("cell", [*MISSING, *ALSO], ids=repr)
@pytest.mark.parametrize("column", [0, 2], ids=["feature", "target"])
def test_a_missing_value_is_named_with_its_line(tmp_path: Path, cell: str, column: int) -> None:
    cells = [f"{i}.5" for i in range(40)]
    cells[7] = cell
    path = write(tmp_path / "t.csv", cells, column)
    for read in readers().values():
        with pytest.raises(InputError, match=r"t.csv, line 9: no finite value in '[ac]'"):
            read(path, "c")


@pytest.mark.parametrize("cell", ["NA", "-", "?", ""])
def test_missing_among_words(tmp_path: Path, cell: str) -> None:
    cells = ["red", "blue"] * 20
    cells[3] = cell
    with pytest.raises(InputError, match=r"line 5: no finite value in 'c'"):
        table(write(tmp_path / "t.csv", cells, 2), "c")


@pytest.mark.parametrize("word", ["unknown", "12,5", "1.2.3", "$4", "5%", "1e", "0x1f", "1_000"])
def test_one_word_among_numbers_is_a_doubt_that_is_told(tmp_path: Path, word: str) -> None:
    cells = [f"{i}.5" for i in range(40)]
    cells[20] = f'"{word}"'
    path = write(tmp_path / "t.csv", cells, 2)
    with pytest.raises(InputError, match=r"line 22: 'c' holds .* but numbers in 39 of 40 rows"):
        table(path, "c")
    assert table(path, "c", task="classification").outputs == 40


def test_words_that_are_there_once_are_no_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [f"name{i}" for i in range(40)], 2)
    with pytest.raises(InputError, match="holds 40 different words, such as 'name0', in 40 rows"):
        table(path, "c")
    assert table(path, "c", task="classification").outputs == 40


@pytest.mark.parametrize("above", ["\n\n", " \n", ",,\n", "\r\n\r\n", "\n , ,\n\n", "\ufeff\n"])
def test_blank_lines_above_the_names_and_between(tmp_path: Path, above: str) -> None:
    rows = "".join(f"{i},{i * i},{i}.5\n" + "\n" * (i % 3) for i in range(25))
    (tmp_path / "t.csv").write_text(above + "a,b,c\n" + rows + "\n\n", encoding="utf-8")
    names, x, y = numbers(tmp_path / "t.csv", "c")
    assert (names, len(x), len(y)) == (["a", "b"], 25, 25)


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n\na,b,c\n1,2,3\n\n1,NA,3\n")
    with pytest.raises(InputError, match="line 6: no finite value in 'b'"):
        numbers(tmp_path / "t.csv", "c")


def test_a_column_without_a_name_has_its_place(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i * i},{i}.5\n" for i in range(25))
    (tmp_path / "t.csv").write_text(",b,c\n" + rows)  # an index that pandas wrote
    assert numbers(tmp_path / "t.csv", "c")[0] == ["column 1", "b"]
    assert numbers(tmp_path / "t.csv", "c", drop=("column 1",))[0] == ["b"]

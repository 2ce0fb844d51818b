"""What the program writes where it can't: full disks, closed pipes, odd names, an end half-way."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from kanfast.cli.output import OutputError, deliver, replacing, say

Run = Callable[..., tuple[int, str, str]]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def write(path: Path) -> Path:
    cells = [f"{row},{row * 7 % 11},{row % 3}" for row in range(60)]
    path.write_text("\n".join(["a,b,c", *cells]) + "\n")
    return path


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_text("old")
    path.chmod(0o640)
    with replacing(path) as file:
        file.write_text("new")
        assert path.read_text() == "old"
        assert file.suffix == ".png"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["p.png"]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_what_failed(tmp_path: Path, kind: type[BaseException]) -> None:
    path = tmp_path / "p.png"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write_text("half")
            raise kind

    with pytest.raises(kind):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["p.png"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that ends at once")
def test_a_program_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_text("old")
    program = (
        "import os, sys; from pathlib import Path; from kanfast.cli.output import replacing\n"
        "with replacing(Path(sys.argv[1])) as file:\n"
        "    file.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_links_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "real.png", tmp_path / "link.png"
    target.parent.mkdir()
    link.symlink_to(target)
    with replacing(link) as file:
        file.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    with replacing(Path(os.devnull)) as file:
        assert file == Path(os.devnull)
    assert not Path(os.devnull).is_file()


def test_a_figure_that_cannot_be_drawn_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw() -> Figure:
        figure = Figure()
        figure.text(0.5, 0.5, r"$\nosuch{$")
        return figure

    deliver("the formula", draw, tmp_path / "p.png")
    out, err = capsys.readouterr()
    assert out == "the formula\n"
    assert err.startswith("kanfast: warning: no picture, as it could not be drawn: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


@needs_full
@pytest.mark.parametrize("command", ["compare", "explain"])
def test_a_full_disk(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "p.png").symlink_to("/dev/full")
    options = {
        "compare": ("--epochs", 1, "--device", "cpu"),
        "explain": ("--hidden", 1, "--functions", "x", "--seconds", 3),
    }[command]
    code, out, err = run(
        *(command, "--csv", write(tmp_path / "t.csv"), "--target", "c"),
        *("--output", tmp_path / "p.png", *options),
    )
    assert code == 2
    assert "test R2" in out or "test accuracy" in out or "c = " in out
    assert "Picture: " not in out
    assert err.endswith(f"cannot write {tmp_path / 'p.png'}: No space left on device\n")
    assert Path("/dev/full").is_char_device()


def kanfast(tmp_path: Path, **streams: object) -> subprocess.Popen[str]:
    arguments = ["compare", "--csv", write(tmp_path / "t.csv"), "--target", "c", "--epochs", "1"]
    command = [sys.executable, "-m", "kanfast", *arguments, "--output", tmp_path / "p.png"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **streams)  # type: ignore[call-overload,no-any-return]


def test_a_closed_pipe_is_one_line_and_the_picture_is_there(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = kanfast(tmp_path, stdout=writer)
    os.close(writer)
    _, err = program.communicate(timeout=300)
    assert program.returncode == 2
    assert err.splitlines()[-1] == (
        "kanfast: error: cannot write to the standard output: Broken pipe"
    )
    assert "Traceback" not in err


@needs_full
def test_a_full_standard_output(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        program = kanfast(tmp_path, stdout=full)
        _, err = program.communicate(timeout=300)
    assert program.returncode == 2
    assert err.splitlines()[-1].startswith(
        "kanfast: error: cannot write to the standard output: No"
    )
    assert "Traceback" not in err


def test_text_that_the_terminal_has_no_letters_for(tmp_path: Path) -> None:
    program = "from kanfast.cli.output import say; say('größe = 身高')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "gr\\xf6\\xdfe = \\u8eab\\u9ad8\n"


def test_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        def flush(self) -> None: ...

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(OutputError, match="cannot write to the standard output: Broken pipe"):
        say("text")


@pytest.mark.parametrize("command", ["compare", "explain"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 300 + ".png", "File name too long"),
        ("t.csv/p.png", "Not a directory"),
        ("no/p.png", "name a file in a folder that exists"),
        ("picture", "end its name in one of ."),
    ],
    ids=["too long", "below a file", "no folder", "no ending"],
)
def test_names_that_cannot_be_written_are_told_before_the_training(
    run: Run, tmp_path: Path, command: str, name: str, message: str
) -> None:
    code, out, err = run(
        *(command, "--csv", write(tmp_path / "t.csv"), "--target", "c"),
        *("--output", tmp_path / name),
    )
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1

"""The benchmark suite: its CSV, report and figures, and the gate. No test here looks at a time."""

import math
import subprocess
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from torch import nn

from bench import base, figures, gate, records, report, targets, timing
from bench.__main__ import main
from bench.cases import MIDDLE, Case, make_data, make_weights, sets
from bench.coxdeboor import CoxDeBoorKAN, cox_de_boor
from bench.measures import MEASURES, Result
from bench.providers import PROVIDERS, make_subject
from bench.run import Plan, run

CASE = Case((3, 4, 2), 50)


def measured(providers, measures=("forward",), case=CASE):
    plan = Plan([case], providers, measures, seconds=0.0)
    return list(run(plan, lambda text: None))


@pytest.mark.parametrize("degree", [0, 1, 3, 5])
def test_cox_de_boor_is_what_scipy_says(degree):
    knots = np.sort(np.random.default_rng(0).uniform(-1, 1, 12))
    x = np.linspace(-1.2, 1.2, 101)
    got = cox_de_boor(torch.from_numpy(x)[:, None], torch.from_numpy(knots)[None], degree)
    want = oracle.spline_values(x, knots, degree, 0)
    np.testing.assert_allclose(got[:, 0].numpy(), want, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("what", MEASURES)
def test_right_providers_pass(what, dtype):
    names = ("kanfast", "kanfast-reference", "cox-de-boor", "mlp-parameters", "mlp-widths")
    found = measured([PROVIDERS[name] for name in names], [what], replace(CASE, dtype=dtype))
    assert [(r.provider, r.status) for r in found] == [(name, "ok") for name in names]
    assert all(r.repeats >= timing.MIN_REPEATS and r.p20 <= r.p50 <= r.p80 for r in found)
    assert all(r.memory > 0 for r in found)


@pytest.mark.parametrize("name", ["efficient-kan", "pykan", "fastkan"])
def test_other_packages_compute_the_same_function(name):
    provider = PROVIDERS[name]
    if provider.obstacle(CASE):
        pytest.skip(provider.obstacle(CASE))
    assert [r.status for r in measured([provider], ["forward", "train", "pinn"])] == ["ok"] * 3


def test_a_missing_package_is_named():
    provider = replace(PROVIDERS["inkan"], package="no_such_package")
    (record,) = measured([provider])
    assert record.status == "skipped: no_such_package is not installed"
    assert record.p50 is None


class Off(CoxDeBoorKAN):
    """Wrong by a thousandth."""

    def forward(self, x):
        return super().forward(x) * 1.001


class Detached(CoxDeBoorKAN):
    """Right values; gradients of the parameters that leave the second term out."""

    def forward(self, x):
        y = super().forward(x)
        return y.detach() + 0.9 * (y - y.detach())


class Loud(nn.Module):
    def forward(self, x):
        raise RuntimeError("not on this machine\nsecond line")


@pytest.mark.parametrize("wrong", [Off, Detached])
def test_a_wrong_result_has_no_speed(wrong):
    provider = replace(
        PROVIDERS["cox-de-boor"], build=lambda c: wrong(c.widths, c.grid_size, c.degree)
    )
    forward, train = measured([provider], ["forward", "train"])
    assert train.status == "wrong"
    assert train.p50 is train.repeats is None
    assert forward.status == ("wrong" if wrong is Off else "ok")


def test_nan_and_other_shapes_do_not_pass():
    truth = Result(rows=[torch.ones(3)])
    assert math.isnan(gate.error_of(Result(rows=[torch.tensor([1, 1, math.nan])]), truth))
    assert not gate.passes(math.nan, "bfloat16")
    with pytest.raises(ValueError, match=r"shape \[2\] instead of \[3\]"):
        gate.error_of(Result(rows=[torch.ones(2)]), truth)


def test_what_fails_says_so_and_the_others_go_on():
    loud = replace(PROVIDERS["mlp-widths"], name="loud", build=lambda case: Loud())
    first, second = measured([loud, PROVIDERS["kanfast"]])
    assert first.status == "failed: RuntimeError: not on this machine"
    assert second.status == "ok"


def test_truth_in_parts_is_the_truth(monkeypatch):
    subject = make_subject(PROVIDERS["kanfast"], CASE, "cpu")
    data, weights = make_data(CASE), make_weights(CASE)
    for what in MEASURES:
        monkeypatch.setattr(gate, "ROWS", 1000)
        whole = gate.expected(subject, what, data, weights)
        monkeypatch.setattr(gate, "ROWS", 7)
        assert gate.error_of(gate.expected(subject, what, data, weights), whole) < 1e-12


def test_csv_there_and_back(tmp_path):
    path = tmp_path / "results.csv"
    found = measured([PROVIDERS["kanfast"], replace(PROVIDERS["pykan"], package="nowhere")])
    records.write(path, found)
    again = records.read(path)
    assert [r.key for r in again] == [r.key for r in found]
    assert again[0].p50 == pytest.approx(found[0].p50, rel=1e-3)
    assert again[0].quiet is found[0].quiet
    assert again[1] == found[1]
    newer = replace(again[0], p50=1.0)
    assert records.merge(again, [newer]) == [newer, again[1]]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        records.read(path)


def test_one_command_measures_draws_and_reports(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "CASES", sets("cpu")["quick"])
    path = tmp_path / "results.csv"
    options = "--quick --seconds 0.001 --device cpu --measures forward train"
    names = "--providers kanfast mlp-parameters cox-de-boor"
    assert main([*options.split(), *names.split(), "--csv", str(path)]) == 0
    text = (tmp_path / "REPORT.md").read_text()
    assert "| [2,5,1] B=1000 |" in text
    assert "make bench" in text, "places for a GPU name the command that fills them"
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 2
    assert all(f"./{picture.name}" in text for picture in pictures)


def test_targets_compare_with_the_best_rival():
    (blank,) = measured([PROVIDERS["kanfast"]], ["train"])
    same = {"widths": "64-64", "batch": MIDDLE[0].batch, "cpu": None, "status": "ok"}
    times = {"kanfast": 2.0, "inkan": 5.0, "flashkan": 4.0, "mlp-parameters": 1.0}
    found = targets.verdicts([replace(blank, provider=n, p50=t, **same) for n, t in times.items()])
    assert [(v.rival, v.ratio, v.met) for v in found] == [
        ("flashkan", 2.0, True),
        ("mlp-parameters", 0.5, False),
    ]


def test_a_gpu_among_the_records_leaves_no_empty_tables():
    (record,) = measured([PROVIDERS["kanfast"]])
    on_gpu = replace(record, device="cuda", name="A GPU")
    assert report.NO_GPU in report.report([record])
    assert report.NO_GPU not in report.report([record, on_gpu])


def in_a_checkout():
    done = subprocess.run(["git", "rev-parse"], cwd=base.ROOT, capture_output=True)
    return done.returncode == 0


def worktrees():
    command = ["git", "worktree", "list"]
    return subprocess.run(command, cwd=base.ROOT, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(not in_a_checkout(), reason="needs a git checkout with a commit")
def test_base_measures_another_revision():
    trees = worktrees()
    options = "--sets quick --providers kanfast-reference --measures forward --seconds 0.001"
    text = base.compare("HEAD", options.split(), passes=1, native=False)
    assert text.count("kanfast-reference") == len(sets("cpu")["quick"])
    assert worktrees() == trees


@pytest.mark.skipif(not in_a_checkout(), reason="needs a git checkout with a commit")
def test_base_refuses_an_unknown_revision(capsys):
    assert main(["--quick", "--base", "no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().err

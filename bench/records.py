"""One CSV of every result: a row for each provider, measure and case on a machine."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, get_type_hints

import torch

from bench.cases import Case

ENVIRONMENT = ("OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_BLOCKTIME")
RESULTS = Path(__file__).parent / "results" / "results.csv"


@dataclass(frozen=True)
class Machine:
    """Where and with what."""

    device: str  # "cpu" or "cuda"
    name: str  # of the CPU or GPU
    threads: int
    environment: str  # variables that change how threads work
    python: str
    torch: str
    triton: str
    commit: str  # of kanfast, with "+" if its files differ


@dataclass(frozen=True)
class Record:
    """A measurement: milliseconds, bytes, and the relative error against float64."""

    date: str
    device: str
    name: str
    threads: int
    environment: str  # variables that change how threads work
    python: str
    torch: str
    triton: str
    commit: str
    load: float  # the machine's load average for each of its cores when the case began
    widths: str  # "64-64"
    batch: int
    grid_size: int
    degree: int
    dtype: str
    provider: str
    version: str
    what: str
    status: str  # "ok", "wrong" (by the gate), or why there is no result
    repeats: int | None = None
    quiet: bool | None = None  # whether no other process disturbed any of these repetitions
    p20: float | None = None
    p50: float | None = None
    p80: float | None = None
    cpu: float | None = None  # median time of all threads of the process together
    memory: int | None = None
    error: float | None = None

    @property
    def case(self) -> Case:
        widths = tuple(map(int, self.widths.split("-")))
        return Case(widths, self.batch, self.grid_size, self.degree, self.dtype)

    @property
    def machine(self) -> tuple[str, str, int]:
        return self.device, self.name, self.threads

    @property
    def key(self) -> tuple[object, ...]:
        """Records of the same key are of the same thing: the newer one counts."""
        return *self.machine, self.case, self.provider, self.what


def machine(device: str) -> Machine:
    return Machine(
        device,
        torch.cuda.get_device_name() if device != "cpu" else _cpu_name(),
        torch.get_num_threads(),
        " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k in ENVIRONMENT),
        platform.python_version(),
        torch.__version__,
        _version("triton"),
        _commit(),
    )


def load() -> float:
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)


def read(path: Path) -> list[Record]:
    """The records of a CSV file, none if there is no such file.

    Raises:
        ValueError: the columns are not those of a record.
    """
    if not path.exists():
        return []
    names = [field.name for field in fields(Record)]
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, expected {names}")
        return [_parse(row) for row in reader]


def write(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(Record)]
        writer.writerow(names)
        for record in records:
            writer.writerow([_text(getattr(record, name)) for name in names])


def merge(old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """All records, the old ones of a key replaced by the new."""
    return list({record.key: record for record in [*old, *new]}.values())


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parse(row: dict[str, str]) -> Record:
    values: dict[str, Any] = {}
    for name, kind in get_type_hints(Record).items():
        text = row[name]
        if not text and kind not in (str, int, float):
            values[name] = None
        else:
            values[name] = next(PARSERS[t] for t in PARSERS if kind in (t, t | None))(text)
    return Record(**values)


PARSERS = {str: str, int: int, float: float, bool: "True".__eq__}


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """Of the checkout the suite is in; "" outside of one."""
    root = Path(__file__).parent.parent
    commit = _git(root, "rev-parse", "--short=10", "HEAD")
    changed = _git(root, "status", "--porcelain", "-uno", "--", "kanfast", "kernels")
    return commit + ("+" if commit and changed else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()

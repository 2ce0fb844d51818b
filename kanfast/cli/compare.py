"""A KAN beside an MLP with as many parameters: trained on the same rows, timed on one batch."""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import torch
from torch import nn

from kanfast.cli.data import Data, InputError, Split
from kanfast.cli.training import History, fit, loss_of, optimizer_of, score, training_step


@dataclass(frozen=True)
class Result:
    """One model's line of the comparison."""

    name: str
    widths: tuple[int, ...]
    parameters: int
    history: History
    test_score: float
    forward_rate: float
    """Samples per second of the forward pass without gradients, at the training batch size."""
    training_rate: float
    """Samples per second of whole training steps: forward, backward and optimiser."""
    peak_memory: int
    """Bytes; see `peak_memory`."""
    backend: str


def check_widths(widths: Sequence[int], data: Data) -> tuple[int, ...]:
    """The widths of a KAN for `data`, input to output.

    Raises:
        InputError: they do not start with the number of features or end with the number of outputs.
    """
    ends = (data.features, data.outputs)
    if len(widths) < 2 or (widths[0], widths[-1]) != ends:
        between = widths[1:-1] or [32]
        fitting = " ".join(map(str, (ends[0], *between, ends[1])))
        raise InputError(
            f"--widths {' '.join(map(str, widths))} does not fit {data.name}, which"
            f" has {ends[0]} features and needs {ends[1]} outputs: use, say, --widths {fitting}"
        )
    return tuple(widths)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable numbers in a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with SiLU, a KAN's residual activation, between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def mlp_widths(kan_widths: Sequence[int], parameters: int) -> tuple[int, ...]:
    """Widths of the MLP whose number of parameters is nearest to `parameters`.

    It is as deep as the KAN but has at least one hidden layer; its hidden layers are equally wide.
    """
    depth = max(len(kan_widths) - 2, 1)

    def widths(hidden: int) -> tuple[int, ...]:
        return (kan_widths[0], *[hidden] * depth, kan_widths[-1])

    def size(hidden: int) -> int:
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths(hidden)))

    above = next(hidden for hidden in count(1) if size(hidden) >= parameters)
    return widths(min(max(above - 1, 1), above, key=lambda hidden: abs(size(hidden) - parameters)))


def run(
    name: str,
    model: nn.Module,
    widths: tuple[int, ...],
    data: Data,
    *,
    backend: str,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    on_epoch: Callable[[History], None],
) -> Result:
    """Train a model, score it on the test rows once, and measure it.

    The arguments after `backend`, the name of what computes it, are those of `training.fit`.
    """
    batch = Split(data.train.x[:batch_size], data.train.y[:batch_size])
    loss, device = loss_of(data.task), batch.x.device

    def stepper() -> Callable[[], object]:
        twin = copy.deepcopy(model)
        optimizer = optimizer_of(twin, lr, weight_decay)
        return lambda: training_step(twin, optimizer, loss, batch)

    def two_steps() -> None:
        step = stepper()
        step()
        step()

    memory = peak_memory(two_steps, device)
    history = fit(
        model,
        data,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        on_epoch=on_epoch,
    )
    with torch.inference_mode():
        forward_rate = len(batch.x) / seconds(lambda: model(batch.x), device)
    return Result(
        name=name,
        widths=widths,
        parameters=count_parameters(model),
        history=history,
        test_score=score(model, data.test, data.task),
        forward_rate=forward_rate,
        training_rate=len(batch.x) / seconds(stepper(), device),
        peak_memory=memory,
        backend=backend,
    )


def seconds(step: Callable[[], object], device: torch.device, total: float = 0.4) -> float:
    """Median time of `step` over about `total` seconds, after a tenth of that as warm-up."""

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() < begin + 1.1 * total:
        wait()
        start = time.perf_counter()
        step()
        wait()
        if start > begin + 0.1 * total:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that tensors made by `work` hold at one time.

    On a GPU it is read from torch's allocator; on the CPU torch's profiler records each allocation.
    If `work` makes a model, its optimiser and two steps, then the parameters, the gradients, the
    optimiser's state and all that is saved for backward count; the program itself, and what
    libraries hold outside torch's allocator, do not.
    """
    if device.type != "cpu":
        work()  # what libraries allocate once and keep, as cuBLAS its workspace, is not the model's
        allocator = torch.get_device_module(device)
        before: int = allocator.memory_allocated(device)
        allocator.reset_peak_memory_stats(device)
        work()
        peak: int = allocator.max_memory_allocated(device)
        return peak - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak

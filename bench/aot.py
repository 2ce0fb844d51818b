"""Compile the kernels for GPUs that are not here.

`compile_for("sm_90")` makes Triton believe in such a GPU whose memory is the CPU's: the launchers
run unchanged on CPU tensors, every kernel is specialised and compiled exactly as it would be
there, and nothing is executed. It needs a process in which Triton does not interpret
(TRITON_INTERPRET unset or 0). What exceeds the GPU's shared or tensor memory is compiled and
listed all the same: `Compiled.overflow` says so.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.compiler.compiler import CompiledKernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

# Shared memory (LDS) a program may use, in bytes: CUDA programming guide, "Technical
# Specifications"; CDNA3 ISA guide.
SHARED_LIMIT = {
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "gfx942": 64 << 10,
}
TENSOR_COLUMNS = 512  # columns of tensor memory on sm_100: PTX ISA, "Tensor Memory"

TENSOR_CORE = {"cuda": r"\b(?:HMMA|DMMA|HGMMA|UTC\w*MMA)\b", "hip": r"\bv_mfma_"}


@dataclass
class Compiled:
    """One compiled kernel and what its machine code says."""

    name: str
    target: str
    registers: int
    spills: int  # bytes of local memory a thread
    shared: int  # bytes a program
    tensor_columns: int  # of tensor memory a program (sm_100)
    warps: int
    tensor_core: int  # tensor-core instructions in the machine code
    wide_loads: int  # 128-bit loads and asynchronous copies from global memory
    narrow_loads: int  # narrower ones
    machine_code: str = field(repr=False)

    @property
    def overflow(self) -> str:
        """What the target has too little of, or ""."""
        if self.shared > SHARED_LIMIT[self.target]:
            return f"{self.shared} bytes of shared memory, {SHARED_LIMIT[self.target]} at most"
        if self.tensor_columns > TENSOR_COLUMNS:
            return f"{self.tensor_columns} columns of tensor memory, {TENSOR_COLUMNS} at most"
        return ""


@dataclass
class Launch:
    """A launch that would have happened: the kernel, the programs, and the arguments by name."""

    kernel: Compiled
    programs: tuple[int, int, int]
    arguments: dict[str, Any] = field(repr=False)


class _Driver(DriverBase):
    """A driver that hands out a target and launches nothing."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target
        # A device of its own for each target: Triton keeps what it compiled by device.
        self.get_current_device = lambda: list(TARGETS.values()).index(target)
        self.get_current_stream = lambda device=None: 0
        self.get_device_capability = lambda device=0: divmod(target.arch, 10)
        properties = {
            "max_shared_mem": 1 << 30,
            "multiprocessor_count": 132,
            "max_num_regs": 65536,
            "warpSize": target.warp_size,
            "arch": target.arch,
        }
        self.utils = types.SimpleNamespace(
            get_device_properties=lambda device: properties, unload_module=lambda module: None
        )

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self):
        raise RuntimeError("nothing runs here, so nothing can be timed")


@contextlib.contextmanager
def compile_for(target: str) -> Iterator[list[Launch]]:
    """Within this context launches compile for the target; the list fills with what would have
    been launched."""
    if triton.knobs.runtime.interpret:
        raise RuntimeError(
            "TRITON_INTERPRET is set, so kernels are not compiled; unset it and start again"
        )
    launches: list[Launch] = []
    inspected: dict[str, Compiled] = {}
    functions = set()

    def load(self):
        """In place of CompiledKernel._init_handles, which loads the binary into the driver."""
        if self.hash not in inspected:
            inspected[self.hash] = _inspect(self, target)
        names = self.src.fn.arg_names
        functions.add(self.src.fn)

        def run(x, y, z, stream, function, metadata, launch_metadata, enter, leave, *arguments):
            named = dict(zip(names, arguments, strict=True))
            launches.append(Launch(inspected[self.hash], (x, y, z), named))

        self.function, self._run = 1, run

    driver = triton.runtime.driver
    previous = driver._active  # there is no public way to ask without starting the default driver
    original = CompiledKernel._init_handles
    driver.set_active(_Driver(TARGETS[target]))
    CompiledKernel._init_handles = load
    try:
        yield launches
    finally:
        CompiledKernel._init_handles = original
        driver._active = previous
        for function in functions:  # else Triton keeps megabytes of text for each kernel
            function.device_caches.clear()


def tool(name: str) -> Path:
    """A program of the CUDA toolkit that Triton's wheel carries; it may be missing there."""
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def _inspect(kernel, target: str) -> Compiled:
    meta = kernel.metadata
    if TARGETS[target].backend == "hip":
        text = kernel.asm["amdgcn"]

        def note(key: str) -> int:
            return int(re.search(rf"\.{key}:\s+(\d+)", text).group(1))

        registers, spills = note("vgpr_count"), note("private_segment_fixed_size")
        wide = len(re.findall(r"(?:global|buffer)_load_dwordx4", text))
        narrow = len(re.findall(r"(?:global|buffer)_load_", text)) - wide
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            usage, text = (
                subprocess.run(
                    [tool(name), option, file.name], capture_output=True, text=True, check=True
                ).stdout
                for name, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
            )
        registers = int(re.search(r"REG:(\d+)", usage).group(1))
        spills = int(re.search(r"STACK:(\d+)", usage).group(1))
        wide = len(re.findall(r"\bLDG\.E[\w.]*\.128|LDGSTS\.E[\w.]*\.128|UTMALDG", text))
        narrow = len(re.findall(r"\bLDG\.E|LDGSTS\.E", text)) - wide
    tensor = len(re.findall(TENSOR_CORE[TARGETS[target].backend], text))
    columns = getattr(meta, "tmem_size", None) or 0
    return Compiled(
        meta.name,
        target,
        registers,
        spills,
        meta.shared,
        columns,
        meta.num_warps,
        tensor,
        wide,
        narrow,
        text,
    )

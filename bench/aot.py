"""Compile the kernels for GPUs that are not here.

`compile_for("sm_90")` makes Triton believe in such a GPU whose memory is the CPU's: the launchers run unchanged on
CPU tensors, every kernel is specialised and compiled exactly as it would be there, and nothing is executed.
It needs a process in which Triton does not interpret (TRITON_INTERPRET unset or 0).
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

# Shared memory (LDS) a program may use, in bytes: CUDA programming guide, "Technical Specifications"; CDNA3 ISA guide.
SHARED_LIMIT = {
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "gfx942": 64 << 10,
}

TENSOR_CORE = {"cuda": r"\b[HDIQ]?G?MMA\b|\b(HMMA|DMMA|HGMMA|UTC\w*MMA)", "hip": r"v_mfma_"}


class _Driver(DriverBase):
    """A driver that hands out a target and launches nothing."""

    def __init__(self, target: GPUTarget, limit: int) -> None:
        self.target = target
        properties = {
            "max_shared_mem": limit,
            "multiprocessor_count": 132,
            "max_num_regs": 65536,
            "warpSize": target.warp_size,
            "arch": target.arch,
        }
        self.utils = types.SimpleNamespace(
            get_device_properties=lambda device: properties,
            load_binary=lambda name, kernel, shared, device: (1, 1, 0, 0, 1024),
            unload_module=lambda module: None,
        )
        self.launcher_cls = lambda src, metadata: lambda *args, **kwargs: None
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device=None: 0
        self.get_device_capability = lambda device=0: divmod(target.arch, 10)

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self):  # type: ignore[no-untyped-def]
        raise RuntimeError("nothing runs here, so nothing can be timed")


@dataclass
class Compiled:
    """One compiled kernel and what its machine code says."""

    name: str
    target: str
    registers: int
    spills: int  # bytes of local memory a thread
    shared: int  # bytes a program
    warps: int
    tensor_core: int  # tensor-core instructions in the machine code
    wide_loads: int  # 128-bit loads and asynchronous copies from global memory
    narrow_loads: int  # narrower ones
    machine_code: str = field(repr=False)


@contextlib.contextmanager
def compile_for(target: str) -> Iterator[list[Compiled]]:
    """Within this context launches compile for the target; the list fills with what was compiled."""
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set, so kernels are not compiled; unset it and start again")
    compiled: list[Compiled] = []
    seen: set[str] = set()

    original = CompiledKernel._init_handles

    def init(self):  # type: ignore[no-untyped-def]
        if self.hash not in seen:
            seen.add(self.hash)
            compiled.append(_inspect(self, target))
        return original(self)

    driver = triton.runtime.driver
    previous = driver._active  # there is no public way to ask without starting the default driver
    driver.set_active(_Driver(TARGETS[target], SHARED_LIMIT[target]))
    CompiledKernel._init_handles = init
    try:
        yield compiled
    finally:
        CompiledKernel._init_handles = original
        driver._active = previous


def _tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _inspect(kernel, target: str) -> Compiled:  # type: ignore[no-untyped-def]
    meta = kernel.metadata
    if TARGETS[target].backend == "hip":
        text = kernel.asm["amdgcn"]

        def note(key: str) -> int:
            return int(re.search(rf"\.{key}:\s+(\d+)", text).group(1))  # type: ignore[union-attr]

        registers, spills = note("vgpr_count"), note("private_segment_fixed_size")
        wide = len(re.findall(r"(?:global|buffer)_load_dwordx4", text))
        narrow = len(re.findall(r"(?:global|buffer)_load_", text)) - wide
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            usage = subprocess.run(
                [_tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True
            ).stdout
            text = subprocess.run(
                [_tool("nvdisasm"), "-c", file.name], capture_output=True, text=True, check=True
            ).stdout
        registers = int(re.search(r"REG:(\d+)", usage).group(1))  # type: ignore[union-attr]
        spills = int(re.search(r"STACK:(\d+)", usage).group(1))  # type: ignore[union-attr]
        wide = len(re.findall(r"\bLDG\.E[\w.]*\.128|LDGSTS\.E[\w.]*\.128|UTMALDG", text))
        narrow = len(re.findall(r"\bLDG\.E|LDGSTS\.E", text)) - wide
    tensor = len(re.findall(TENSOR_CORE[TARGETS[target].backend], text))
    return Compiled(
        meta.name, target, registers, spills, meta.shared, meta.num_warps, tensor, wide, narrow, text
    )

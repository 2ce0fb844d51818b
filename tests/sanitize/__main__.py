"""Builds the native code with GCC's sanitizers, and runs its tests with them: `make sanitize`.

AddressSanitizer and UndefinedBehaviorSanitizer look at the library of each instruction set that
the processor has, ThreadSanitizer at that of the best one, whose threads are those of openmp.cpp.
Tensors lie in memory of their exact size, with nothing readable on either side, and fresh memory
is NaN.

Of UndefinedBehaviorSanitizer's checks those of null pointers, alignment and sizes of objects are
left out: they take two thirds of the compiler's time, and AddressSanitizer sees what they are for.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import setuptools
import torch

from kanfast.engine.native import BUILDS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTS = (
    "test_native_fuzz.py",
    "test_native.py",
    "test_statistics.py -k native",
    "test_layer.py -k native",
    "test_backends_agree.py -k native",
)
COMPILER = os.environ.get("CXX", "g++")
CAPABILITY = {"avx512": "avx512", "avx2": "avx2", "baseline": "default"}  # as torch calls them


@dataclass(frozen=True)
class Sanitizer:
    """Flags of the compiler, what is loaded before Python, and what is to be run."""

    name: str
    flags: str
    libraries: tuple[str, ...]
    options: dict[str, str]
    tests: tuple[str, ...]
    faults: tuple[int, ...]  # of faults.cpp, that it must see
    sources: tuple[str, ...] = ()


ADDRESS = Sanitizer(
    "address",
    # Calls instead of code in line, which doubles the compiler's time.
    "-fsanitize=address,undefined --param asan-instrumentation-with-call-threshold=0 "
    "-fno-sanitize=null,alignment,object-size -fno-sanitize-recover=all",
    # libstdc++ as well: what throws exceptions has to be there when the sanitizer looks for it.
    ("libasan.so", "libstdc++.so"),
    {
        # Python frees little at its end.
        "ASAN_OPTIONS": "detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    },
    TESTS,
    faults=(1, 2),
)
THREAD = Sanitizer(
    "thread",
    "-fsanitize=thread",
    ("libtsan.so",),
    # torch and Python were built without it, and what they do to synchronise is not all seen.
    {"TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1"},
    ("test_native_fuzz.py", "test_native.py -k TestThreads", "test_statistics.py -k threads"),
    faults=(3,),
    sources=("openmp.cpp",),
)


def build(sanitizer: Sanitizer, name: str) -> Path:
    """The folder with the library of an instruction set. Flags are those of setup.py, but -O1."""
    (extension,) = (e for e in EXTENSIONS if e.name.endswith(f"._{name}"))
    kept = [flag for flag in extension.extra_compile_args if not flag.startswith(("-O", "-g"))]
    flags = [*kept, "-O1", "-g1", "-fPIC", *shlex.split(sanitizer.flags)]
    folder = ROOT / "build" / "sanitize" / f"{sanitizer.name}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    library, objects = folder / f"_{name}.so", []
    ours = [HERE / source for source in ("faults.cpp", *sanitizer.sources)]
    changed = max(
        Path(p).stat().st_mtime for p in (*extension.depends, *ours, __file__, "setup.py")
    )
    if library.exists() and library.stat().st_mtime > changed:
        return folder
    for source in (*map(Path, extension.sources), *ours):
        objects.append(folder / f"{source.stem}.o")
        run(COMPILER, *flags, "-c", source, "-o", objects[-1])
    # Without GCC's OpenMP where there is one of ours.
    threads = "-pthread" if sanitizer.sources else "-fopenmp"
    link = ("-shared", "-Wl,-z,defs", threads, *shlex.split(sanitizer.flags))
    run(COMPILER, *link, *objects, "-o", library)
    return folder


def check(sanitizer: Sanitizer, name: str, folder: Path, cases: int) -> None:
    """Runs the tests with the library in a folder."""
    environment = {
        **sanitizer.options,
        "LD_PRELOAD": " ".join(map(library_path, sanitizer.libraries)),
    }
    environment["ATEN_CPU_CAPABILITY"] = CAPABILITY[name]
    # One thread in torch, whose own are not looked at; tests give the native code more.
    environment["OMP_NUM_THREADS"] = "1"
    # Sanitizers want their shadow where a randomised layout may have put something else.
    python = ("setarch", "-R", sys.executable)
    for fault in (0, *range(1, 4)):
        call = f"import ctypes; ctypes.CDLL({str(folder / f'_{name}.so')!r}).kanfast_fault({fault})"
        done = attempt(*python, "-c", call, **environment)
        if (done.returncode != 0) != (fault in sanitizer.faults):
            said = done.stderr or "nothing"
            raise SystemExit(f"{sanitizer.name}: fault {fault} of faults.cpp: it said {said}")
    options = ("-n", "auto", "--maxprocesses", 8, "-p", "plugin")
    options += ("--native-library", folder, "--native-cases", cases)
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    for test in sanitizer.tests:
        file, *rest = shlex.split(test)
        pytest = (*python, "-m", "pytest", "-q", "-x", "--no-header", *options)
        run(*pytest, HERE.parent / file, *rest, **environment)


def library_path(name: str) -> str:
    """Where the compiler has a library."""
    found = subprocess.run(
        [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return str(Path(found.stdout.strip()).resolve())


def run(*command: object, **environment: str) -> None:
    """Runs a program, and ends this one if it fails."""
    print("+", *command, flush=True)
    done = subprocess.run(list(map(str, command)), env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with {done.returncode}")


def attempt(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), env={**os.environ, **environment}, capture_output=True, text=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="sanitize", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=600, help="of the fuzz")
    parser.add_argument("--only", choices=["address", "thread"], help="one kind of sanitizer")
    options = parser.parse_args()
    sets = BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))
    jobs = [(ADDRESS, name) for name in sets] + [(THREAD, sets[0])]
    jobs = [job for job in jobs if options.only in (None, job[0].name)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = list(pool.map(lambda job: build(*job), jobs))
    for job, folder in zip(jobs, folders, strict=True):
        check(*job, folder, options.cases)
    print("no sanitizer had anything to say about", ", ".join(f"{s.name} ({n})" for s, n in jobs))


os.chdir(ROOT)
EXTENSIONS = setuptools.distutils.core.run_setup("setup.py", stop_after="init").ext_modules

if __name__ == "__main__":
    main()

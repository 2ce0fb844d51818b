"""Maps the folder `kernels/` to the package `kanfast.kernels` and builds `kanfast.engine.native`;
the rest is in pyproject.toml.

The name `kernels` belongs to another project on PyPI, so it is never installed under that name.

kanfast.engine.native is one source, compiled for each instruction set. Every build is optional:
where there is no compiler with vector types and OpenMP (GCC, Clang), kanfast installs without it.
"""

import platform
from pathlib import Path

from setuptools import Extension, find_packages, setup

kernels = ["kanfast.kernels", *(f"kanfast.kernels.{name}" for name in find_packages("kernels"))]

AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "vl", "bw", "dq"))]
X86 = platform.machine().lower() in ("x86_64", "amd64")
# Nobody looks at errno or at floating-point exceptions; no flag changes a result.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-ffp-contract=fast", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]

HEADERS = sorted(map(str, Path("kanfast/engine/native").glob("*.h")))

native = [
    Extension(
        f"kanfast.engine.native._{name}",
        sources=[f"kanfast/engine/native/{name}.cpp"],
        depends=HEADERS,
        extra_compile_args=[*FLAGS, *target],
        extra_link_args=["-fopenmp"],
        language="c++",
        optional=True,
    )
    for name, target in ({"avx512": AVX512, "avx2": AVX2} if X86 else {"baseline": []}).items()
]

setup(
    packages=[*find_packages(include=["kanfast", "kanfast.*"]), *kernels],
    package_dir={"kanfast": "kanfast", "kanfast.kernels": "kernels"},
    ext_modules=native,
    options={"build_ext": {"parallel": True}},
)

"""Maps the folder `kernels/` to the package `kanfast.kernels`; the rest is in pyproject.toml.

The name `kernels` belongs to another project on PyPI, so it is never installed under that name.
"""

from setuptools import find_packages, setup

kernels = ["kanfast.kernels", *(f"kanfast.kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=[*find_packages(include=["kanfast", "kanfast.*"]), *kernels],
    package_dir={"kanfast": "kanfast", "kanfast.kernels": "kernels"},
)

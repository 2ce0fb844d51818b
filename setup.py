"""Maps the folder `kernels/` to the package `kanfast.kernels`; everything else is in pyproject.toml.

The name `kernels` belongs to another project on PyPI, so it is never installed under that name.
"""

from setuptools import setup

setup(
    packages=["kanfast", "kanfast.nn", "kanfast.kernels", "kanfast.kernels.basis"],
    package_dir={"kanfast": "kanfast", "kanfast.kernels": "kernels"},
)

"""Kernels run in Triton's interpreter unless the environment says otherwise; it must be set before triton is imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

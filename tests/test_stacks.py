"""Native code on small stacks: what is large lies elsewhere.

musl gives a thread 128 KiB, and OMP_STACKSIZE and `threading.stack_size` are for users to set. Some
operators of torch itself need more, so tensors are made on a large stack.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kanfast.engine import native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")

PROGRAM = """
import sys, threading
import torch
from kanfast.engine import native
from native_calls import RandomCalls, every_size

torch.set_num_threads(3)
torch.get_num_threads = lambda: 3
native.SERIAL_WORK = 0
entries = set()
for case in every_size():
    for call in case.calls():
        call.native()  # on this thread first: what it looks up once needs a stack of its own
        threading.stack_size(int(sys.argv[1]) * 1024)
        done = []
        thread = threading.Thread(target=lambda: done.append(call.native()))
        thread.start()
        thread.join()
        assert done, call.entry
        entries.add(call.entry)
print(*sorted(entries))
"""


KILOBYTES = 64


def test_every_entry_on_a_small_stack() -> None:
    environment = {
        **os.environ,
        "OMP_STACKSIZE": f"{KILOBYTES}k",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(KILOBYTES)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout.split() == [
        "forward",
        "input_grad",
        "layer",
        "layer_grad",
        "pack",
        "statistics",
        "statistics_grad",
        "unpack",
        "weight_grad",
    ]

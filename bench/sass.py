"""Machine code as the profiler needs it: loops with tensor-core instructions, and what each
instruction costs where.

NVIDIA's SASS is the output of `nvdisasm -c`, AMD's code that of LLVM. Rates of an SM (NVIDIA) or
compute unit (AMD), per cycle. Sources: [G] CUDA C++ programming guide, "Throughput of Native
Arithmetic Instructions" and "Technical Specifications"; [A] A100, [H] H100 and [B] B200
whitepapers and data sheets: peak rate / (2 x SMs x boost clock); [C] CDNA3 whitepaper and ISA
guide; [M] public microbenchmarks of the L2 cache (Chips and Cheese), read bandwidth divided by SMs
and clock, of which sm_100's is unknown and set to that of sm_90.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

# Multiply-adds of a dot by precision: 16 bits, tf32, float32, float64; lanes of the vector units
# for FMA, integer and comparison, special functions, float64; bytes from L2 and from memory.
_UNITS = ("16", "tf32", "ieee", "float64", "fma", "alu", "mufu", "fp64", "l2", "memory")
_RATES = {
    # [A] 312 / 156 / 19.5 TFLOPS, 2.04 TB/s, 108 SMs at 1.41 GHz; L2 0.7 of 5120 bytes a cycle [A].
    "sm_80": (1024, 512, 64, 64, 64, 64, 16, 32, 33, 13.4),
    # RTX A6000 data sheet, 768 GB/s, 84 SMs at 1.8 GHz (GeForce cards: half of its tensor rates).
    "sm_86": (512, 256, 128, 2, 128, 64, 16, 2, 16, 5.1),
    # L40S data sheet, 864 GB/s, 142 SMs at 2.52 GHz.
    "sm_89": (512, 256, 128, 2, 128, 64, 16, 2, 16, 2.4),
    # [H] 989 / 495 / 67 TFLOPS, 3.35 TB/s, 132 SMs at 1.83 GHz; L2 5.5 to 7 TB/s [M].
    "sm_90": (2048, 1024, 128, 128, 128, 64, 16, 64, 30, 13.9),
    # [B] 2250 / 1125 / 40 TFLOPS, 8 TB/s, 148 SMs at 1.85 GHz.
    "sm_100": (4096, 2048, 128, 64, 128, 64, 16, 64, 30, 29.2),
    # [C] 1307 / 653 / 163 / 163 TFLOPS, 5.3 TB/s, 304 CUs at 2.1 GHz; L2 2 KB a cycle and 38 CUs.
    "gfx942": (1024, 512, 128, 128, 64, 64, 16, 64, 54, 8.3),
}
RATES = {target: dict(zip(_UNITS, row, strict=True)) for target, row in _RATES.items()}
SHARED_BYTES = 128  # a cycle, all of them [G], [C]

PIPES = ("issue", "fma", "alu", "mufu", "fp64", "lsu")

_INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]+\*/\s+(@!?U?P[\dT]+)?\s*([A-Z][A-Z0-9_]*(?:\.[\w.]+)?)\s*(.*)$"
)
_FMA = {"FADD", "FMUL", "FFMA", "HADD2", "HMUL2", "HFMA2", "FSWZADD"}
_PACKED = {"FADD2", "FMUL2", "FFMA2"}  # two float32 operations of one lane: sm_100
_FP64 = {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"}
_MUFU = {"MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "I2FP"}
_SHARED = {
    "LDS",
    "STS",
    "LDSM",
    "STSM",
    "LDG",
    "STG",
    "LDGSTS",
    "LDL",
    "STL",
    "SHFL",
    "LD",
    "ST",
    "ATOMS",
}
_CONTROL = {
    "B2R", "BAR", "BMOV", "BPT", "BRA", "BREAK", "BSSY", "BSYNC", "CALL", "CCTL", "CREDUX",
    "CS2R", "DEPBAR", "ELECT", "ERRBAR", "EXIT", "FENCE", "LDC", "LDCU", "LDGDEPBAR", "LDTM",
    "LEPC", "MEMBAR", "MOV", "NANOSLEEP", "NOP", "R2UR", "REDUX", "RET", "S2R", "S2UR", "STTM",
    "SYNCS", "UTCBAR", "VOTE", "VOTEU", "WARPGROUP", "WARPSYNC", "YIELD",
}  # fmt: skip


@dataclass(frozen=True)
class Code:
    """A kernel's machine code: instructions (opcode, operands), the spans of its innermost
    tensor-core loops, and those of the loops around them."""

    instructions: list[tuple[str, str]]
    loops: list[tuple[int, int]]  # [first, last + 1)
    outer: list[tuple[int, int]]

    def count(self, opcode: str) -> int:
        return sum(op.split(".")[0] == opcode for op, _ in self.instructions)


def parse(text: str, amd: bool) -> Code:
    """Instructions, and innermost backward branches that enclose arithmetic of a dot."""
    code: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for line in text.splitlines():
        if label := re.match(r"^(\.L\w+):", line):
            labels[label[1]] = len(code)
            continue
        match = re.match(r"^\t()([a-z]\w+)\s*(.*)$", line) if amd else _INSTRUCTION.match(line)
        if not match:
            continue
        code.append(
            ("NOP" if match[1] == "@!PT" else match[2], match[3])
        )  # never executed, but issued
        if match[2].startswith(("BRA", "s_cbranch", "s_branch")):
            target = re.search(r"(\.L\w+)", match[3])
            if target and target[1] in labels:  # seen already, so behind us
                spans.append((labels[target[1]], len(code)))
    # What follows the end is slow paths out of line, such as the wait for a barrier that was not
    # ready.
    end = max(
        (n for n, (name, _) in enumerate(code) if name in ("EXIT", "s_endpgm")), default=len(code)
    )
    spans = [span for span in spans if span[1] <= end]
    loops = _innermost(code, spans)
    outer = [span for span in spans if span not in loops and any(_within(l, span) for l in loops)]
    return Code(code[:end], loops, outer)


def _within(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return other[0] <= span[0] and span[1] <= other[1]


def _innermost(code: list[tuple[str, str]], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Loops with the most of the dots' work: tensor-core instructions, or FMAs where there are
    none."""

    def work(span: tuple[int, int]) -> int:
        ops = [op for op, _ in code[span[0] : span[1]]]
        mma = sum("MMA" in op or "mfma" in op for op in ops)
        return mma * 1000 + sum(op.startswith(("FFMA", "DFMA", "v_fma", "v_pk_fma")) for op in ops)

    any_mma = any(work(span) >= 1000 for span in spans)
    found = [span for span in spans if work(span) >= (1000 if any_mma else 64)]
    return [
        span for span in found if not any(_within(other, span) and other != span for other in found)
    ]


def _width(opcode: str) -> int:
    """Bytes a lane moves."""
    if opcode.startswith(("LDSM", "STSM")):  # one, two or four matrices
        return 4 * int(opcode[-1]) if opcode.endswith((".2", ".4")) else 4
    for bits in (128, 64):
        if f".{bits}" in opcode or opcode.endswith(f"x{bits // 32}"):
            return bits // 8
    return 4


def _matrix_shared(opcode: str, operands: str) -> float:
    """Bytes of shared memory that one warp's share of a warp-group dot reads: B, and A where it is
    there."""
    m, n, k = map(int, re.search(r"(\d+)x(\d+)x(\d+)", opcode).groups())
    size = 4 if "TF32" in opcode else 2
    a_in_shared = operands.split(",")[1].strip().startswith("gdesc")
    return (n * k + (m * k if a_in_shared else 0)) * size / 4


def cycles(instructions: list[tuple[str, str]], warps: int, target: str) -> Counter[str]:
    """Cycles of an SM that `warps` warps need of each pipe for these instructions."""
    rate = RATES[target]
    need: Counter[str] = Counter()
    if target.startswith("gfx"):
        for op, _ in instructions:
            _amd(op, warps, rate, need)
        return need
    lanes = 32 * warps
    for op, operands in instructions:
        base = op.split(".")[0]
        need["issue"] += warps / 4
        if "MMA" in base:
            if base == "HGMMA":
                need["lsu"] += warps * _matrix_shared(op, operands) / SHARED_BYTES
        elif base in _FMA or base in _PACKED:
            need["fma"] += lanes / rate["fma"] * (2 if base in _PACKED else 1)
        elif base == "IMAD":
            need["fma"] += lanes / 64
        elif base in _FP64:
            need["fp64"] += lanes / rate["fp64"]
        elif base in _MUFU:
            need["mufu"] += lanes / rate["mufu"]
        elif base in _SHARED:
            need["lsu"] += lanes * _width(op) / SHARED_BYTES
        elif base not in _CONTROL and not base.startswith("U"):
            need["alu"] += lanes / rate["alu"]
    return need


def _amd(op: str, warps: int, rate: dict[str, int], need: Counter[str]) -> None:
    """Four SIMDs of 16 lanes; units issue side by side, so "issue" is the vector unit's."""
    lanes = 64 * warps
    if op.startswith(("v_exp", "v_rcp", "v_log", "v_sqrt", "v_rsq")):
        need["mufu"] += lanes / rate["mufu"]
    elif op.startswith("v_") and "mfma" not in op:
        need["fp64" if op.endswith("f64") or "_f64_" in op else "alu"] += lanes / rate["alu"]
    elif op.startswith("ds_"):
        width = 16 if "b128" in op else 8 if "b64" in op or "read2_b32" in op else 4
        need["lsu"] += lanes * width * (2 if "2st64" in op else 1) / SHARED_BYTES


def exposed(loop: list[tuple[str, str]]) -> int:
    """Instructions of a trip between the wait for a warp-group dot and the next one: the tensor
    core stands still if all warps go in step and no other program shares the SM."""
    total, waited = 0, None
    for n, (op, operands) in enumerate(loop + loop):  # round once: the next dot may be the first
        if op.startswith("WARPGROUP.DEPBAR") and "0x0" in operands:
            waited = n
        elif op.startswith("HGMMA") and waited is not None:
            total, waited = total + (n - waited if n >= len(loop) else 0), None
    return total

"""Squared quantization error, as a share of the input's square, of ways to write blocks of 128 in four
bits: what `src/codec/int4.rs` chose by. Prints int4.txt.

    pip install numpy && python int4.py > int4.txt
"""
import sys

import numpy as np

BLOCK, BLOCKS, SEED = 128, 4000, 0
NF4 = np.array([-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0, 0.0795803,
                0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0])
EVEN = np.arange(-7, 8) / 7
MAX = np.array([0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326])  # Max 1960, 16 levels
LLOYD = np.concatenate([-MAX[::-1], MAX])


def error(x, levels, scale):
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, x / scale)
    return ((x - levels[codes] * scale) ** 2).sum() / (x ** 2).sum()


print(f"# int4.py: numpy {np.__version__}, python {sys.version.split()[0]}, seed {SEED}")
print("# values, even on the largest, NF4 on the largest, Lloyd-Max on the deviation")
rng = np.random.default_rng(SEED)
size = (BLOCKS, BLOCK)
for name, x in [("normal", rng.normal(size=size)), ("laplace", rng.laplace(size=size)),
                ("student-t3", rng.standard_t(3, size=size)), ("uniform", rng.uniform(-1, 1, size=size))]:
    largest = np.abs(x).max(1, keepdims=True)
    deviation = np.sqrt((x * x).mean(1, keepdims=True))
    print(name, *(f"{e:.5f}" for e in (error(x, EVEN, largest), error(x, NF4, largest), error(x, LLOYD, deviation))))

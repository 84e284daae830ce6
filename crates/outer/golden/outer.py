"""Reference values for the outer optimizers: prints outer.txt.

Every vector is f32, written as hexadecimal bits. `torch` is θ after each step of torch.optim.SGD on
the CPU; it may fuse a product with a sum, so it is matched to a few units in the last place. `theta`
and `momentum` are the documented formula in NumPy, which rounds after every operation; they are
matched to the bit.

    pip install torch numpy && python outer.py > outer.txt
"""
import sys

import numpy as np
import torch

SEED, ELEMENTS, STEPS = 20261123, 8, 6
CASES = [("sgd", 1_000_000_000, 0), ("sgd", 700_000_000, 0), ("nesterov", 700_000_000, 900_000_000),
         ("nesterov", 1_000_000_000, 500_000_000), ("nesterov", 900_000_000, 0)]


def bits(vector):
    return " ".join(f"{x:08x}" for x in np.asarray(vector, dtype=np.float32).view(np.uint32))


print(f"# outer.py: torch {torch.__version__}, numpy {np.__version__}, python {sys.version.split()[0]}, seed {SEED}")
rng = np.random.default_rng(SEED)
for kind, lr_nano, mu_nano in CASES:
    theta = rng.normal(size=ELEMENTS).astype(np.float32)
    lr, mu = np.float32(lr_nano / 1e9), np.float32(mu_nano / 1e9)
    v = np.zeros(ELEMENTS, dtype=np.float32)
    weights = torch.nn.Parameter(torch.tensor(theta))
    sgd = torch.optim.SGD([weights], lr=lr_nano / 1e9, momentum=mu_nano / 1e9,
                          nesterov=kind == "nesterov" and mu_nano > 0)
    print(f"case {kind} {lr_nano} {mu_nano}")
    print("start", bits(theta))
    for step in range(STEPS):
        delta = (rng.normal(size=ELEMENTS) * 10.0 ** rng.integers(-4, 1)).astype(np.float32)
        weights.grad = torch.tensor(delta)
        sgd.step()
        if kind == "nesterov":
            v = mu * v + delta
            theta = theta - lr * (delta + mu * v)
        else:
            theta = theta - lr * delta
        print("delta", bits(delta))
        print("torch", bits(weights.detach().numpy()))
        print("theta", bits(theta))
        print("momentum", bits(v))

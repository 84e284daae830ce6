"""Reference values of robust rules: byzfl 0.0.11 with numpy, on vectors made from integers.

    pip install --no-deps byzfl==0.0.11 && pip install numpy scipy && python robust.py > robust.txt

byzfl imports torch wherever it is used; its numpy branches do not need it, so an empty module stands in
where torch is not installed. Lines: case, rule, f, then the result's first 12 coordinates.
"""

import importlib.util
import sys
import types

import numpy as np

try:
    import torch  # noqa: F401
except ImportError:
    torch = types.ModuleType("torch")
    torch.Tensor = type("Tensor", (), {})
    sys.modules["torch"] = torch

root = importlib.util.find_spec("byzfl").submodule_search_locations[0]
for name in ["byzfl", "byzfl.utils", "byzfl.aggregators", "byzfl.attacks"]:
    module = types.ModuleType(name)
    module.__path__ = [root + "/" + "/".join(name.split(".")[1:])]
    sys.modules[name] = module
torch_tools = types.ModuleType("byzfl.utils.torch_tools")
sys.modules["byzfl.utils.torch_tools"] = torch_tools
sys.modules["byzfl.utils"].torch_tools = torch_tools

from byzfl.aggregators import aggregators, preaggregators  # noqa: E402

for name in ["Average", "Clipping"]:
    source = aggregators if hasattr(aggregators, name) else preaggregators
    setattr(sys.modules["byzfl.aggregators"], name, getattr(source, name))

from byzfl.attacks import attacks  # noqa: E402

DIMENSION = 40


def value(case, i, k):
    """An integer hash over the integers, from -1 to 1 in steps of 2^-20."""
    x = (case * 7919 + i * 104729 + k * 1299709 + 12345) & 0xFFFFFFFF
    for _ in range(3):
        x = (x ^ (x >> 16)) * 0x45D9F3B & 0xFFFFFFFF
    return ((x >> 11) - (1 << 20)) / (1 << 20)


def vectors(case, count, faulty):
    """Honest vectors around a common one; the first `faulty` are far away."""
    rows = []
    for i in range(count):
        common = [value(case, 999, k) for k in range(DIMENSION)]
        own = [value(case, i, k) for k in range(DIMENSION)]
        scale, sign = (1.0, 1.0) if i >= faulty else (4.0, -1.0)
        rows.append([sign * scale * (c + 0.5 * o) for c, o in zip(common, own)])
    return np.array(rows)


def show(*words, result):
    print(*words, *[f"{x:.17g}" for x in np.asarray(result, dtype=float)[:12]])


def main():
    for case, (count, faulty) in enumerate([(4, 1), (5, 1), (8, 1), (9, 2), (16, 3)]):
        x = vectors(case, count, faulty)
        rules = {
            "mean": aggregators.Average(),
            "geometric-median": aggregators.GeometricMedian(nu=0.1, T=3),
            "krum": aggregators.Krum(f=faulty),
            "multi-krum": aggregators.MultiKrum(f=faulty),
            "minimum-diameter": aggregators.MDA(f=faulty),
            "centered-clipping": aggregators.CenteredClipping(L=3, tau=2.0),
        }
        for name, rule in rules.items():
            show(case, name, faulty, "plain", result=rule(x.copy()))
        rules["centered-clipping"] = aggregators.CenteredClipping(L=3, tau=2.0)
        mixed = preaggregators.NNM(f=faulty)(x.copy())
        for name, rule in rules.items():
            show(case, name, faulty, "mixed", result=rule(mixed.copy()))
        honest = x[faulty:]
        liars = {
            "sign-flip": attacks.SignFlipping(),
            "inner-product": attacks.InnerProductManipulation(tau=2.0),
            "a-little": attacks.ALittleIsEnough(tau=1.5),
            "mimic": attacks.Mimic(epsilon=0),
        }
        for name, liar in liars.items():
            show(case, name, faulty, "attack", result=liar(honest.copy()))


main()

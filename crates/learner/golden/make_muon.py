"""Writes muon.json beside this file.

    pip install torch==2.15.0
    python crates/learner/golden/make_muon.py
"""

import json
import pathlib

import torch

ROWS_COLUMNS = [(6, 4), (5, 3), (4, 1), (3, 7), (4, 4)]
MATRICES = [1, 3, 4]  # the rest are an embedding and a vector, AdamW's; the vector does not decay
MOMENTUM, DECAY = 0.95, 0.1


def noise(seed, count):
    """Values in [-1, 1) that every language can draw: the upper bits of a linear congruence."""
    values, state = [], seed
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        values.append(state / 2**30 - 1)
    return values


def newton_schulz(x):
    """github.com/MoonshotAI/Moonlight, examples/toy_train.py, in f64 in place of bf16."""
    tall = x.size(0) > x.size(1)
    x = x.double().T if tall else x.double()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon:
    """Nesterov as in toy_train.py: m = μ·m + g, then g + μ·m."""

    def __init__(self, parameters):
        self.moments = [(p, torch.zeros_like(p, dtype=torch.float64)) for p in parameters]

    def step(self, lr):
        for p, moment in self.moments:
            g = p.grad.double()
            moment.mul_(MOMENTUM).add_(g)
            update = newton_schulz(g + MOMENTUM * moment)
            scale = 0.2 * max(p.shape) ** 0.5
            p.data = (p.double() * (1 - lr * DECAY) - lr * scale * update).float().detach()


def cut(flat):
    sizes = [rows * columns for rows, columns in ROWS_COLUMNS]
    return [part.reshape(shape).clone() for part, shape in zip(torch.tensor(flat).split(sizes), ROWS_COLUMNS)]


def run(new, gradients):
    """The steps with `new(matrices)` for the matrices."""
    tensors = [t.requires_grad_() for t in cut(theta())]
    embedding, vector = tensors[0], tensors[2]
    muon = new([tensors[i] for i in MATRICES])
    adamw = torch.optim.AdamW(
        [{"params": [embedding], "weight_decay": DECAY}, {"params": [vector], "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    steps = []
    for step, gradient in enumerate(gradients):
        for tensor, grad in zip(tensors, cut(gradient)):
            tensor.grad = grad
        norm = torch.nn.utils.clip_grad_norm_(tensors, 1.0).item()
        lr = 0.01 * (step + 1)
        for group in adamw.param_groups:
            group["lr"] = lr
        adamw.step()
        muon.step(lr)
        flat = torch.cat([t.detach().flatten() for t in tensors]).tolist()
        steps.append({"lr": lr, "gradient": gradient, "norm": norm, "theta": flat})
    return steps


def theta():
    return torch.tensor(noise(1, 80)).tolist()


class Torchs:
    """torch.optim.Muon, which computes in bf16."""

    def __init__(self, parameters):
        self.inner = torch.optim.Muon(
            parameters, momentum=MOMENTUM, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"
        )

    def step(self, lr):
        self.inner.param_groups[0]["lr"] = lr
        self.inner.step()


if __name__ == "__main__":
    # Some gradients are clipped, some are not.
    scales = [0.05 if step % 3 == 0 else 2.0 for step in range(8)]
    gradients = [(torch.tensor(noise(step + 2, 80)) * scale).tolist() for step, scale in enumerate(scales)]
    steps = run(Muon, gradients)
    moved = 0.0
    for ours, theirs in zip(steps, run(Torchs, gradients)):
        moved += ours["lr"] * 0.2 * 7**0.5
        difference = (torch.tensor(ours["theta"]) - torch.tensor(theirs["theta"])).abs().max().item()
        # Two in a hundred is what bf16 loses; plain momentum in place of Nesterov's differs by twenty.
        assert difference < 0.03 * moved, f"torch.optim.Muon differs by {difference} after {moved}"
    versions = {"torch": torch.__version__, "script": "make_muon.py"}
    out = pathlib.Path(__file__).with_name("muon.json")
    out.write_text(json.dumps({"versions": versions, "theta": theta(), "steps": steps}) + "\n")

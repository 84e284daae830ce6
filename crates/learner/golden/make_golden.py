"""Writes model.json and adamw.json beside this file.

    cargo run --release -p atoll-learner --example tiny_checkpoint -- /tmp/tiny
    pip install -r python/requirements.txt
    python crates/learner/golden/make_golden.py /tmp/tiny
"""

import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / "python"))
from check_checkpoint import evaluate, load  # noqa: E402

VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "script": "make_golden.py"}
TEXT = "An atoll is a ring of small islands. Ein Atoll — 環礁 — is what they make together."
TOKENS = list("We hold these ".encode()) + [0, 255]


def write(name, value):
    (HERE / name).write_text(json.dumps({"versions": VERSIONS, **value}, ensure_ascii=False) + "\n")


def model(folder):
    cases = {}
    for name in ["tied", "untied"]:
        network, tokenizer = load(folder / name)
        with torch.no_grad():
            logits = network(torch.tensor([TOKENS])).logits[0]
        nats = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(TOKENS[1:]))
        report = evaluate(network, tokenizer, TEXT)
        cases[name] = {
            "logits": [[float(f"{x:.7g}") for x in row] for row in logits.tolist()],
            "loss": nats.item(),
            "text_loss": report["loss"],
            "text_tokens": report["tokens"],
        }
    text_ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(text_ids) == TEXT
    network, tokenizer = load(folder / "bpe")
    report = evaluate(network, tokenizer, TEXT)
    bpe_ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(bpe_ids) == TEXT and len(bpe_ids) < len(text_ids) - 20
    bpe = {"text_ids": bpe_ids, "text_loss": report["loss"], "text_tokens": report["tokens"]}
    write("model.json", {"tokens": TOKENS, "text": TEXT, "text_ids": text_ids, "cases": cases, "bpe": bpe})


def adamw():
    """A 3x4 matrix that decays and a vector of 5 that does not; a pattern for gradients."""
    flat = [((i * 37) % 17 - 8) / 10 for i in range(17)]
    matrix = torch.tensor(flat[:12]).reshape(3, 4).requires_grad_()
    vector = torch.tensor(flat[12:]).requires_grad_()
    optimizer = torch.optim.AdamW(
        [{"params": [matrix], "weight_decay": 0.1}, {"params": [vector], "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    steps = []
    for step in range(8):
        scale = 0.05 if step % 3 == 0 else 0.5
        gradient = torch.tensor([((i * 13 + step * 7) % 23 - 11) * scale for i in range(17)])
        matrix.grad, vector.grad = gradient[:12].reshape(3, 4).clone(), gradient[12:].clone()
        norm = torch.nn.utils.clip_grad_norm_([matrix, vector], 1.0).item()
        lr = 0.01 * (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        theta = torch.cat([matrix.detach().flatten(), vector.detach()]).tolist()
        steps.append({"lr": lr, "gradient": gradient.tolist(), "norm": norm, "theta": theta})
    write("adamw.json", {"theta": flat, "steps": steps})


if __name__ == "__main__":
    torch.manual_seed(0)
    model(pathlib.Path(sys.argv[1]))
    adamw()

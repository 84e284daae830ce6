"""Opens an exported checkpoint with transformers and measures its loss on a text.

    python python/check_checkpoint.py CHECKPOINT --data FILE

Prints {"loss": nats per token, "perplexity": ..., "tokens": predicted tokens}. The windows are those
of `atoll eval` (crates/learner/src/evaluate.rs): the text is encoded whole, without special tokens;
window i covers tokens [i*C, i*C + C], C = max_position_embeddings: C inputs and their next tokens.
The last, shorter window counts if it has a target.
"""

import argparse
import json
import math
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder):
    """The model in f32 and its tokenizer; nothing is fetched and no code of the folder is run."""
    options = {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    return model, AutoTokenizer.from_pretrained(folder, **options)


@torch.no_grad()
def evaluate(model, tokenizer, text):
    """Mean loss over every token of `text` but the first."""
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(tokens) < 2:
        raise SystemExit(f"the text has {len(tokens)} tokens; at least 2 are needed")
    context = model.config.max_position_embeddings
    nats = 0.0
    for start in range(0, len(tokens) - 1, context):
        window = torch.tensor(tokens[start : start + context + 1])
        logits = model(window[None, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    count = len(tokens) - 1
    return {"loss": nats / count, "perplexity": math.exp(nats / count), "tokens": count}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    # Newlines as they stand: a translated one would be another token.
    text = arguments.data.read_bytes().decode("utf-8")
    print(json.dumps(evaluate(*load(arguments.checkpoint), text)))

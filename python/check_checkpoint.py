"""Opens an exported checkpoint with transformers and measures its loss on a text.

    python python/check_checkpoint.py CHECKPOINT --data FILE

Prints {"loss": nats per token, "perplexity": ..., "tokens": predicted tokens}. The windows are those
of `atoll eval` (crates/learner/src/evaluate.rs): the text is encoded without special tokens, also where
it spells one; window i covers tokens [i*C, i*C + C], C = max_position_embeddings, at most 2048: C inputs
and their next tokens. Where the tokenizer puts a token before each text, every window begins with it and
covers tokens [i*C, i*C + C - 1]. The last, shorter window counts if it has a target.

Atoll cuts what goes on for more than 1024 bytes without a blank or the end of a word before it is
tokenized, and this script does not: on such a text the tokens at the cuts may differ.
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


def begin(tokenizer):
    """The token that the tokenizer puts before a text, in a list; empty if it puts none."""
    if getattr(tokenizer, "add_bos_token", None) is False:
        return []
    first = [tokenizer("a", add_special_tokens=special)["input_ids"][:1] for special in (True, False)]
    return first[0] if first[0] != first[1] else []


@torch.no_grad()
def evaluate(model, tokenizer, text):
    """Mean loss over every token of `text`, but for the first if nothing stands before it."""
    tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    before = begin(tokenizer)
    overlap = 0 if before else 1
    count = len(tokens) - overlap
    if count < 1:
        raise SystemExit(f"the text has {len(tokens)} tokens; at least {1 + overlap} are needed")
    context = min(model.config.max_position_embeddings, 2048)
    nats = 0.0
    for start in range(0, count, context):
        window = torch.tensor(before + tokens[start : start + context + overlap])
        logits = model(window[None, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    return {"loss": nats / count, "perplexity": math.exp(nats / count), "tokens": count}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    # Newlines as they stand: a translated one would be another token.
    text = arguments.data.read_bytes().decode("utf-8")
    print(json.dumps(evaluate(*load(arguments.checkpoint), text)))

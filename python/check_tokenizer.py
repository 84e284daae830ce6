"""Opens the tokenizer of an exported checkpoint with transformers, without torch.

    python python/check_tokenizer.py CHECKPOINT

Checks that a batch of unequal texts can be padded, that no length is set for generation, and what
becomes of a text that spells a special token.
"""

import json
import pathlib
import sys

from transformers import AutoTokenizer, GenerationConfig

TEXT = "alpha beta <|endoftext|> gamma"


def check(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    end = tokenizer.eos_token_id
    batch = tokenizer(["a", "bb cc dd ee"], padding=True)["input_ids"]
    assert len(batch[0]) == len(batch[1]) and batch[0][-1] == tokenizer.pad_token_id == end, batch
    generation = GenerationConfig.from_pretrained(folder)
    stored = json.loads((pathlib.Path(folder) / "generation_config.json").read_text())
    assert "max_length" not in stored and generation.pad_token_id == end and generation.eos_token_id == end
    special = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    split = tokenizer(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(split) == TEXT
    return {
        "pad_token": tokenizer.pad_token,
        "padded": batch[0],
        "end_from_text": end in special,
        "end_from_text_when_split": end in split,
        "split_tokens": split,
    }


if __name__ == "__main__":
    print(json.dumps(check(sys.argv[1])))

"""Records what `transformers` continues 20 prompts with: `python -m tests.engine.record_greedy`.

float32, greedy, end-of-sequence ignored. The result is data/smollm2_greedy.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.models import smollm2_dir

RECORDED = Path(__file__).parent / "data" / "smollm2_greedy.json"
NEW_TOKENS = 64
CHATS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences how a bicycle stays upright.",
    "List five animals that live in the Arctic.",
    "Translate to Spanish: The weather is nice today.",
    "What is 17 times 23? Show the steps.",
    "Tell me a joke about a computer.",
    "Who wrote Romeo and Juliet, and when?",
    "Give me a recipe for pancakes.",
    "Summarise: Water boils at 100 degrees Celsius at sea level, and lower on mountains.",
]
TEXTS = [
    "Once upon a time, in a village by the river,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics are",
    "In 1969, the first human being",
    '{"name": "Ada", "born": 1815, "known_for": [',
    "Dear Sir or Madam,\n\nI am writing to",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "1, 1, 2, 3, 5, 8, 13,",
    "Q: Why is the sky blue?\nA:",
    "# Installation\n\nFirst, install the package with",
]


def main() -> None:
    directory = smollm2_dir()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in CHATS
    ]
    prompts = chats + [tokenizer.encode(text) for text in TEXTS]
    rows = [{"prompt_ids": ids, "greedy_ids": _continued(model, ids)} for ids in prompts]
    lines = ",\n".join(json.dumps(row) for row in rows)
    RECORDED.write_text(f"[\n{lines}\n]\n")


def _continued(model: torch.nn.Module, prompt_ids: list[int]) -> list[int]:
    ids = torch.tensor([prompt_ids])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
    )
    return out[0, len(prompt_ids) :].tolist()


if __name__ == "__main__":
    main()

"""Record the token ids that llama.cpp gives, for test_gguf_tokenizer.py.

    python -m venv VENV && VENV/bin/pip install xllamacpp
    python -m tests.checkpoint.record_llama_cpp VENV/bin/python SmolLM2-135M-Instruct.Q4_1.gguf

writes data/llama_cpp_ids.json: for each kind of tokenizer, the ids of every text in `NASTY`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.checkpoint.kinds import kinds
from tests.checkpoint.nasty import NASTY
from tests.checkpoint.tiny_gguf import DATA, tokenizer_gguf

RECORDED = DATA / "llama_cpp_ids.json"

_TOKENISE = """
import json, sys, urllib.request, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup, params.port = 64, 1, False, 0
server = xllamacpp.Server(params)
url = server.listening_address + "/tokenize"
def ids(text):
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["tokens"]
open(sys.argv[2], "w").write(json.dumps([ids(text) for text in json.load(sys.stdin)]))
"""


def llama_cpp_ids(python: str, gguf: Path) -> list[list[int]]:
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(
            [python, "-c", _TOKENISE, str(gguf), out.name],
            input=json.dumps(NASTY).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )
        ids: list[list[int]] = json.load(out)
        return ids


def main(python: str, smollm2: str) -> None:
    recorded = {"smollm2": llama_cpp_ids(python, Path(smollm2))}
    with tempfile.TemporaryDirectory() as directory:
        for kind, vocab in kinds().items():
            gguf = tokenizer_gguf(Path(directory) / "tokenizer.gguf", vocab)
            recorded[kind] = llama_cpp_ids(python, gguf)
    lines = [
        f"{json.dumps(kind)}: {json.dumps(ids, separators=(',', ':'))}"
        for kind, ids in recorded.items()
    ]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""llama.cpp's server from the wheel, until it is killed. Runs in the peer's environment.

Its one argument is a JSON object: model, threads, port, streams, tokens (of KV in all).
"""

from __future__ import annotations

import json
import sys
import threading

import xllamacpp

from benchmarks.worker import die_with_parent


def main() -> None:
    die_with_parent()
    options = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    params.port = options["port"]
    params.n_parallel = options["streams"]
    params.n_ctx = options["tokens"]
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    # What was answered before must not be reused: every round asks the same.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.n_threads_http = options["streams"] + 2
    params.ui = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

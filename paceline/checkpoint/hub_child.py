"""The child process that talks to the Hugging Face hub; run by path, on its own.

`list REPO REVISION` prints {"commit": …, "files": [{"name", "size", "sha256"}, …]};
`fetch REPO COMMIT DIRECTORY FILE…` downloads files and resumes what an earlier fetch left there.
"""

from __future__ import annotations

import json
import sys

from huggingface_hub import HfApi, hf_hub_download

REQUEST_TIMEOUT_S = 5.0


def list_files(repo: str, revision: str) -> None:
    info = HfApi().model_info(
        repo, revision=revision, files_metadata=True, timeout=REQUEST_TIMEOUT_S
    )
    files = [
        {
            "name": file.rfilename,
            "size": file.size or 0,
            "sha256": file.lfs.sha256 if file.lfs else None,
        }
        for file in info.siblings or ()
    ]
    json.dump({"commit": info.sha or revision, "files": files}, sys.stdout)


def fetch(repo: str, commit: str, directory: str, *names: str) -> None:
    for name in names:
        hf_hub_download(repo, name, revision=commit, local_dir=directory)


def main(verb: str, *arguments: str) -> None:
    try:
        if verb == "list":
            list_files(*arguments)
        else:
            fetch(*arguments)
    except Exception as error:
        sys.exit(f"error: {type(error).__name__}: {' '.join(str(error).split())[:500]}")


if __name__ == "__main__":
    main(*sys.argv[1:])

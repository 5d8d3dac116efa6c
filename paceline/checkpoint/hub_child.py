"""The process that talks to the Hugging Face hub; run by path, on its own.

`list REPO REVISION` prints {"commit": …, "files": [{"name", "size", "sha256"}, …]};
`fetch REPO COMMIT DIRECTORY SIZE:NAME…` downloads files and resumes what an earlier fetch left
there as NAME.partial (the hub's own downloader begins such a file again).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers

REQUEST_TIMEOUT_S = 5.0
CHUNK_BYTES = 1 << 20
"""What has arrived is on disk, visible and good for resuming, in steps of this."""


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


def fetch(repo: str, commit: str, directory: str, *wanted: str) -> None:
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    for entry in wanted:
        size, _, name = entry.partition(":")
        target = Path(directory) / name
        if not target.is_file():
            _download(hf_hub_url(repo, name, revision=commit), target, int(size))


def _download(url: str, target: Path, size: int) -> None:
    partial = target.with_name(f"{target.name}.partial")
    with partial.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=size,
        )
    partial.rename(target)


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

"""Checkpoints: where they come from, how they are kept, and how their text becomes tokens."""

from paceline.checkpoint.cards import DEFAULT_MODEL, Card, cards
from paceline.checkpoint.chat import ChatTemplate, no_chat_template
from paceline.checkpoint.gguf_import import import_gguf
from paceline.checkpoint.import_dir import import_dir
from paceline.checkpoint.manifest import Manifest, StoredFile
from paceline.checkpoint.progress import OnProgress, Progress
from paceline.checkpoint.pull import pull, resolve
from paceline.checkpoint.store import Store
from paceline.checkpoint.tokenizer import Detokenizer, Tokenizer, read_eos_ids

__all__ = [
    "DEFAULT_MODEL",
    "Card",
    "ChatTemplate",
    "Detokenizer",
    "Manifest",
    "OnProgress",
    "Progress",
    "Store",
    "StoredFile",
    "Tokenizer",
    "cards",
    "import_dir",
    "import_gguf",
    "no_chat_template",
    "pull",
    "read_eos_ids",
    "resolve",
]

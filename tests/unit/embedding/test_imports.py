"""Importing the adapters loads no model and opens nothing."""

import json
import subprocess
import sys

PROBE = """
import json, os, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
import memfast.embedding.batch, memfast.embedding.none, memfast.embedding.openai, memfast.embedding.wordllama
from memfast.embedding.openai import OpenAIEmbedder
from memfast.embedding.wordllama import WordLlamaEmbedder
import threading
before = threading.active_count()
WordLlamaEmbedder()
OpenAIEmbedder(base_url="http://127.0.0.1:1/v1", model="m", dimensions=3)
heavy = {"wordllama", "tokenizers", "safetensors", "huggingface_hub", "requests", "pydantic"}
loaded = sorted(heavy & set(sys.modules))
print(json.dumps([opened, loaded, threading.active_count() - before]))
"""


def test_importing_and_making_embedders_loads_no_model_and_opens_no_socket():
    """A fresh interpreter has none of the model's libraries, no socket and no thread afterwards."""
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(answer.stdout) == [[], [], 0]

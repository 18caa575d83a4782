"""Does it find what it was told? LoCoMo for retrieval, recorded agent runs for fidelity."""

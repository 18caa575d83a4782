"""How long each operation takes, by what answers it and by how many ask: docs/latency.md."""

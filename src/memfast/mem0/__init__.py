"""What mem0's own Python client and its open-source server's clients use, below `/mem0`. See docs/mem0.md."""

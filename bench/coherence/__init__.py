"""Whether any worker ever answers from a state older than the last acknowledged write."""

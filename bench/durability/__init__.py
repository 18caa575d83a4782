"""Whether an acknowledged write is ever lost, and what was not acknowledged ever half there."""

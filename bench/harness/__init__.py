"""What the benchmarks share: a real service, a cheap load client, interleaved pairs, tables."""

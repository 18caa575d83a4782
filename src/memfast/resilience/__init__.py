"""State machines and clocks: no I/O of their own."""

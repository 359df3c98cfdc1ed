"""Languages of bytes and the automata that accept them."""

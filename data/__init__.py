"""Records, task sources and splits, and the corpus: nothing here knows policies or verifiers."""

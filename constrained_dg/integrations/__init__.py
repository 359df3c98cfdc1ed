"""Models of other packages as denoisers; each module needs its package, and nothing else here does."""

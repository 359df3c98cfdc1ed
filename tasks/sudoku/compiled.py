from tasks.compiled import compiled  # noqa: F401

"""Known results of exact mode, as data that ships with the engine, and what re-derives them."""

"""Model files: what exists (`catalog`), what one is (`package`, `gguf`), and where it is kept (`store`)."""

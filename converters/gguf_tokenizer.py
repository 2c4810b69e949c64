def tokenizer_of(f): raise NotImplementedError

"""A model's tokens by its own tokenizer: one library each."""

"""The nouns of the product: frozen values, no input or output, nothing of ours imported."""

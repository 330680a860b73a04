"""What a base model is made of: folders, sources, sizes, adapters, 4- and 8-bit weights."""

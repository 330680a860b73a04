"""All that exists only because there is no GPU and no licence: rooms and a base model pre-trained on them."""

"""Published models as files: what config.json says, how large the model is, and the card of a merged one. No torch."""

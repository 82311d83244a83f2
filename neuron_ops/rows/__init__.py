"""From raw rows to token sequences of one length: everything `prepare` is made of."""

"""Turning raw rows into token sequences of one length: the parts of `prepare`."""

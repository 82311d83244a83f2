"""Which rows are held out for evaluation, and which were seen before.

Both are decided by what a row says, never by where it stands: adding, removing or reordering rows moves no other row
between the splits. The split looks at the prompt alone, so that two answers to one question never end up on both
sides, which would let training see what evaluation asks.
"""

import hashlib

from neuron_ops.rows.conversation import Conversation, canonical_bytes


def is_held_out(conversation: Conversation, fraction: float) -> bool:
    """Whether the row is evaluated instead of trained on; true for about `fraction` of all prompts."""
    digest = hashlib.blake2b(canonical_bytes(conversation.prompt), digest_size=8).digest()
    return int.from_bytes(digest) < fraction * 2**64


class SeenRows:
    """The rows so far, by 128-bit digests (some 100 bytes of memory each)."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, conversation: Conversation) -> bool:
        """Remember a row; false when it is a duplicate of an earlier one."""
        digest = hashlib.blake2b(canonical_bytes(conversation.messages), digest_size=16).digest()
        if digest in self._digests:
            return False
        self._digests.add(digest)
        return True

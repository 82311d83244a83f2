"""Which rows are held out for evaluation, and which are duplicates.

The content of a row decides both, never its position: adding, removing or reordering rows moves no other row between
the splits. The split depends only on the prompt, so two answers to one question never end up in different splits, which
would let training see the questions of evaluation.
"""

import hashlib

from neuron_ops.rows.conversation import Conversation, canonical_bytes


def is_held_out(conversation: Conversation, fraction: float) -> bool:
    """Whether the row is for evaluation, not for training; true for about `fraction` of all prompts."""
    digest = hashlib.blake2b(canonical_bytes(conversation.prompt), digest_size=8).digest()
    return int.from_bytes(digest) < fraction * 2**64


class SeenRows:
    """The rows so far, as 128-bit digests (about 100 bytes of memory each)."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, conversation: Conversation) -> bool:
        """Remember a row; False if it is a duplicate of an earlier one."""
        digest = hashlib.blake2b(canonical_bytes(conversation.messages), digest_size=16).digest()
        if digest in self._digests:
            return False
        self._digests.add(digest)
        return True

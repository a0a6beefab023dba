"""Does a text end in one short piece, said over and over?"""

__all__ = ["loops"]

_LOOP_CHARS = 1000
"""So much of one short piece over and over is no answer any more."""
_LOOP_PIECE_CHARS = 80
"""The longest piece; the embedded simulator says one sentence of 83 characters all the time."""
_LOOP_TAIL_CHARS = 100
"""What stands behind a loop may close a string, an object or a sentence."""


def loops(text: str) -> bool:
    """Tell whether the last 1,000 characters, but for the very last, are one piece repeated."""
    end = text[-_LOOP_CHARS - _LOOP_TAIL_CHARS : -_LOOP_TAIL_CHARS]
    # Where its last stretch was said before is one piece back, or several short ones.
    piece = len(end) - _LOOP_PIECE_CHARS - end.rfind(end[-_LOOP_PIECE_CHARS:], 0, -1)
    is_short = len(end) == _LOOP_CHARS and piece <= _LOOP_PIECE_CHARS
    return is_short and end[piece:] == end[:-piece]

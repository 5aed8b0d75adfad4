"""Numbers with nouns."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """Write a number and its noun.

    Args:
        count: how many.
        one: the noun, or a phrase that begins with it, for a count of 1.
        many: the same for other counts; by default with an ``s`` at its end.

    >>> counted(1, "image"), counted(2, "image"), counted(0, "image is", "images are")
    ('1 image', '2 images', '0 images are')
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def dropped(points: float) -> str:
    """Say how far a percentage has dropped; a gain is no negative drop.

    >>> dropped(0.266), dropped(-0.266), dropped(0.001)
    ('0.27 points lower', '0.27 points higher', 'unchanged')
    """
    size = f"{abs(points):.2f}"
    return "unchanged" if float(size) == 0 else f"{size} points {'lower' if points > 0 else 'higher'}"

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


def share_of(part: int, count: int, one: str, many: str = "") -> str:
    """Write a part of some things: ``none of the 3 images``, ``1 of 3 images``; ``no image`` and ``the image`` of one.

    >>> share_of(0, 3, "image"), share_of(1, 3, "image"), share_of(0, 1, "image"), share_of(1, 1, "image")
    ('none of the 3 images', '1 of the 3 images', 'no image', 'the image')
    """
    if count == 1:
        return f"{'the' if part else 'no'} {one}"
    return f"{part or 'none'} of the {counted(count, one, many)}"


def dropped(points: float) -> str:
    """Say how far a percentage has dropped; a gain is no negative drop.

    >>> dropped(0.266), dropped(-0.266), dropped(0.001)
    ('0.27 points lower', '0.27 points higher', 'unchanged')
    """
    size = f"{abs(points):.2f}"
    return "unchanged" if float(size) == 0 else f"{size} points {'lower' if points > 0 else 'higher'}"

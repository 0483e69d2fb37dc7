"""Blocks of images: large arrays are worked on in parts, so that memory is bounded."""

BLOCK = 2**22  # entries (images x classes) that are worked on at once


def blocks(images: int, classes: int) -> list[slice]:
    """Returns the rows of each block of an array (images, classes), in their order."""
    size = max(1, BLOCK // classes)
    return [slice(start, min(start + size, images)) for start in range(0, images, size)]

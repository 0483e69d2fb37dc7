import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import strangers


@pytest.fixture(scope='module')
def familiar():
    """Images uint8 (40, 11, 9, 3), labels and rows."""
    rng = np.random.default_rng(0)
    images = (rng.integers(20, 200, (40, 1, 1, 3)) + rng.integers(-20, 20, (40, 11, 9, 3)))
    return images.astype(np.uint8), np.arange(40) % 3, np.arange(100, 140)


@pytest.mark.parametrize('kind', strangers.KINDS)
def test_a_stranger_depends_on_its_row_and_seed_alone(kind, familiar):
    images, labels, rows = familiar
    made = strangers.make(kind, *familiar)
    assert made.dtype == np.uint8 and made.shape == images.shape and (made != images).any((1, 2, 3)
                                                                                        ).all()
    assert (made == strangers.make(kind, *familiar)).all()
    if kind != 'blend':  # which reads the other images
        part = strangers.make(kind, images[5:9], labels[5:9], rows[5:9])
        assert (part == made[5:9]).all()
    if kind != 'inverted':
        assert (made != strangers.make(kind, *familiar, seed=1)).any()
    if kind not in ('inverted', 'blend'):
        same = np.repeat(images[:1], 2, axis=0)
        twice = strangers.make(kind, same, labels[:2], rows[:2])
        assert (twice[0] != twice[1]).any()


def test_what_each_kind_is(familiar):
    images, labels, _ = familiar
    made = {kind: strangers.make(kind, *familiar) for kind in strangers.KINDS}
    assert (made['inverted'].astype(int) + images == 255).all()
    noise = made['gaussian noise'].astype(float)
    np.testing.assert_allclose(noise.mean((0, 1, 2)), images.mean((0, 1, 2)), rtol=0.05)
    assert made['uniform noise'].min() < 5 and made['uniform noise'].max() > 250
    for kind in ('shuffled pixels', 'shuffled patches'):  # each image has its own pixels
        own, other = (np.sort(array.reshape(40, -1, 3).astype(int) @ (1, 256, 65536), axis=1)
                      for array in (images, made[kind]))
        assert (own == other).all()
    corner = (slice(None), slice(8, None))  # a division of 11 by 4 leaves 3 rows over
    assert (made['shuffled patches'][corner] == images[corner]).all()
    for place, image in enumerate(made['blend']):
        others = (images[place].astype(int) + images) // 2
        mixed = (others == image).all((1, 2, 3))
        assert mixed.any() and (labels[mixed] != labels[place]).all()


def test_small_images_have_patches_of_pixels():
    images = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5, 1)
    made = strangers.make('shuffled patches', images, np.arange(2), np.arange(2))
    assert (np.sort(made.reshape(2, -1)) == np.sort(images.reshape(2, -1))).all()


def test_what_cannot_be_made_is_refused(familiar):
    images, labels, rows = familiar
    with pytest.raises(ConfigError, match="no strangers 'ghosts'; there are gaussian noise"):
        strangers.make('ghosts', *familiar)
    with pytest.raises(DataError, match='blend: all images have the same class'):
        strangers.make('blend', images, 0 * labels, rows)
    with pytest.raises(DataError, match='images: float32'):
        strangers.make('inverted', images.astype(np.float32), labels, rows)

"""Names of splits as people write them: train or Training, val, Valid or eval, test or Testing.

Case, blanks and the signs - and _ make no difference, nor does an ending such as in `test_set`.
"""

import logging
import re
from collections.abc import Iterable

from imgjax.errors import ConfigError, nearest

log = logging.getLogger('imgjax')

TRAIN = ('train', 'training', 'trn')
# What the split `held_out` is: the first of these that a dataset has.
HELD_OUT = ('held_out', 'holdout', 'val', 'validation', 'valid', 'validate', 'dev', 'eval',
            'evaluation', 'evaluate', 'test', 'testing', 'tst')

_KINDS = {'train': TRAIN, 'held_out': HELD_OUT[:2], 'val': HELD_OUT[2:10], 'test': HELD_OUT[10:]}
_KIND_OF = {name.replace('_', ''): kind for kind, names in _KINDS.items() for name in names}
_ENDINGS = ('dataset', 'set', 'data', 'split', 'images')
_RANK = {name.replace('_', ''): rank for rank, name in enumerate(HELD_OUT)}


def plain(name: str) -> str:
    """Returns the plain form of a name, which is the same for 'Val', ' val' and 'val_set'."""
    word = re.sub(r'[\s_-]', '', name).lower()
    for ending in _ENDINGS:
        if word.removesuffix(ending) in _KIND_OF:
            return word.removesuffix(ending)
    return word


def kind(name: str) -> str:
    """Returns what a split of this name is for: train, held_out, val, test, or ''."""
    return _KIND_OF.get(plain(name), '')


def is_held_out(name: str) -> bool:
    """Returns whether a split of this name is for evaluation."""
    return kind(name) in ('held_out', 'val', 'test')


def contains_split_name(name: str) -> bool:
    """Returns whether a word of the name is a name of splits, as in seg_train and val2."""
    return any(kind(word) for word in re.split('[^a-z]+', name.lower()))


def bare(spec: str) -> list[str]:
    """Returns the names of the splits in a spec: train and test of 'train[:90%]+test'."""
    return [part.split('[')[0].strip() for part in spec.split('+')]


def find(split: str, available: Iterable[str]) -> str | None:
    """Returns the available split that a name means; None if it means none.

    That is the split of this very name, else one whose name differs in case, blanks or signs, else
    one for the same purpose. `held_out` means the first of HELD_OUT; `val` comes before `Val`.

    >>> from imgjax.data import split_names
    >>> split_names.find('val', ['train', 'Validation']), split_names.find('val', ['train'])
    ('Validation', None)

    Raises:
      ConfigError: several splits fit, whose names differ in no more than case, blanks or signs.
    """
    available = sorted(available)
    if split in available:
        return split
    alike = [name for name in available if plain(name) == plain(split)]
    wanted = kind(split)
    same = alike or [name for name in available if wanted and (
        kind(name) == wanted or (wanted == 'held_out' and is_held_out(name)))]
    same.sort(key=lambda name: (_RANK.get(plain(name), 0), name not in (*TRAIN, *HELD_OUT), name))
    first = [name for name in same if plain(name) == plain(same[0])]
    if len(first) > 1 and first[0] not in (*TRAIN, *HELD_OUT):
        raise ConfigError(f'config.data: the split {split!r} may be {first[0]!r} or {first[1]!r}; '
                          'name one of them in train_split or eval_split')
    return first[0] if first else None


def resolve(split: str, available: Iterable[str], refusal: str) -> str:
    """Returns the available split that a name means, as `find` does, and logs another name.

    Raises:
      ConfigError: no split fits, where the line begins with `refusal`, or several do.
    """
    available = sorted(available)
    found = find(split, available)
    if found is not None:
        if plain(found) != plain(split):
            log.info('%s is the split %r of this dataset', split, found)
        return found
    if is_held_out(split) and find('train', available) and not any(map(is_held_out, available)):
        raise ConfigError(f'{refusal}; it has {", ".join(available)}; set config.data.eval_split='
                          'held_out to hold a share of each class out of train')
    raise ConfigError(f'{refusal}; it has {", ".join(available[:10]) or "none"}'
                      f'{nearest(split, available)}')


def resolve_share(split: str, available: Iterable[str],
                  refusal: str) -> tuple[str, bool | None]:
    """Returns (an available split, which part of it) that a name means.

    The part is None for a whole split. Where the dataset has no split for evaluation, `train` is
    (train, False), what `held_out_share` leaves, and `held_out`, `val`, `test` ... are
    (train, True), what it holds out.

    Raises:
      ConfigError: no such split; the line begins with `refusal`.
    """
    available = sorted(available)
    train = find('train', available)
    alone = train is not None and not any(map(is_held_out, available))
    if alone and split not in set(available) - {train} and kind(split):
        return train, kind(split) != 'train'
    return resolve(split, available, refusal), None

"""Names of splits as the field writes them: train or Training, val, Valid or eval, test or Testing.

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
    """Returns what names of one split share: the same for 'Val', ' val' and 'val_set'."""
    word = re.sub(r'[\s_-]', '', name).lower()
    for ending in _ENDINGS:
        if word.removesuffix(ending) in _KIND_OF:
            return word.removesuffix(ending)
    return word


def kind(name: str) -> str:
    """Returns what a name says that a split is for: train, held_out, val, test; '' if nothing."""
    return _KIND_OF.get(plain(name), '')


def is_held_out(name: str) -> bool:
    """Returns whether a name says that a split is for evaluation."""
    return kind(name) in ('held_out', 'val', 'test')


def seems(name: str) -> bool:
    """Returns whether a word of the name is that of a split, as in seg_train and val2."""
    return any(kind(word) for word in re.split('[^a-z]+', name.lower()))


def bare(spec: str) -> list[str]:
    """Returns the splits that a spec such as 'train[:90%]+test' takes from."""
    return [part.split('[')[0].strip() for part in spec.split('+')]


def find(split: str, there: Iterable[str]) -> str | None:
    """Returns which of the splits `there` is meant; None if none is.

    It is the one of that very name, else the one that differs in case, blanks or signs, else one
    that is for the same. `held_out` is the first of HELD_OUT; `val` comes before `Val`.

    Raises:
      ConfigError: it may be several, which differ in no more than case, blanks or signs.
    """
    there = sorted(there)
    if split in there:
        return split
    alike = [name for name in there if plain(name) == plain(split)]
    wanted = kind(split)
    same = alike or [name for name in there if wanted and (
        kind(name) == wanted or (wanted == 'held_out' and is_held_out(name)))]
    same.sort(key=lambda name: (_RANK.get(plain(name), 0), name not in (*TRAIN, *HELD_OUT), name))
    first = [name for name in same if plain(name) == plain(same[0])]
    if len(first) > 1 and first[0] not in (*TRAIN, *HELD_OUT):
        raise ConfigError(f'config.data: the split {split!r} may be {first[0]!r} or {first[1]!r}; '
                          'name one of them in train_split or eval_split')
    return first[0] if first else None


def resolve(split: str, there: Iterable[str], refusal: str) -> str:
    """Returns which of the splits `there` is meant, as `find` does, and logs one of another name.

    Raises:
      ConfigError: none, or several; the line begins with `refusal` where it is none.
    """
    there = sorted(there)
    found = find(split, there)
    if found is not None:
        if plain(found) != plain(split):
            log.info('%s is the split %r of this dataset', split, found)
        return found
    if is_held_out(split) and find('train', there) and not any(map(is_held_out, there)):
        raise ConfigError(f'{refusal}; it has {", ".join(there)}; set config.data.eval_split='
                          'held_out to hold a share of each class out of train')
    raise ConfigError(f'{refusal}; it has {", ".join(there[:10]) or "none"}{nearest(split, there)}')


def resolve_share(split: str, there: Iterable[str], refusal: str) -> tuple[str, bool | None]:
    """Returns (split of `there`, which part of it), where `train` alone can be divided.

    The part is None for all of it; where nothing is held out on disk, `train` is (train, False):
    what `held_out_share` leaves, and `held_out`, `val`, `test` ... are (train, True).

    Raises:
      ConfigError: no such split; the line begins with `refusal`.
    """
    there = sorted(there)
    train = find('train', there)
    alone = train is not None and not any(map(is_held_out, there))
    if alone and split not in set(there) - {train} and kind(split):
        return train, kind(split) != 'train'
    return resolve(split, there, refusal), None

"""Class names of weights, by which the outputs of a head get the order of the dataset."""

import collections
import json
import logging
import os
import re
import unicodedata

import numpy as np

from imgjax.errors import DataError, first_few
from imgjax.interop.state_dict import in_order

log = logging.getLogger('imgjax')

_NO_NAME = re.compile(r'LABEL_\d+')  # transformers writes these for classes without names
_NUMBER = re.compile(r'\d+')


def beside(path: str) -> tuple[tuple[str, ...], ...]:
    """Returns the class names in the config.json beside a file of weights, () if there are none.

    The file is ours or timm's (`label_names`, with `label_descriptions` as a second set of names),
    or that of transformers (`id2label`).
    """
    try:
        with open(os.path.join(os.path.dirname(path), 'config.json'), encoding='utf-8') as file:
            stored = json.load(file)
    except (OSError, ValueError):
        return ()
    if not isinstance(stored, dict):
        return ()
    inner = stored.get('pretrained_cfg')
    for part in (stored, inner if isinstance(inner, dict) else {}):
        names = in_order(part.get('label_names')) or in_order(part.get('id2label')) or (
            in_order(part.get('label2id'), numbers=True))
        if not names or all(map(_NO_NAME.fullmatch, names)):
            continue
        texts = part.get('label_descriptions')
        if isinstance(texts, dict) and all(isinstance(texts.get(name), str) for name in names):
            return names, tuple(texts[name] for name in names)
        return (names,)
    return ()


def in_order_of(tensors: dict[str, np.ndarray], names: tuple[tuple[str, ...], ...],
                class_names: tuple[str, ...], heads: tuple[str, ...],
                softmax: bool = True) -> dict[str, np.ndarray]:
    """Returns tensors whose heads have an output for each class of the dataset, in its order.

    A head with one output z, whose sigmoid is the probability of the second of two classes, gets
    two: (0, z) for softmax and (-z, z) for one sigmoid per class, with equal probabilities. One
    line of the log says what was changed, or that no names confirm the order.

    >>> import numpy as np
    >>> from imgjax.interop import labels
    >>> weights = {'head.bias': np.array([0.1, 0.2, 0.3])}
    >>> labels.in_order_of(weights, (('dog', 'cat', 'bird'),), ('cat', 'dog'), ('head',))
    {'head.bias': array([0.2, 0.1])}

    Args:
      tensors: the weights by timm's names.
      names: the class names of the weights, as one or several sets of names, or ().
      class_names: those of the dataset; () changes nothing.
      heads: prefixes of the names of classifiers.
      softmax: whether the classes exclude each other in the loss.

    Raises:
      DataError: the weights lack a class of the dataset.
    """
    if any(isinstance(one, str) for one in names):
        raise TypeError(f'names: takes sets of names, such as (("cat", "dog"),), got {names!r}')
    of_head = [name for name in tensors if name.startswith(tuple(f'{head}.' for head in heads))]
    if not of_head or not class_names:
        return tensors
    outputs = tensors[of_head[0]].shape[:1]
    if any(tensors[name].ndim < 1 or tensors[name].shape[:1] != outputs for name in of_head):
        return tensors
    if outputs == (1,) and len(class_names) == 2:
        first = 0 if softmax else -1
        tensors = tensors | {name: np.concatenate([first * tensors[name], tensors[name]])
                             for name in of_head}
        log.warning('the weights have one output, a binary classifier: its sigmoid is taken for '
                    'the probability of %r, the second class', class_names[1])
        outputs = (2,)
    problem = _problem_of(names, outputs, class_names)
    if problem:
        if outputs == (len(class_names),):
            log.warning('the weights %s: their outputs are taken for the classes of the dataset in '
                        'its order, %s', problem, first_few(map(repr, class_names), 3))
        return tensors
    names = tuple(some for some in names if (len(some),) == outputs)
    rows = next(filter(None, (_rows(some, class_names) for some in names)), None)
    if rows is None:
        known = collections.Counter(_plain(name) for name in names[0])
        odd = [name for name in class_names if known[_plain(name)] != 1]
        raise DataError(
            f'the head is for other classes: {len(odd)} of the {len(class_names)} of the dataset '
            f'are not among its {outputs[0]} label names, or are there twice, first '
            f'{(odd or class_names)[0]!r} (it has '
            f"{first_few(map(repr, names[0]), 3)}); set config.init.head='new' for a newly "
            'initialised classifier')
    if rows == list(range(outputs[0])):
        return tensors
    log.info('the head is put in the order of the dataset by the names of classes: %r is output '
             '%d of the weights%s', class_names[0], rows[0],
             f'; {outputs[0] - len(rows)} other classes are left out'
             if outputs[0] > len(rows) else '')
    return tensors | {name: tensors[name][rows] for name in of_head}


def _problem_of(names, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> str:
    """Returns why the names do not identify the outputs of a head, '' if they do."""
    if not names:
        return 'name no classes'
    if all((len(some),) != outputs for some in names):
        return f'name {len(names[0])} classes and have {outputs[0]} outputs'
    numbered = all(_NUMBER.fullmatch(name) for some in names for name in some)
    if numbered and not all(map(_NUMBER.fullmatch, class_names)):
        return 'have numbers for names of classes'
    return ''


def _rows(names: tuple[str, ...], class_names: tuple[str, ...]) -> list[int] | None:
    """Returns the index in `names` of each class, None if one is missing or not unique."""
    for form in (str, _plain):
        count = collections.Counter(map(form, names))
        wanted = [form(name) for name in class_names]
        if len(set(wanted)) == len(wanted) and all(count[name] == 1 for name in wanted):
            places = {form(name): i for i, name in enumerate(names)}
            return [places[name] for name in wanted]
    return None


def _plain(name: str) -> str:
    """Returns a name in lower case with one blank between words."""
    return re.sub(r'[\s_-]+', ' ', unicodedata.normalize('NFC', name)).strip().casefold()

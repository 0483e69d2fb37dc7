"""What the parts of a card read: answers, features and pixels, computed when first asked for.

Everything here is stored in the folder of the card (store.py), so that a card that was stopped
goes on without computing it again.
"""

import functools
import logging
from collections.abc import Sequence

import jax
import numpy as np

from imgjax import data, step
from imgjax.card import forward, functions, pixels, store
from imgjax.card.forward import Answers
from imgjax.card.model import Model
from imgjax.data import Source, records, slices
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.evals import answers as answers_lib
from imgjax.study import code

log = logging.getLogger('imgjax')

DEPTHS = 10  # how many intermediates the parts about depth compare, at most


class Inputs:
    """The answers, features and pixels of a model, each computed once.

    Attributes:
      model: the model and its splits.
      folder: the folder of the card.
      seed: decides which images are drawn, and every random number of the parts.
      most: how many images of a split features and pixels are computed of, at most.
      layers: the names of the chosen intermediates, input first.
      other: the model that this one is compared with, or None.
      stranger_images: images that show no class of the model, uint8 (N, H, W, C), or None.

    An audit gives `out_of_sample`, {split: answers of models that have not seen the images}.
    """

    def __init__(self, model: Model, folder: str, seed: int = 0, most: int = 10_000,
                 out_of_sample: dict[str, Answers] | None = None, other: Model | None = None):
        self.model = model
        self.folder = folder
        self.seed = seed
        self.most = most
        self._out_of_sample = out_of_sample
        self.other = other
        self.stranger_images: np.ndarray | None = None
        self.layers = forward.by_depth(model.setup, DEPTHS)

    @property
    def class_names(self) -> list[str]:
        return list(self.model.setup.dataset.class_names)

    @property
    def multi_label(self) -> bool:
        return self.model.setup.dataset.multi_label

    @property
    def has_answers(self) -> bool:
        """Whether there is a model that answers; an audit of pixels alone has none."""
        return self.model.state is not None

    @property
    def split(self) -> str:
        return self.model.split

    @functools.cached_property
    def key(self) -> list:
        """Everything that the answers depend on, the code included."""
        model, config = self.model, self.model.setup.config
        splits = [source and source.fingerprint
                  for source in (model.eval_source, model.train_source)]
        return [code.version_of('imgjax.card.inputs'), code.version(config), model.state_digest,
                config.model, config.data, model.setup.dataset.image_shape, splits,
                self.class_names, self.seed, self.most]

    @functools.cached_property
    def _collect(self):
        return forward.collector(self.model.setup, self.layers)

    @functools.cached_property
    def answers(self) -> Answers:
        """The answers on the whole evaluation split, without features unless it is small.

        In an audit the logits of an image that cannot be decoded are NaN.

        Raises:
          DataError: logits are not finite, or an image cannot be decoded.
        """
        if self._out_of_sample is not None:
            return self._out_of_sample[self.split]
        if len(self.model.eval_source.examples) <= self.most:
            found = self.eval_answers
        else:
            collect = forward.collector(self.model.setup)
            found = self._stored('answers', self.model.eval_source, collect, self.split)
        forward.check_finite(found.logits_NK, self.split)
        return found

    @functools.cached_property
    def probabilities_NK(self) -> np.ndarray:
        """Probabilities of `answers`, float64 (N, K): softmax, or sigmoids with several labels."""
        return self.probabilities_of(self.answers)

    def probabilities_of(self, answers: Answers) -> np.ndarray:
        """Returns the probabilities of answers, float64 (N, K)."""
        return answers_lib.probabilities(answers.logits_NK, self.multi_label)

    @functools.cached_property
    def out_of_sample(self) -> dict[str, Answers]:
        """{split: answers of models that were not trained on these images}.

        Raises:
          DataError: in an audit, images of the evaluation split cannot be decoded, so that no model
            can be evaluated.
        """
        if self._out_of_sample is None:
            return {self.split: self.answers}
        if not self._out_of_sample:
            faults = [fault for fault in self.faults_of(self.split) if fault]
            raise DataError(f'labels are not judged while images of {self.split} cannot be '
                            f'decoded, {len(faults):,} of them, first: {faults[0]}')
        return self._out_of_sample

    @functools.cached_property
    def eval_drawn(self) -> np.ndarray:
        """The images of the evaluation split that `eval_pixels` are of, int (N,)."""
        return self._drawn(self.model.eval_source, self.split)

    @functools.cached_property
    def eval_rows(self) -> np.ndarray:
        """The images that `eval_answers` are of, int (N,); in an audit those that are decoded."""
        if self._out_of_sample is None:  # a figure over fewer images would be another figure
            return self.eval_drawn
        return self.eval_drawn[self.eval_pixels.is_sound]

    @functools.cached_property
    def train_drawn(self) -> np.ndarray:
        """The images of the training split that `train_pixels` are of, int (N,).

        Raises:
          DataError: the training split is not at hand.
        """
        return self._drawn(self.train_source, self.model.train_split)

    @functools.cached_property
    def train_rows(self) -> np.ndarray:
        """The images that `train_answers` are of, int (N,): those that can be decoded."""
        return self.train_drawn[self.train_pixels.is_sound]

    @property
    def train_source(self) -> Source:
        """The training split.

        Raises:
          DataError: it is not at hand.
        """
        if self.model.train_source is None:
            raise DataError('there are no training images to learn from; name a dataset with a '
                            'training split')
        return self.model.train_source

    @functools.cached_property
    def eval_answers(self) -> Answers:
        """Answers and features on `eval_rows`."""
        return self._stored('evaluated', chosen(self.model.eval_source, self.eval_rows),
                            self._collect, self.split)

    @functools.cached_property
    def train_answers(self) -> Answers:
        """Answers and features on `train_rows`."""
        return self._stored('trained', chosen(self.train_source, self.train_rows),
                            self._collect, self.model.train_split)

    @functools.cached_property
    def eval_pixels(self) -> pixels.PixelTable:
        """What the decoded images of `eval_drawn` look like."""
        return self._pixels('evaluated-pixels', self.model.eval_source, self.eval_drawn,
                            self.split)

    @functools.cached_property
    def train_pixels(self) -> pixels.PixelTable:
        """What the decoded images of `train_drawn` look like."""
        return self._pixels('trained-pixels', self.train_source, self.train_drawn,
                            self.model.train_split)

    def faults_of(self, split: str) -> list[str]:
        """Returns why each image of a whole split cannot be decoded, '' where it can be."""
        evaluates = split == self.split
        drawn, table = (self.eval_drawn, self.eval_pixels) if evaluates else (
            self.train_drawn, self.train_pixels)
        source = self.source_of(split)
        faults = dict(zip(drawn.tolist(), records.unpacked(table.faults), strict=True))
        rest = np.setdiff1d(np.arange(len(source.examples)), drawn)
        if len(rest):
            options = self.model.setup.config.data
            key = store.key_of(code.version_of('imgjax.card.pixels'), options, source.fingerprint,
                               self.seed, len(rest))
            found = store.arrays(
                self.folder, f'{"evaluated" if evaluates else "trained"}-faults', key,
                lambda: {'faults': pixels.faults(chosen(source, rest), options,
                                                 f'{split}: the other images')})
            faults |= dict(zip(rest.tolist(), records.unpacked(found['faults']), strict=True))
        return [faults[index] for index in range(len(source.examples))]

    def grey_pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns small grey pictures of `train_rows` and `eval_rows`, float32 (N, D)."""
        return (self.train_pixels.descriptors[self.train_pixels.is_sound],
                self.eval_pixels.descriptors[
                    np.searchsorted(self.eval_drawn, self.eval_rows)])

    @property
    def train_split(self) -> str:
        return self.model.train_split

    @property
    def examines_training(self) -> bool:
        """Whether the split that is examined is the training split itself."""
        model = self.model
        return model.train_source is not None and (
            model.train_source.fingerprint == model.eval_source.fingerprint)

    def params(self) -> dict:
        """Returns the parameters that are evaluated, as NumPy arrays."""
        return jax.device_get(step.eval_params(self.model.setup.config, self.model.state))

    def has_positions(self, layer: str) -> bool:
        """Returns whether an intermediate is a map or a row of tokens, not one vector."""
        return len(forward.layers(self.model.setup)[layer]) > 1

    def features_of(self, layer: str) -> np.ndarray:
        """Returns the features of any intermediate on `eval_rows`, float32 (N, D).

        Raises:
          ConfigError: the model has no such intermediate.
        """
        if layer in self.layers:
            return self.eval_answers.features[layer]
        forward.check_layer(self.model.setup, layer)
        collect = forward.collector(self.model.setup, [layer])
        source = chosen(self.model.eval_source, self.eval_rows)
        return collect(self.model.state, source, layer).features[layer]

    def activation(self, layer: str) -> jax.tree_util.Partial:
        """Returns (normalised images_NHWC) -> the intermediate, with the parameters bound."""
        setup, state = self.model.setup, self.model.state

        def activation(variables, images_NHWC):
            return setup.model.apply(variables, images_NHWC, train=False)[1][layer]

        return jax.tree_util.Partial(activation, {
            'params': step.eval_params(setup.config, state), 'batch_stats': state.batch_stats})

    @functools.cached_property
    def model_functions(self) -> functions.Functions:
        """The model as functions of images."""
        return functions.of(self.model.setup, self.model.state)

    @property
    def predict(self) -> jax.tree_util.Partial:
        """(images_NHWC, float32 in 0 to 255) -> logits_NK; its leaves are the parameters."""
        return self.model_functions.predict

    @property
    def apply(self) -> jax.tree_util.Partial:
        """(images_NHWC, float32 in 0 to 255) -> (logits_NK, {name: intermediate})."""
        return self.model_functions.apply

    @functools.cache  # noqa: B019  (as long as the card)
    def other_predict(self) -> jax.tree_util.Partial | None:
        """Returns `predict` of the other model, its classes in the order of this one's, or None.

        It takes images of this model's size and channels, and makes those of its own of them.
        """
        if self.other is None:
            return None
        names = list(self.other.setup.dataset.class_names)
        order = tuple(map(names.index, self.class_names))
        mine, theirs = (tuple(one.setup.dataset.image_shape) for one in (self.model, self.other))
        if mine != theirs:
            log.warning('the other model takes images of %dx%d pixels and %d channels: changed '
                        'images of %dx%dx%d are resized for it', *theirs, *mine)
        return functions.of(self.other.setup, self.other.state, order, theirs).predict

    def images(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Returns images of a split at the size of the model's input, uint8 (N, H, W, C).

        Raises:
          DataError: one of them cannot be decoded.
        """
        return functions.images(self.model.setup, self.source_of(split), rows)

    def source_of(self, split: str) -> Source:
        """Returns a split by its name."""
        return self.model.eval_source if split == self.split else self.train_source

    @functools.cache  # noqa: B019  (as long as the card)
    def labels_of(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int32 (N,) or float32 (N, K)."""
        return self.source_of(split).labels()

    def names_of(self, split: str) -> list[str]:
        """Returns the names of all images of a split; without their pixels it reads them."""
        source = self.source_of(split)
        rows, looked = (('eval_drawn', 'eval_pixels') if split == self.split else
                        ('train_drawn', 'train_pixels'))
        if looked in self.__dict__ and len(getattr(self, rows)) == len(source.examples):
            return records.unpacked(getattr(self, looked).names)
        return [str(example['name']) for start in range(0, len(source.examples), 1000)
                for example in data.read(source, list(range(
                    start, min(start + 1000, len(source.examples)))))]

    def class_numbers(self, names: Sequence[str], flag: str) -> list[int]:
        """Returns the numbers of classes.

        Raises:
          ConfigError: there is no such class.
        """
        for name in names:
            if name not in self.class_names:
                raise ConfigError(f'{flag}: the model has no class {name!r}'
                                  f'{nearest(name, self.class_names)}')
        return [self.class_names.index(name) for name in names]

    def subset(self, count: int, most: int) -> np.ndarray:
        """Returns `most` of `count` rows, drawn by the seed, in their order; or all."""
        if count <= most:
            return np.arange(count)
        bits = np.random.Philox(key=[self.seed, count]).random_raw(count)
        return np.sort(np.argsort(bits, kind='stable')[:most])

    def other_features(self) -> dict[str, np.ndarray]:
        """Returns {layer: features of the other model on `eval_rows`, float32 (N, D)}."""
        other = self.other
        layers = forward.by_depth(other.setup, DEPTHS)
        collect = forward.collector(other.setup, layers)
        return store.arrays(
            self.folder, 'other-features', store.key_of(other.state_digest, self.key, layers),
            lambda: collect(other.state, chosen(other.eval_source, self.eval_rows),
                            'the other model').features)

    def other_logits(self, workdir: str) -> np.ndarray:
        """Returns the logits of another run on the evaluation split, float32 (N, K).

        Its classes may have another order.

        Raises:
          DataError: it has other classes, or its checkpoint cannot be used.
        """
        other = self.other
        order = [other.setup.dataset.class_names.index(name) for name in self.class_names]
        collect = forward.collector(other.setup)
        found = store.arrays(
            self.folder, 'other', store.key_of(other.state_digest, self.key), lambda: {
                'logits': collect(other.state, other.eval_source, workdir).logits_NK})
        forward.check_finite(found['logits'], workdir)
        return found['logits'][:, order]

    def _pixels(self, name: str, source: Source, rows: np.ndarray, split: str) -> pixels.PixelTable:
        options = self.model.setup.config.data
        key = store.key_of(code.version_of('imgjax.card.pixels'), options, source.fingerprint,
                           self.seed, len(rows))
        found = store.arrays(self.folder, name, key, lambda: pixels.describe(
            chosen(source, rows), options, f'{split}: looking at pixels'))
        return pixels.PixelTable(**found)

    def _stored(self, name: str, source: Source, collect, split: str) -> Answers:
        def make() -> dict[str, np.ndarray]:
            found = collect(self.model.state, source, split)
            return {'logits': found.logits_NK, 'labels': found.labels,
                    **{f'out.{name}': array for name, array in found.features.items()}}

        found = store.arrays(self.folder, name, store.key_of(name, self.key, self.layers), make)
        return Answers(found['logits'], found['labels'], {
            name: found[f'out.{name}'] for name in self.layers if f'out.{name}' in found})

    def _drawn(self, source: Source, split: str) -> np.ndarray:
        """Returns `most` images of a split, drawn by the seed, in their order; or all."""
        count = len(source.examples)
        if count <= self.most:
            return np.arange(count)
        log.info('%s: features and pixels are those of %s of its %s images, drawn by the seed '
                 '(--images)', split, f'{self.most:,}', f'{count:,}')
        return self.subset(count, self.most)


def chosen(source: Source, rows: np.ndarray) -> Source:
    """Returns a split with only these examples, in their order."""
    if len(rows) == len(source.examples):
        return source
    examples = slices.Selection([(source, rows)])
    return source._replace(examples=examples, labels=examples.labels, files=None)

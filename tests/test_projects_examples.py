"""The examples in projects/: each is one file, and all that holds of a part holds of it.

Through real processes they are in tests/drills/test_projects.py.
"""

import functools
import pathlib
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from imgjax import build, evaluate, feed, sharding, state, step, train
from imgjax import config as config_lib
from imgjax.errors import ConfigError
from imgjax.rundir import dataset_info, metrics_log
from imgjax.study import cells, engine, plan, population

ROOT = pathlib.Path(__file__).parent.parent
SIZE, CLASSES, STEPS = 32, 10, 3
rng = np.random.default_rng(0)
BATCH = {'image': rng.integers(0, 255, (SIZE, 8, 8, 1), np.uint8),
         'label': rng.integers(0, CLASSES, SIZE).astype(np.int32),
         'weight': np.ones(SIZE, np.float32)}
# With eps of the size of a gradient, what rounds differently stays as small.
ADAM = {'hparams.eps': 1e-3}
MLP = {'model.name': 'mlp', 'model.options': {'hidden': (128,)}}
SAM = MLP | {'objective.name': 'projects.sam'}


class Row(NamedTuple):
    """An example.

    Attributes:
      fields: of the config, that choose it.
      number: of config.hparams, that the example adds.
      values: two of it.
    """

    fields: dict
    number: str
    values: tuple[float, float]


# The mean over a batch is the mean over its parts only without BatchNorm.
EXAMPLES = {
    'poly': Row(ADAM | MLP | {'objective.name': 'projects.poly'}, 'poly_epsilon', (0.0, 2.0)),
    'auxiliary_head': Row(
        ADAM | {'objective.name': 'projects.auxiliary_head', 'model.name': 'tiny_vit',
                'model.options': {'patch_size': 4, 'width': 32, 'depth': 1, 'heads': 2,
                                  'distilled': True}},
        'auxiliary_weight', (0.0, 0.5)),
    'byol': Row(
        ADAM | {'objective.name': 'projects.byol', 'model.name': 'projects.byol',
                'model.options': {'encoder': 'tiny_mlp', 'hidden': 64, 'norm': 'layer'}},
        'target_momentum', (0.5, 0.9)),
    'sam': Row(ADAM | SAM, 'rho', (0.0, 0.5)),
    'ademamix_warm': Row(ADAM | MLP | {'optimizer.name': 'projects.ademamix_warm'},
                         'alpha_warmup_steps', (1.0, 100.0)),
}
rows = pytest.mark.parametrize('name', EXAMPLES)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def config_of(fields: dict, **hparams) -> dict:
    config = base.get_config().to_dict()
    config |= {'batch_size': SIZE, 'steps': 10, 'log_every': 10}
    config['data'] |= {'channels': 1, 'mean': (0.3,), 'std': (0.37,)}
    config['schedule']['name'] = 'constant'
    config['hparams'] |= {'learning_rate': 1e-2} | hparams
    for name, value in fields.items():
        config_lib.put(config, name, value)
    return config_lib.checked(config)


def setup_of(config: dict, devices: int = 1) -> build.Setup:
    names = [str(k) for k in range(CLASSES)]
    dataset = dataset_info.DatasetInfo(names, [8, 8, 1], 100, 10, 'a', 'b')
    return build.setup(config, dataset, jax.devices()[:devices])


@functools.cache
def begin(name: str):
    """Returns the state of an example before the first step, on the host."""
    setup = setup_of(config_of(EXAMPLES[name].fields))
    return jax.device_get(jax.jit(lambda hparams: state.init(
        setup.model, setup.config, (8, 8, 1), hparams))(state.hparams_of(setup.config)))


def hparams_of(name: str) -> list[dict]:
    row = EXAMPLES[name]
    return [state.hparams_of(config_of(row.fields, **{row.number: value})) for value in row.values]


@functools.cache
def looped(name: str):
    """Returns (how often the step was traced, (state, losses) of each of two values)."""
    setup, traces = setup_of(config_of(EXAMPLES[name].fields)), []

    @jax.jit
    def counted(now, hparams):
        traces.append(1)
        return setup.train_step(now, BATCH, hparams)

    return traces, [steps(counted, begin(name), hparams) for hparams in hparams_of(name)]


def steps(function, now, hparams):
    losses = []
    for _ in range(STEPS):
        now, measured = function(now, hparams)
        losses.append(np.asarray(measured['loss']))
    return jax.device_get(now), losses


def assert_close(ours, theirs, tolerance=1e-5):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs),
                            strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=str(path))


@rows
def test_a_number_is_data(name):
    """One trace serves both values; they make a difference, and some update was made."""
    traces, [(first, losses), (second, _)] = looped(name)
    assert len(traces) == 1
    assert not any(first.skipped.values()) and np.isfinite(losses).all()
    changed = [not np.array_equal(a, b) for a, b in zip(
        jax.tree.leaves((first.params, first.extra)), jax.tree.leaves(
            (second.params, second.extra)), strict=True)]
    assert any(changed)
    row = EXAMPLES[name]
    one, other = (config_lib.digest(config_of(row.fields, **{row.number: value}))
                  for value in row.values)
    assert one != other


def test_each_example_makes_another_run():
    """By its name and by the code of its file, which the hash holds."""
    others = [{'metrics': (('projects.margin', {}),)}, {'sampler.name': 'projects.hard_first'}, {}]
    configs = [config_of(fields) for fields in [row.fields for row in EXAMPLES.values()] + others]
    assert len({config_lib.digest(config) for config in configs}) == len(EXAMPLES) + 3
    for config in configs[:-1]:
        [(part, _)] = config['fingerprints'].items()
        changed = config | {'fingerprints': {part: '0' * 16}}
        assert config_lib.digest(changed) != config_lib.digest(config)


@rows
def test_two_values_are_trained_as_one_program(name):
    setup = setup_of(config_of(EXAMPLES[name].fields))
    two = jax.tree.map(lambda *leaves: np.stack(leaves), *hparams_of(name))
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), begin(name))
    found, _ = steps(jax.jit(jax.vmap(lambda now, hparams: setup.train_step(now, BATCH, hparams))),
                     both, two)
    for place, (alone, _) in enumerate(looped(name)[1]):
        assert_close(jax.tree.map(lambda leaf: leaf[place], found), alone)  # noqa: B023


@rows
def test_eight_devices_and_a_batch_in_two_parts_change_nothing(name):
    """With the state cut over four of them."""
    row = EXAMPLES[name]
    config = config_of(row.fields | {'mesh.data': 2, 'mesh.fsdp': 4, 'accumulation_steps': 2},
                       **{row.number: row.values[1]})
    setup = setup_of(config, 8)
    now = sharding.place(begin(name), setup.shardings, own=True)
    cut = [leaf for leaf in jax.tree.leaves((now.params, now.extra))
           if not leaf.sharding.is_fully_replicated]
    assert cut
    batch = sharding.place(BATCH, sharding.batch_sharding(setup.mesh))
    hparams = sharding.place(state.hparams_of(config), sharding.replicated(setup.mesh))
    resident = {'examples': {}, 'constants': {}}
    dispatch, _ = feed.compile_step(setup, 1, now, resident, batch, hparams)
    found, losses = steps(lambda now, hparams: dispatch(now, resident, batch, hparams), now,
                          hparams)
    alone, expected = looped(name)[1][1]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_close(found.params, alone.params, 1e-4)
    assert_close(found.extra, alone.extra, 1e-4)


STUDY = """
from configs import digits

def get_study():
    base = digits.get_config('mlp')
    base.model.name = 'tiny_mlp'
    base.update(batch_size=32, steps=40, log_every=10, best_metric='margin',
                checkpoint=dict(every=0), eval_every=0, metrics=(('projects.margin', {}),))
    base.schedule.warmup_steps = 0
    base.objective.name, base.hparams.rho = 'projects.sam', 0.05
    base.optimizer.name, base.hparams.alpha_warmup_steps = 'projects.ademamix_warm', 20.0
    base.sampler.name, base.sampler.options = 'projects.hard_first', {'epochs': 1}
    other = {'hparams.rho': 0.5, 'hparams.alpha_warmup_steps': 1.0}
    return dict(base=base, arms={'near': {}, 'far': other}, metric='margin')
"""


def test_examples_are_arms_of_a_study(tmp_path):
    """Together, by a loop and as one program; judged by a number of a metric of one's own."""
    (tmp_path / 'margins.py').write_text(STUDY)
    line = engine.run(str(tmp_path / 'margins.py'), str(tmp_path / 'study'),
                      str(tmp_path / 'loop'), 'loop')
    assert line['cells_done'] == 2 and 'margin' in pathlib.Path(line['page']).read_text()
    planned = cells.cells_of(plan.load(str(tmp_path / 'margins.py')), str(tmp_path / 'vmap'))
    assert len({cell.group for cell in planned}) == 1, 'one structure, one program'
    together = population.run(planned, jax.devices()[:1], {})
    for cell, outcome in zip(planned, together, strict=True):
        place = pathlib.Path(cell.directory)
        alone = metrics_log.read_rows(str(tmp_path / 'loop' / place.name))
        for one, other in zip(alone, metrics_log.read_rows(str(place)), strict=True):
            numbers = [name for name in one if name in (
                'loss', 'accuracy', 'margin', 'feature_norm', 'grad_norm')]
            assert ('margin' in numbers) == (one['split'] == 'test')
            np.testing.assert_allclose([one[name] for name in numbers],
                                       [other[name] for name in numbers], rtol=1e-3)
        assert outcome['margin'] == other['margin']


# Of one example each.

def test_poly_is_cross_entropy_and_a_term_more():
    from projects import poly
    logits_NK = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    targets_NK = jax.nn.softmax(jnp.asarray(rng.normal(size=(6, 4)), jnp.float32))
    p_NK = jax.nn.softmax(logits_NK)
    for epsilon in (0.0, 2.0, -1.0):
        expected = (targets_NK * (-jnp.log(p_NK) + epsilon * (1 - p_NK))).sum(-1)
        np.testing.assert_allclose(
            poly.poly(logits_NK, targets_NK, epsilon=jnp.float32(epsilon)), expected, rtol=1e-5)


def test_auxiliary_heads_weigh_what_the_number_says():
    """Of the first step: loss(w) is loss(0) and w times the measure."""
    (_, unweighed), (_, weighed) = looped('auxiliary_head')[1]
    weight = EXAMPLES['auxiliary_head'].values[1]
    assert weighed[0] - unweighed[0] == pytest.approx(weight * np.log(CLASSES), rel=0.2)


def test_the_target_of_byol_is_a_mean_of_the_online_networks():
    """Over the parameters that three steps leave, which any updates give."""
    from projects import byol
    online = [{'w': jnp.float32(value)} for value in (1.0, 2.0, 4.0)]
    target = byol.init(online[0], {}, None, {})
    for params in online[1:]:
        target = byol.after(target, params, {}, {'target_momentum': 0.75})
    assert float(target['w']) == 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4
    a = jnp.asarray([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    b = jnp.asarray([[5.0, 0.0], [0.0, -1.0], [1.0, -1.0]])
    np.testing.assert_allclose(byol.distance(a, b), [0.0, 4.0, 2.0], atol=1e-6)


def test_the_target_of_byol_begins_as_the_weights_that_are_loaded():
    """With another seed than the one that made them."""
    setup = setup_of(config_of(EXAMPLES['byol'].fields, seed=1))
    hparams = sharding.place(state.hparams_of(setup.config), sharding.replicated(setup.mesh))
    weights = begin('byol')
    now = train.initial_state(setup, hparams, {
        'params': weights.params, 'batch_stats': weights.batch_stats})
    for tree in (now.params, now.extra):
        assert jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(tree), weights.params))


def test_no_label_reaches_the_encoder_of_byol():
    """Of other labels only the classifier learns something else."""
    setup = setup_of(config_of(EXAMPLES['byol'].fields))
    function, hparams = jax.jit(setup.train_step), hparams_of('byol')[0]
    found = [function(begin('byol'), BATCH | {'label': labels}, hparams)[0].params
             for labels in (BATCH['label'], (BATCH['label'] + 1) % CLASSES)]
    for name, params in found[0].items():
        same = jax.tree.all(jax.tree.map(np.array_equal, params, found[1][name]))
        assert same == (name != 'head'), name


def test_sam_is_a_step_from_where_the_loss_is_highest():
    """Written anew, with plain gradient descent on the mean of a batch in four parts."""
    rate, rho = 0.1, 0.5
    config = config_of(
        SAM | {'optimizer.name': 'sgd', 'accumulation_steps': 4}, rho=rho, learning_rate=rate,
        momentum=0.0)
    setup = setup_of(config)
    hparams = state.hparams_of(config)
    now = jax.jit(lambda hparams: state.init(setup.model, config, (8, 8, 1), hparams))(hparams)
    images_NHWC = (jnp.asarray(BATCH['image'], jnp.float32) / 255 - 0.3) / 0.37

    def mean_loss(params):
        logits_NK, _ = setup.model.apply({'params': params}, images_NHWC, train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits_NK, BATCH['label']).mean()

    grads = jax.grad(mean_loss)(now.params)
    norm = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads)))
    sharp = jax.grad(mean_loss)(jax.tree.map(lambda w, g: w + rho * g / norm, now.params, grads))
    expected = jax.tree.map(lambda w, g: w - rate * g, now.params, sharp)
    found, measured = jax.jit(setup.train_step)(now, BATCH, hparams)
    assert_close(found.params, expected)
    assert float(measured['loss']) == pytest.approx(float(mean_loss(now.params)), rel=1e-5)


def test_ademamix_is_optaxs_once_it_is_warm():
    from projects import ademamix_warm
    numbers = {'b1': 0.9, 'b2': 0.999, 'b3': 0.99, 'alpha': 4.0, 'eps': 1e-3, 'weight_decay': 0.1}
    params = {'w': jnp.arange(3.0)}
    gradients = [{'w': jnp.asarray(rng.normal(size=3), jnp.float32)} for _ in range(4)]

    def run(tx):
        state, found = tx.init(params), []
        for grads in gradients:
            updates, state = tx.update(grads, state, params)
            found.append(updates['w'])
        return found

    with jax.numpy_dtype_promotion('standard'):  # as optimizers.optimizer has it
        own = run(ademamix_warm.transform({}, numbers | {'alpha_warmup_steps': 3.0}, 0.1, None))
        for step_, found in enumerate(own):
            alpha = 4.0 * min(1.0, step_ / 3.0)
            theirs = run(optax.contrib.ademamix(
                0.1, 0.9, 0.999, 0.99, alpha, 1e-3, weight_decay=0.1))
            np.testing.assert_allclose(found, theirs[step_], rtol=1e-5)


def test_the_margin_is_below_zero_where_the_answer_is_wrong():
    from projects import margin
    logits_NK = jnp.asarray([[3.0, 1.0, 0.0], [1.0, 5.0, 2.0]])
    targets_NK = jax.nn.one_hot(jnp.asarray([0, 2]), 3)
    out = {'pre_logits': jnp.asarray([[3.0, 4.0], [0.0, 2.0]])}
    found = margin.per_example(logits_NK, targets_NK, out, {})
    np.testing.assert_allclose(found['margin'], [2.0, -3.0])
    np.testing.assert_allclose(found['feature_norm'], [5.0, 2.0])


def test_hard_images_come_first_and_every_epoch_holds_each():
    from projects import hard_first
    config = config_of({'data.name': 'digits'})
    source, _ = build.open_dataset(config)
    count = len(source.examples)
    draw = hard_first.order(source, {'epochs': 2, 'side': 8}, 0)
    epochs = draw(np.arange(3 * count)).reshape(3, count)
    far = hard_first.hardness(source, 8)
    assert (np.diff(far[epochs[0]]) <= 0).all() and (epochs[0] == epochs[1]).all()
    assert not (np.diff(far[epochs[2]]) <= 0).all()
    assert (np.sort(epochs) == np.arange(count)).all()
    again = hard_first.order(source, {'epochs': 2, 'side': 8}, 0)
    np.testing.assert_array_equal(again(np.arange(count, 2 * count)), epochs[1])
    pixels = np.stack([hard_first.grey(source.examples[k]['image'], 8) for k in range(20)])
    assert pixels.shape == (20, 64) and pixels.max() == 255
    assert not hard_first.grey(b'no image', 8).any()
    with pytest.raises(ValueError, match='several labels'):
        hard_first.order(source._replace(multi_label=True), {'epochs': 2, 'side': 8}, 0)


def test_schedule_free_is_evaluated_at_its_mean():
    """An optimizer of optax, by its name: what trains is not what is evaluated."""
    config = config_of(MLP | {'optimizer.name': 'schedule_free_adamw'})
    setup = setup_of(config)
    hparams = state.hparams_of(config)
    now = jax.jit(lambda hparams: state.init(setup.model, config, (8, 8, 1), hparams))(hparams)
    now, _ = steps(jax.jit(lambda now, hparams: setup.train_step(now, BATCH, hparams)), now,
                   hparams)
    mean = step.eval_params(config, now)
    assert_close(mean, optax.contrib.schedule_free_eval_params(now.opt_state[1], now.params))
    assert not np.allclose(mean['head']['kernel'], now.params['head']['kernel'], rtol=1e-3)
    images_NHWC = BATCH['image']
    logits_NK, _ = step.predict(setup.model, config, now, images_NHWC)
    expected_NK, _ = setup.model.apply(
        {'params': mean}, (images_NHWC.astype(np.float32) / 255 - 0.3) / 0.37, train=False)
    np.testing.assert_allclose(logits_NK, expected_NK, rtol=1e-4, atol=1e-5)
    columns = setup.eval_step(now, {'image': images_NHWC, 'label': BATCH['label'],
                                    'mask': BATCH['weight'] > 0}, hparams)
    np.testing.assert_array_equal(columns['predictions'], np.argmax(expected_NK, -1))


# What goes wrong in a file of one's own ends with one line before training.

LOSS = """
from imgjax.objectives import Loss
from imgjax.objectives import softmax

MEASURES = ('accuracy',)

def loss(params, inputs):
    found = softmax.loss(params, inputs._replace(hparams=inputs.hparams | {
        'label_smoothing': 0.0, 'class_weights': CLASS_WEIGHTS}))
    return found
""".replace('CLASS_WEIGHTS', '__import__("numpy").zeros(0)')
METRIC = """
from imgjax.metrics import Metric

METRICS = {'mine': Metric()}

def per_example(logits, targets, out, hparams):
    return {'mine': logits[:, 0]}
"""
OPTIMIZER = """
import optax

def transform(options, hparams, learning_rate, decay_mask):
    return optax.sgd(learning_rate)
"""
AUGMENTATION = """
def mine(key, images_NHWC, strength):
    return images_NHWC.no_such()
"""
SAMPLER = """
def order(source, options, seed):
    return lambda numbers: numbers % len(source.examples)
"""
OBJECTIVE = {'objective.name': 'projects.mine'}


@pytest.mark.parametrize(('fields', 'code', 'words'), [
    (OBJECTIVE, LOSS.replace('return found', "return inputs.hparams['rho']"),
     "projects/mine.py, line 9: KeyError: 'rho' at `return inputs.hparams['rho']`; a number that "
     'a part reads is declared in its HPARAMS'),
    (OBJECTIVE, LOSS.replace('return found', "return inputs.apply(params, inputs.batch['image']"
                             "[:, 0])[0][1]['attention']"), "line 9: KeyError: 'attention' at"),
    (OBJECTIVE, LOSS.replace("('accuracy',)", '()'),
     "projects/mine.py: `loss` returns the measures ['accuracy'], but MEASURES names []; make"),
    (OBJECTIVE, LOSS.replace("('accuracy',)", "('accuracy', 'loss')"),
     "projects/mine.py: MEASURES has 'loss', which every run logs; give it another name"),
    (OBJECTIVE, LOSS.replace('return found', 'return found._replace(losses_N=found.losses_N.sum())'
                             ), 'projects/mine.py: `loss`: losses_N has the shape (); it takes ('),
    (OBJECTIVE, LOSS.replace('return found', "return found._replace(extra={'a': 1.0})"),
     'projects/mine.py: `loss` returns an `extra` of another form than `init` does'),
    (OBJECTIVE, LOSS + "def init(params, batch_stats, key, options):\n    raise OSError('no')\n",
     "projects/mine.py, line 11: OSError: no at `raise OSError('no')`"),
    (OBJECTIVE, LOSS + 'def gradient(value_and_grad, params, hparams):\n    return params, params',
     'projects/mine.py: the step cannot be computed: ValueError: '),
    (OBJECTIVE, 'import no_such', "projects/mine.py, line 1: does not import: ModuleNotFoundError"),
    (OBJECTIVE, 'A = 1', 'config.objective.name: projects.mine is no objective: its file has no '),
    ({'augment': (('projects.mine', {}),), 'hparams.augment': {'mine': 0.5}}, AUGMENTATION,
     "projects/mine.py, line 2: AttributeError: "),
    ({'optimizer.name': 'projects.mine'}, OPTIMIZER.replace('(learning_rate)', '()'),
     "projects/mine.py, line 4: TypeError: sgd() missing 1 required positional argument: 'learnin"),
    ({'metrics': (('projects.mine', {}),)}, METRIC.replace(':, 0', '1:, 0'),
     'projects/mine.py: `per_example`: mine has the shape (31,); it takes (32,), a value for each'),
    ({'metrics': (('projects.mine', {}),)}, METRIC.replace("{'mine': l", "{'loss': l"),
     "projects/mine.py: `per_example`: there is a column 'loss' already; give it another name"),
    ({'metrics': (('projects.mine', {}),)}, METRIC.replace("{'mine': l", "{'other': l"),
     "projects/mine.py: `per_example`: returns ['other'], without 'mine' of METRICS; return it"),
])
def test_a_part_that_goes_wrong(tmp_path, monkeypatch, fields, code, words):
    (tmp_path / 'projects').mkdir()
    (tmp_path / 'projects' / 'mine.py').write_text(code.lstrip())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        setup_of(config_of({'model.name': 'tiny_mlp'} | fields))
    assert words in str(error.value) and '\n' not in str(error.value)


def test_a_summary_that_goes_wrong(tmp_path, monkeypatch):
    (tmp_path / 'projects').mkdir()
    (tmp_path / 'projects' / 'mine.py').write_text(
        METRIC + "\ndef summary(columns):\n    return {'other': 0.0}")
    monkeypatch.chdir(tmp_path)
    config = config_of({'model.name': 'tiny_mlp', 'metrics': (('projects.mine', {}),)})
    columns = {name: np.zeros(3) for name in ('labels', 'loss', 'accuracy', 'top5_accuracy')}
    with pytest.raises(ConfigError, match=r"projects/mine.py: `summary` returns \['other'\], but"):
        evaluate.summary(config, columns)


@pytest.mark.parametrize(('code', 'words'), [
    (SAMPLER.replace('len(', 'no('), "projects/mine.py, line 2: NameError: name 'no' is not"),
    (SAMPLER.replace('%', '+'), 'projects/mine.py: `order` has to return a function of positions'),
    (SAMPLER.replace('numbers %', 'numbers[1:] %'), 'projects/mine.py: `order` has to return')])
def test_a_sampler_that_goes_wrong(tmp_path, monkeypatch, code, words):
    (tmp_path / 'projects').mkdir()
    (tmp_path / 'projects' / 'mine.py').write_text(code.lstrip())
    monkeypatch.chdir(tmp_path)
    config = config_of({'model.name': 'tiny_mlp', 'sampler.name': 'projects.mine'})
    source = types.SimpleNamespace(examples=range(9))
    with pytest.raises(ConfigError) as error:
        build.draw(config, source)
    assert words in str(error.value) and '\n' not in str(error.value)


def test_an_auxiliary_head_that_is_not_there():
    fields = MLP | {'objective.name': 'projects.auxiliary_head'}
    with pytest.raises(ConfigError, match='projects/auxiliary_head.py, line .*: the model has no '
                       'further classifier.*hidden1, pre_logits, logits.*take a model that has'):
        setup_of(config_of(fields))


MODEL_WITHOUT_DTYPE = """
from flax import linen as nn


class Model(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, image_NHWC, *, train):
        logits_NK = nn.Dense(self.num_classes)(image_NHWC.reshape(len(image_NHWC), -1))
        return logits_NK, {'pre_logits': logits_NK}
"""


def test_a_model_without_a_dtype_computes_in_float32(tmp_path, monkeypatch):
    (tmp_path / 'projects').mkdir()
    (tmp_path / 'projects' / 'mine.py').write_text(MODEL_WITHOUT_DTYPE)
    monkeypatch.chdir(tmp_path)
    assert setup_of(config_of({'model.name': 'projects.mine'})).model.num_classes == CLASSES
    with pytest.raises(ConfigError, match='dtype is bfloat16, and projects.mine computes in float'):
        setup_of(config_of({'model.name': 'projects.mine', 'model.dtype': 'bfloat16'}))

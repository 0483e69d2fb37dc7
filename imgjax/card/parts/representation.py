"""How much of their space the features use, and how alike the layers are."""

from imgjax.card.parts import Finding
from imgjax.evals import representation

TITLE = 'Layers'
QUESTION = 'How much of their space do the features use, and how alike are the layers?'

MOST = 2_000  # images


def measure(inputs) -> dict:
    """Measures the layers, also against those of the other model."""
    answers = inputs.eval_answers
    rows = inputs.subset(len(answers.labels), MOST)
    labels_N = None if inputs.multi_label else answers.labels[rows]
    other = None if inputs.other is None else {
        name: features[rows] for name, features in inputs.other_features().items()}
    return representation.measure(
        {name: answers.features[name][rows] for name in inputs.layers}, labels_N, other=other,
        seed=inputs.seed) | {'split': inputs.split}


def findings(found: dict) -> list[Finding]:
    last = found['layers'][-1]
    rank, features = last['rank_me'], last['features']
    if rank is None:
        return [Finding('look', f'The features of {last["layer"]} are the same for all images.')]
    few = rank < 0.05 * features
    return [Finding('look' if few else 'note', f'The features of {last["layer"]} use about '
                    f'{rank:.0f} of {features:,} directions (RankMe).')]


def figures(found: dict) -> dict:
    return {'rank_me': found['layers'][-1]['rank_me']}

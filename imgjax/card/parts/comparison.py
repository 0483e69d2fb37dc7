"""Two models on the same images."""

from imgjax.card.parts import Finding
from imgjax.evals import comparison
from imgjax.report.text import percent

TITLE = 'Comparison'
QUESTION = 'Which of the two models is better, and where do they disagree?'


def measure(inputs, other: str = '') -> dict:
    """Compares with `other`, a run directory."""
    answers = inputs.answers
    found = comparison.measure(answers.logits_NK, inputs.other_logits(other), answers.labels,
                               seed=inputs.seed)
    return found | {'split': inputs.split, 'other': other,
                    'other_state_digest': inputs.other.state_digest}


def findings(found: dict) -> list[Finding]:
    one = found['accuracy']
    words = f'{percent(one["a"], 1)} against {percent(one["b"], 1)} of {found["other"]}'
    shown = (f'a difference of {100 * one["difference"]:+.2f} points (95 % interval '
             f'{100 * one["low"]:+.2f} to {100 * one["high"]:+.2f}, p = {one["p"]:.2g})')
    if one['p'] >= 0.05:
        return [Finding('note', f'No difference to the other model is shown: {words}, {shown}.')]
    kind = 'good' if one['difference'] > 0 else 'look'
    better = 'better' if one['difference'] > 0 else 'worse'
    return [Finding(kind, f'It is {better} than the other model: {words}, {shown}.')]


def figures(found: dict) -> dict:
    return {'other_accuracy': found['accuracy']['b'],
            'accuracy_difference': found['accuracy']['difference']}

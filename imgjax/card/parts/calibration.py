"""Whether the percentages of the model can be trusted."""

from imgjax.card.parts import Finding
from imgjax.evals import calibration, selective
from imgjax.report.text import percent

TITLE = 'Calibration'
QUESTION = 'Can its percentages be trusted?'

# What a calibration error below these values means in words; 5 points are hard to notice.
SMALL, LARGE = 0.02, 0.05


def measure(inputs) -> dict:
    answers = inputs.answers
    found = calibration.measure(answers.logits_NK, answers.labels, seed=inputs.seed)
    confidences_NA, correct_NA = calibration.answers(inputs.probabilities_NK, answers.labels)
    return found | {'split': inputs.split,
                    'selective': selective.measure(confidences_NA.ravel(), correct_NA.ravel())}


def findings(found: dict) -> list[Finding]:
    error, gap = found['scores']['smooth_ece']['value'], found['scores']['gap']['value']
    kind = 'good' if error < SMALL else 'look' if error > LARGE else 'note'
    side = 'above' if gap > 0 else 'below'
    told = [Finding(kind, f'Its percentages are off by {percent(error, 1)} on average (smooth '
                    f'calibration error); the mean confidence is {100 * abs(gap):.1f} points '
                    f'{side} the accuracy.')]
    chosen = found['chosen']
    if chosen != 'none':
        after = found['methods'][chosen]
        fit = found['fits'][chosen]
        what = (f'a temperature of {fit["temperature"]:.2f}' if chosen == 'temperature'
                else {'vector': 'vector scaling', 'isotonic': 'isotonic regression'}[chosen])
        told.append(Finding('note', f'With {what} they would be off by '
                            f'{percent(after["smooth_ece"], 1)}; launch.predict '
                            '--temperature=card applies it.'))
    if found['left_out']:
        told.append(Finding('note', found['left_out']))
    at = next(row for row in found['selective']['at'] if row['coverage'] == 0.9)
    told.append(Finding('note', f'Without the least confident tenth it is right in '
                        f'{percent(at["accuracy"], 1)} of the answers.'))
    return told


def figures(found: dict) -> dict:
    scores = {name: found['scores'][name]['value'] for name in ('nll', 'brier', 'ece',
                                                                'smooth_ece')}
    if fit := found['fits'].get('temperature'):
        scores['temperature'] = fit['temperature']
    return scores | {'aurc': found['selective']['aurc']}

"""Sets of classes that contain the right one as often as promised."""

from imgjax.card.parts import Finding
from imgjax.errors import DataError
from imgjax.evals import conformal_coverage
from imgjax.report.text import percent

TITLE = 'Sets of classes'
QUESTION = 'How many classes must an answer name to be right as often as promised?'


def measure(inputs, alpha: float = 0.1) -> dict:
    """Measures conformal sets on the evaluation split; `alpha` is the share they may miss."""
    if inputs.multi_label:
        raise DataError('sets of classes are for images with one label each')
    found = conformal_coverage.measure(inputs.probabilities_NK, inputs.answers.labels, alpha=alpha,
                              seed=inputs.seed)
    for one in found['methods'].values():
        if one['worst_class']:
            one['worst_class']['name'] = inputs.class_names[one['worst_class']['class']]
    return found | {'split': inputs.split}


def findings(found: dict) -> list[Finding]:
    sets, wanted = found['methods']['lac'], 1 - found['alpha']
    told = [Finding('note', f'To contain the right class in {percent(wanted, 0)} of the cases, an '
                    f'answer names {sets["size"]:.2f} of {found["classes"]:,} classes on average '
                    f'(measured: {percent(sets["coverage"], 1)}); launch.predict '
                    f'--set={found["alpha"]:g} gives such sets.')]
    worst = sets['worst_class']
    if worst and worst['coverage'] < wanted - 0.1 and worst['images'] >= 20:
        told.append(Finding('look', f'For images of {worst["name"]!r} these sets contain the right '
                            f'class less often than promised: {percent(worst["coverage"], 1)}.'))
    return told


def figures(found: dict) -> dict:
    sets = found['methods']['lac']
    return {'set_coverage': sets['coverage'], 'set_size': sets['size']}

"""Does a study name a winner where there is none?

Twenty times the same arm twice, under other seeds, eight each. Of twenty comparisons at 5 % one is
expected to be significant by chance, before the correction for so many.

    python -m launch.study --study=configs/studies/digits_null.py --workdir=runs/digits_null

Two cores: 2 min 19 s. Result: no p of 20 is below 0.05; the smallest is 0.064.
"""

from configs import digits

REPEATS, SEEDS = 20, 8


def get_study():
    base = digits.get_config('mlp')
    base.update(steps=200, eval_every=0, checkpoint=dict(every=0))
    arms = [f'{side}{repeat}' for repeat in range(REPEATS) for side in 'ab']
    return dict(
        base=base,
        arms={arm: {} for arm in arms},
        seeds={arm: list(range(place * SEEDS, (place + 1) * SEEDS))
               for place, arm in enumerate(arms)},
        comparisons=[(f'a{repeat}', f'b{repeat}') for repeat in range(REPEATS)],
    )

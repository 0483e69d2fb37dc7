"""Studies: a question, the runs that answer it, and what they say.

  plan.py        the study file: arms (arms.py) and seeds, comparisons
  cells.py       an arm with a seed is a cell: its directory, and whether it is done
  engine.py      runs what is not done yet, and has the page written
  tasks.py       what is left of the cells of one structure, as programs and runs alone
  strategy.py    which of the two, and why
  population.py  several cells trained as one program
  halving.py     arms that stop early, where the study asks for it
  record.py      what of all this is noted for the next start
  gather.py      what the cells say, for the page
"""

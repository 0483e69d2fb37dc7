"""Studies: a question, the runs that answer it, and what they say.

  plan.py        the study file: arms and seeds, comparisons
  cells.py       an arm with a seed is a cell: its directory, and whether it is done
  population.py  several cells trained as one program
  strategy.py    how the cells of one structure are run, and why
  engine.py      runs what is not done yet, and has the page written
  gather.py      what the cells say, for the page
"""

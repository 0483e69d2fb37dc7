"""Studies: a question, the runs that answer it, and the page with the answer.

  plan.py        reads the study file: arms (arms.py), seeds and comparisons
  cells.py       a cell is one arm with one seed: its run directory and its state
  engine.py      runs the cells that are not done, and writes the page
  tasks.py       splits the cells of one structure into populations and single runs, and runs these
  strategy.py    chooses between populations and single runs, and says why
  population.py  trains several cells as one program
  halving.py     stops the worse arms early, if the study asks for it
  record.py      plan.json, in which a start finds what earlier starts have decided
  gather.py      reads the results of the cells for the page
  code.py        the version of the code that a cell runs
"""

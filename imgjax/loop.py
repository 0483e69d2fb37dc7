"""The loop: runs steps, evaluates, saves and logs, until the last step or a request to stop."""

import contextlib
import os
import time

import jax

from imgjax.errors import PreemptedError, WorkerError
from imgjax.feed import Feed
from imgjax.members import Members
from imgjax.process import stop as stop_lib
from imgjax.process import terminal


def run(members: Members, state, step: int, feed: Feed, beat, pause_at: int | None = None):
    """Runs the steps that are left; returns the last state and sets members.outcomes.

    A member diverges if config.max_skipped_updates updates in a row were not finite, or if its
    state is not finite. The other members go on; the loop ends if all have diverged.

    Args:
      members: the runs that are trained as one program.
      state: TrainState of all members on the mesh, after `step` steps; it is donated.
      step: the step to go on from.
      feed: the Feed from that step on.
      beat: called once per dispatch.
      pause_at: the step to pause at, after an evaluation and a save; None runs to the last step.

    Raises:
      PreemptedError: the run was asked to stop; the state is saved.
    """
    config, workdir = members.first.setup.config, members.first.rows.workdir
    total = config.steps
    last = total if pause_at is None else min(pause_at, total)
    images = config.batch_size * len(members.outcomes)
    metrics = None  # of the newest dispatch, on the device
    members.start_clock(state, step)
    with (terminal.progress(total, step, 'image', images) as bar,
          _profiler(config.profile, feed.steps, os.path.join(workdir, 'profile')) as profile):
        while members.active:
            stop = stop_lib.preempted()
            evaluates = step == last or _due(step, config.eval_every)
            saves = stop or step == last or _due(step, config.checkpoint.every)

            # On a CPU a dispatch returns after its computation, so that its metrics are ready here.
            if saves or evaluates or members.metrics_are_ready():
                members.write_rows(bar)
            states = members.unstack(state) if evaluates or (saves and step) else []
            if evaluates and not stop:
                stop = not members.evaluate(states, step, last, bar)
                saves = saves or stop or members.improved(step)
            if saves and step:
                members.save(states, metrics, even_after_skipped=stop or step == total)
            if stop and members.active:
                there = 'there' if members.are_saved(step) else (
                    'the newest checkpoint, if there is one')
                raise PreemptedError(f'asked to stop at step {step} of {total}; the same command '
                                     f'goes on from {there}')
            if step == last or not members.active:
                break
            if saves or evaluates:
                members.restart_clock(step)

            profile(step, metrics)
            waiting = time.monotonic()
            try:
                batch = next(feed.items)
            except WorkerError:  # Ctrl-C and Slurm signal all processes of a group, also workers
                if not stop_lib.asked_alone():
                    raise
                continue
            members.waited(time.monotonic() - waiting)
            before = metrics
            state, metrics = feed.dispatch(state, batch)
            if members.has_unwritten_rows():
                members.write_rows(bar)
            elif before is not None:
                jax.block_until_ready(before)  # the host is at most two dispatches ahead
            step += feed.steps
            if _due(step, config.log_every) or step == total:
                members.measure(step, metrics)
            bar.update(feed.steps * images)
            beat()
    return state


def _due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


@contextlib.contextmanager
def _profiler(options: dict, stride: int, directory: str):
    """Yields profile(step, metrics of the dispatch before), which starts and stops the trace."""
    running = False

    def profile(step: int, metrics) -> None:
        nonlocal running
        # A dispatch with any of the chosen steps is traced as a whole.
        wanted = options['start'] - stride < step < options['start'] + options['steps']
        if wanted and not running:
            jax.profiler.start_trace(directory)
        elif running and not wanted:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
        running = wanted

    try:
        yield profile
    finally:
        if running:
            jax.profiler.stop_trace()

#!/bin/bash
#SBATCH --job-name={{ name | sbatch }}
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node={{ processes }}
{% if gpus %}
#SBATCH --gpus-per-node={{ gpus }}
{% endif %}
{% if time %}
#SBATCH --time={{ time | sbatch }}
{% endif %}
{% if partition %}
#SBATCH --partition={{ partition | sbatch }}
{% endif %}
{% if array %}
#SBATCH --array={{ array | sbatch }}
{% endif %}
{% for option in options %}
#SBATCH {{ option | sbatch }}
{% endfor %}
# A restart appends to the log of the earlier starts.
#SBATCH --output={{ log | sbatch }}
#SBATCH --open-mode=append
# Slurm starts the job again after the failure of a node or a preemption. No --no-kill: with fewer
# nodes than processes the run cannot go on.
#SBATCH --requeue
# Before the time limit this shell (B:) gets SIGTERM, up to a minute early, and passes it on below:
# to the processes alone, as srun would end them if it got the signal itself.
#SBATCH --signal=B:TERM@{{ grace_seconds }}

cd {{ directory | sh }} || exit 2
command=({{ command | words }})
workdir={{ workdir | sh }}
{% if array and study %}
command+=("--part=$SLURM_ARRAY_TASK_ID/{{ parts }}")
{% elif array %}
workdir+=/$SLURM_ARRAY_TASK_ID
command+=("--workdir=$workdir" "--config."{{ array_field | sh }}"=$SLURM_ARRAY_TASK_ID")
{% endif %}

say() { echo "$(date +%T) slurm.sh: $*" >&2; }
# In the background: where Slurm is ending the job already, scancel tries again for minutes.
stop() { asked=yes; say 'asked to stop'; scancel --quiet --signal=TERM "$SLURM_JOB_ID" & }
{% if study %}
newest() { ls {{ cells | sh }}/*/checkpoints {{ cells | sh }}/*/result.json 2>/dev/null | cksum; }
{% else %}
newest() { ls "$workdir/checkpoints" 2>/dev/null | sort -n | tail -n 1; }
{% endif %}
trap stop TERM

say "start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST"
before=$(newest)
# --kill-on-bad-exit=0: a process that stops with 75 must not have the others killed while they
# stop. --wait instead: those that are left are ended when the peers of a dead one must have left.
srun --kill-on-bad-exit=0 --wait={{ wait_seconds }} "${command[@]}" &
child=$!
asked=yes
while [ "$asked" ]; do asked=; wait "$child"; code=$?; done  # a trapped signal ends a wait

# srun returns the highest code of its processes. A process that fails for a reason of its own takes
# the others with it by its own code; one that is killed (137) or misses a peer (134) is higher.
case $code in
  0) say 'done'; exit 0 ;;
  {{ final_codes }})
    say "exit code $code: starting again would not help, a line 'imgjax:' above has the reason"
    exit "$code" ;;
esac
# 75: stopped and saved. 76: no progress, or a device that computes wrongly. 128 and more: a process
# was killed or missed a peer. 1 can be a lost peer too, or an error that comes every time: that is
# told by starts that save nothing.
tries={{ logs | sh }}/$SLURM_JOB_ID.tries
if [ "$code" -eq 75 ] || [ "$(newest)" != "$before" ]; then echo 0; else
  echo $(($(cat "$tries" 2>/dev/null || echo 0) + 1))
fi > "$tries.new" && mv "$tries.new" "$tries"
if [ "$(cat "$tries")" -ge {{ max_failures }} ]; then
  say "exit code $code; not started again, as {{ max_failures }} starts in a row saved nothing"
  exit "$code"
elif [ "${SLURM_RESTART_COUNT:-0}" -ge {{ max_requeues }} ]; then
  say "exit code $code; not started again: it has been restarted {{ max_requeues }} times"
  exit "$code"
fi
say "exit code $code: back to the queue"
# The job is completing where Slurm itself puts it back, or where it was cancelled: that stands.
[ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ] || exit "$code"
scontrol requeue "$SLURM_JOB_ID"
exit "$code"
